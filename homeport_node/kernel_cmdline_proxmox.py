"""systemd-boot as Proxmox keeps it: one command line, and partitions that a tool fills from it.

Standard library only. `proxmox-boot-tool refresh` copies kernels to every partition that is listed,
and writes an entry for each, with the first line of /etc/kernel/cmdline. A trial is an entry of
ours beside them; systemd-boot clears the mark for the next boot, which the firmware keeps, before
it boots. Partitions are mounted where no other process sees it, as the tool does.
"""

import re
from pathlib import Path

from homeport_node import kernel_cmdline_grub as grub
from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import Ran, read, run

UUIDS = Path("/etc/kernel/proxmox-boot-uuids")
CMDLINE_FILE = Path("/etc/kernel/cmdline")
OWN = Path("/etc/kernel/homeport-cmdline")
ONE_SHOT = Path("/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")
ENTRY = "homeport-trial.conf"
FOLDER = "EFI/homeport"
PROGRAMS = ("proxmox-boot-tool", "bootctl", "unshare", "mount")

# "sh", UUID: what else is done there follows.
_MOUNT = """\
set -e
mount "/dev/disk/by-uuid/$1" /mnt
cd /mnt
"""
_READ = "tail -n +1 loader/loader.conf loader/entries/proxmox-*.conf\n"
_WRITE = f"""\
if [ -n "$2" ]; then
  mkdir -p {FOLDER}
  cp "$2" {FOLDER}/{switch.IMAGE.name}
  sync -f {FOLDER}
fi
cat > loader/entries/{ENTRY}.new
mv loader/entries/{ENTRY}.new loader/entries/{ENTRY}
sync -f .
"""
_CLEAR = f"rm -rf loader/entries/{ENTRY} loader/entries/{ENTRY}.new {FOLDER}\nsync -f .\n"


def partitions() -> "list[str]":
    """The file systems that the tool fills, by UUID."""
    return [one for one in (read(UUIDS) or "").split() if re.fullmatch(r"[\dA-Fa-f-]{9}", one)]


def _there(script: str, uuid: str, *arguments: str, stdin: str = "") -> Ran:
    """Run shell text in the root of a partition, in a mount namespace of its own."""
    text = _MOUNT + script
    return run("unshare", "--mount", "sh", "-c", text, "sh", uuid, *arguments, stdin=stdin)


def _version(name: str) -> "list[tuple[int, str]]":
    """By what systemd-boot sorts: numbers as numbers."""
    parts = re.findall(r"\d+|[a-z]+", name)
    return [(int(one), "") if one.isdecimal() else (-1, one) for one in parts]


def default_entry(said: str) -> "dict[str, list[str]] | None":
    """{"options": [text], "linux": [path], "initrd": [path, …]} of the entry that boots by itself.

    `said` is loader.conf and the entries, each behind a line "==> its path <==", as tail has it.
    """
    parts = re.split(r"^==> ", said, flags=re.M)[1:]
    entries = {
        head.removesuffix(" <==").rpartition("/")[2]: body
        for head, _, body in (one.partition("\n") for one in parts)
    }
    wanted = re.search(r"^default\s+(\S+)", entries.pop("loader.conf", ""), re.M)
    pattern = re.escape(wanted[1] if wanted else "").replace(r"\*", ".*")
    names = [one for one in entries if re.fullmatch(pattern, one)]
    if not names:
        return None
    found: dict[str, list[str]] = {}
    for line in entries[max(names, key=_version)].splitlines():
        key, _, value = line.strip().partition(" ")
        found.setdefault(key, []).append(value.strip())
    return found if found.get("options") and found.get("linux") else None


def _entries() -> "dict[str, dict[str, list[str]] | None]":
    """The default entry on each partition."""
    said = {uuid: _there(_READ, uuid) for uuid in partitions()}
    return {uuid: default_entry(one.out) if one.ok else None for uuid, one in said.items()}


def arguments() -> "list[str] | None":
    """What boots by default: of partitions that differ, the one that is not as it should be."""
    wanted = _line()
    found = [entry["options"][0].split() if entry else None for entry in _entries().values()]
    return next((one for one in found if one != wanted), found[0] if found else None)


def _line() -> "list[str]":
    return (read(CMDLINE_FILE) or "").partition("\n")[0].split()


def marked() -> bool:
    """Whether the next boot is to be the trial."""
    return ENTRY in (read(ONE_SHOT) or "").replace("\0", "")


def fault() -> str:
    """Why a trial would not be taken back by itself, "" when it would."""
    if not ONE_SHOT.parent.is_dir():
        return "the firmware keeps no variables, so the next boot alone cannot be marked"
    if not any(one.startswith("root=") for one in _line()):
        return f"{CMDLINE_FILE} names no root, and proxmox-boot-tool does nothing without"
    return "" if partitions() else f"{UUIDS} names no partition"


def files() -> "list[Path]":
    """The files of a trial on the node's own file systems."""
    return [switch.IMAGE]


def prepare() -> str:
    """Nothing: every entry on a partition is offered."""
    return ""


def write_trial(ours: "list[str]", added: "list[str]", seconds: int) -> bool:
    """Write the trial to every partition; whether with a switch. Raises OSError."""
    for uuid, entry in _entries().items():
        if entry is None:
            raise OSError(f"{uuid}: its default entry cannot be told")
        initrds = entry.get("initrd", [])
        switched = switch.possible(initrds[-1].rpartition("/")[2] if initrds else "")
        if switched:
            grub.replace(switch.IMAGE, switch.switch_image(seconds))
            initrds = [*initrds, f"/{FOLDER}/{switch.IMAGE.name}"]
        options = [*grub.without(entry["options"][0].split(), ours), *added]
        lines = ["title    Homeport: a command line on trial", f"options  {' '.join(options)}"]
        lines += [f"linux    {entry['linux'][0]}", *(f"initrd   {one}" for one in initrds)]
        image = str(switch.IMAGE) if switched else ""
        done = _there(_WRITE, uuid, image, stdin="\n".join([*lines, ""]))
        if not done.ok:
            raise OSError(f"{uuid}: {done.err.strip()}")
    return switched


def mark() -> str:
    """Have the next boot be the trial; "" or what went wrong."""
    done = run("bootctl", "set-oneshot", ENTRY)
    return "" if done.ok and marked() else f"bootctl: {done.err.strip() or 'the mark is not there'}"


def clear() -> str:
    """Take the trial off the partitions, the mark first; "" or what went wrong."""
    if marked():
        done = run("bootctl", "set-oneshot", "")
        if not done.ok:
            return f"bootctl: {done.err.strip()}"
    for uuid in partitions():
        done = _there(_CLEAR, uuid)
        if not done.ok:
            return f"{uuid}: {done.err.strip()}"
    return ""


def set_default(parameters: "list[str]", text: str) -> str:
    """Have every boot be made with `parameters`; `text` is the file that says what is ours."""
    ours = grub.parameters_of(read(OWN))
    kept = grub.without(_line(), ours)
    rest = (read(CMDLINE_FILE) or "").partition("\n")[2]
    try:
        # Ours is what either file says: a cut between the two must lose none.
        both = [*ours, *(one for one in parameters if one not in ours)]
        grub.replace(OWN, f"parameters: {' '.join(both)}\n".encode())
        grub.replace(CMDLINE_FILE, f"{' '.join([*kept, *parameters])}\n{rest}".encode())
        done = run("proxmox-boot-tool", "refresh", timeout=600)
        if not done.ok:
            return f"proxmox-boot-tool refresh: {done.err.strip()[-600:]}"
        if text:
            grub.replace(OWN, text.encode())
        else:
            OWN.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return ""
