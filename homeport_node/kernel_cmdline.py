"""The kernel's command line under GRUB: what it is, and the trial of a new one.

Standard library only. What a node boots by is read off grub.cfg itself, never off what it was made
from. Everything that the next boot depends on is written whole beside its place, moved over it,
and brought to the disk: GRUB reads the file system without its journal.
"""

import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport_node.common import read, run

CMDLINE = Path("/proc/cmdline")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
GRUB = Path("/boot/grub")
DROP_IN = Path("/etc/default/grub.d/zz-homeport.cfg")
SCRIPT = Path("/etc/grub.d/42_homeport")
RECORD = Path("/var/lib/homeport/kernel_cmdline.json")
IMAGE = Path("/boot/homeport-trial.img")
UNITS = Path("/etc/systemd/system")
TIMER, SERVICE = "homeport-trial.timer", "homeport-trial.service"
INITRAMFS_TOOLS = Path("/usr/share/initramfs-tools/init")
DRACUT = Path("/usr/bin/dracut")
PROXMOX = Path("/etc/kernel/proxmox-boot-uuids")
LOADER_INFO = Path("/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")

ENTRY_ID = "homeport-trial"
MARK = "homeport.trial"
PANIC = 30  # seconds that a panic on trial stays on the screen
SETTLING = 120  # seconds in which a node that came up has to have started everything
# What GRUB itself can write a block of its environment to.
WRITABLE = ("ext2", "fat", "xfs")
# _IOW('f', 43, __u32), linux/fs.h's neighbour in fs/ext4/ext4.h: empties the journal (5.14).
EXT4_IOC_CHECKPOINT = 0x4004662B


# GRUB's menu ------------------------------------------------------------------------------------


@dataclass
class Entry:
    """An entry or submenu of grub.cfg: its own line, what is inside, and for a submenu what of."""

    words: "list[str]"
    body: "list[str]" = field(default_factory=list)
    entries: "list[Entry]" = field(default_factory=list)

    @property
    def submenu(self) -> bool:
        return self.words[0] == "submenu"

    @property
    def title(self) -> str:
        return self.words[1]

    @property
    def id(self) -> str:
        for option in ("$menuentry_id_option", "--id"):
            if option in self.words[:-1]:
                return self.words[self.words.index(option) + 1]
        return ""


def menu(text: str) -> "list[Entry]":
    """The menu that grub.cfg's `text` makes. Raises ValueError for a text that is not like it."""
    top: list[Entry] = []
    open_blocks: list[Entry | None] = []  # None: a function
    for line in text.splitlines():
        plain = line.strip()
        if plain.startswith(("menuentry ", "submenu ")) and plain.endswith("{"):
            entry = Entry(shlex.split(plain[:-1]))
            parents = [one for one in open_blocks if one is not None]
            (parents[-1].entries if parents else top).append(entry)
            open_blocks.append(entry)
        elif plain.endswith("{") and not plain.startswith("#"):
            open_blocks.append(None)
        elif plain == "}" and open_blocks:
            open_blocks.pop()
        elif open_blocks and open_blocks[-1] is not None:
            open_blocks[-1].body.append(line)
    return top


def default_entry(text: str, environment: "dict[str, str]") -> "Entry | None":
    """The entry that GRUB boots by itself; None when that is a submenu, or there is none."""
    names = re.findall(r'^\s*set default="([^"]*)"', text, re.M)
    name = next((one for one in reversed(names) if one != "${next_entry}"), "0")
    if name == "${saved_entry}":
        name = environment.get("saved_entry", "")
    entries, found = menu(text), None
    for depth, part in enumerate(name.split(">")):
        found = _named(entries, part)
        if found is None and depth == 0 and entries:  # GRUB then takes the first
            found = entries[0]
        if found is None or not found.submenu:
            break
        entries = found.entries
    return None if found is None or found.submenu else found


def _named(entries: "list[Entry]", name: str) -> "Entry | None":
    if name.isdecimal():
        return entries[int(name)] if int(name) < len(entries) else None
    return next((one for one in entries if name and name in (one.title, one.id)), None)


def kernel_arguments(entry: Entry) -> "list[str] | None":
    """The words after the kernel's path; None when the entry starts no Linux kernel."""
    for line in entry.body:
        words = line.split()
        if words and words[0] in ("linux", "linuxefi") and len(words) > 1:
            return words[2:]
    return None


def without(arguments: "list[str]", ours: "list[str]") -> "list[str]":
    """`arguments` less one of each of `ours`, the last one: ours stand behind the others."""
    kept = list(arguments)[::-1]
    for one in ours:
        if one in kept:
            kept.remove(one)
    return kept[::-1]


def trial_entry(entry: Entry, arguments: "list[str]", image: bool) -> str:
    """GRUB's text of an entry like `entry`, with `arguments`, and our image behind its initrd."""
    options = entry.words[2:]
    for option in ("$menuentry_id_option", "--id"):
        if option in options[:-1]:
            at = options.index(option)
            del options[at : at + 2]
    plain = " ".join(one if one.startswith("$") else shlex.quote(one) for one in options)
    lines = [f"menuentry 'Homeport: a command line on trial' {plain} --id {ENTRY_ID} {{"]
    for line in entry.body:
        words = line.split()
        if words and words[0] in ("linux", "linuxefi"):
            line = f"\t{' '.join([*words[:2], *arguments])}"
        elif words and words[0] == "initrd" and image:
            line = f"\t{' '.join([*words, image_path(words[-1])])}"
        lines.append(line)
    return "\n".join([*lines, "}", ""])


def image_path(initrd: str) -> str:
    """What GRUB calls our image: it lies beside the initrd."""
    return f"{initrd.rpartition('/')[0]}/{IMAGE.name}"


def has_initrd(entry: Entry) -> bool:
    """Whether the entry loads an initrd that lies where our image would."""
    names = [line.split()[-1] for line in entry.body if line.split()[:1] == ["initrd"]]
    return bool(names) and (IMAGE.parent / names[0].rpartition("/")[2]).is_file()


# The dead man's switch --------------------------------------------------------------------------


def switch_image(seconds: int) -> bytes:
    """A cpio archive (newc) with a piece for the /init of Debian's initramfs-tools.

    It is read there once /proc is mounted. What it starts lives on, in the kernel's first root,
    when the node's own root takes over: nothing but the kernel and its own memory is needed then.
    """
    snippet = (
        "# Homeport: a command line on trial that nobody confirms is taken back.\n"
        f"( exec 9>/proc/sysrq-trigger && sleep {seconds} && echo b >&9 )"
        " </dev/null >/dev/null 2>&1 &\n"
    )
    archive = b"".join(
        (
            _member("conf", 0o40755, b""),
            _member("conf/conf.d", 0o40755, b""),
            _member("conf/conf.d/homeport-trial", 0o100644, snippet.encode()),
            _member("TRAILER!!!", 0, b""),
        )
    )
    return archive + bytes(-len(archive) % 512)


def _member(name: str, mode: int, data: bytes) -> bytes:
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % one for one in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def switches() -> "list[int]":
    """The processes of an armed switch: they alone hold the kernel's trigger as descriptor 9."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/9"):
        with contextlib.suppress(OSError):
            if os.readlink(link).endswith("/sysrq-trigger"):  # noqa: PTH115
                found.append(int(link.parts[2]))
    return sorted(found)


# What is there ----------------------------------------------------------------------------------


def loader(arguments: "list[str]") -> "dict[str, str]":
    """{"kind": "grub" | "systemd-boot" | "", "why"}: what this boot came from, by its own traces.

    GRUB names the kernel's file to the kernel; systemd-boot names itself to the firmware.
    """
    told = (read(LOADER_INFO) or "").replace("\0", "")
    if PROXMOX.exists():
        why = f"{PROXMOX}: proxmox-boot-tool keeps the boot loader's files on partitions of its own"
        return {"kind": "proxmox", "why": why}
    if "systemd-boot" in told:
        return {"kind": "systemd-boot", "why": "the firmware was told so by systemd-boot"}
    grub = (GRUB / "grub.cfg").is_file()
    tools = all(map(shutil.which, ("grub-mkconfig", "grub-probe", "grub-editenv", "grub-reboot")))
    named = any(one.startswith("BOOT_IMAGE=") for one in arguments)
    if grub and tools and named:
        return {"kind": "grub", "why": ""}
    traces = (
        f"{GRUB / 'grub.cfg'} is {'there' if grub else 'not there'}, GRUB's programs are "
        f"{'there' if tools else 'not there'}, and the kernel was "
        f"{'started by a boot loader that names its file' if named else 'not started by GRUB'}"
    )
    return {"kind": "", "why": traces}


def environment() -> "dict[str, str]":
    """GRUB's environment block."""
    lines = run("grub-editenv", str(GRUB / "grubenv"), "list").out.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def environment_fault() -> str:
    """Why GRUB cannot write its environment block, "" when it can.

    It writes the blocks of the file in place, and not through anything that lies between.
    """
    between = run("grub-probe", "--target=abstraction", str(GRUB))
    system = run("grub-probe", "--target=fs", str(GRUB))
    if not between.ok or not system.ok:
        return (between.err or system.err).strip() or "grub-probe does not say where it lies"
    if between.out.split():
        return f"{GRUB} lies on {' on '.join(between.out.split())}, to which GRUB cannot write"
    if system.out.strip() not in WRITABLE:
        return f"{GRUB} is on {system.out.strip()}, to which GRUB cannot write"
    return ""


def parameters_of(drop_in: "str | None") -> "list[str]":
    """The parameters that our drop-in adds."""
    found = re.search(r'^GRUB_CMDLINE_LINUX_DEFAULT="\$\w+ ?(.*)"$', drop_in or "", re.M)
    return found[1].split() if found else []


def record() -> "dict[str, Any] | None":
    """What was written down of the trial when it was staged."""
    try:
        value = json.loads(RECORD.read_text())
        return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None


def own_parameters() -> "list[str]":
    """The parameters that are or were ours: a trial that was cut short wrote down the earlier."""
    facts = record() or {}
    ours = Counter(parameters_of(read(DROP_IN)))
    for earlier in (facts.get("ours", []), facts.get("parameters", [])):
        ours |= Counter(earlier)
    return list(ours.elements())


def trial_files() -> "list[Path]":
    """All the files of a trial, in the order in which they are taken away."""
    wants = UNITS / "timers.target.wants" / TIMER
    return [GRUB / f"{ENTRY_ID}.cfg", IMAGE, wants, UNITS / TIMER, UNITS / SERVICE, RECORD]


def observe(wanted: bool = True) -> "dict[str, Any]":
    """Everything about the command line: in force, by default, and on trial.

    Where nothing is `wanted`, and there is nothing of ours, nobody asks for GRUB's part of it.
    """
    arguments = (read(CMDLINE) or "").split()
    found: dict[str, Any] = {
        "loader": loader(arguments),
        "cmdline": arguments,
        "boot_id": (read(BOOT_ID) or "").strip(),
        "kernel": os.uname().release,
        "drop_in": read(DROP_IN),
        "ours": own_parameters(),
        "script": read(SCRIPT),
        "trial": record(),
        "trial_files": [str(path) for path in trial_files() if path.is_symlink() or path.exists()],
        "hook": False,
        "entry": None,
        "next_entry": "",
        "environment_fault": "",
        "switch": INITRAMFS_TOOLS.is_file() and not DRACUT.exists(),
        "armed": bool(switches()),
    }
    texts = (found["drop_in"], found["script"])
    ours = found["trial_files"] or any(one is not None for one in texts)
    if found["loader"]["kind"] == "grub" and (wanted or ours):
        text = read(GRUB / "grub.cfg") or ""
        block = environment()
        entry = _default(text, block)
        found["hook"] = f"/{ENTRY_ID}.cfg" in text
        found["entry"] = kernel_arguments(entry) if entry else None
        found["next_entry"] = block.get("next_entry", "")
        found["environment_fault"] = environment_fault()
    return found


def _default(text: str, block: "dict[str, str]") -> "Entry | None":
    try:
        return default_entry(text, block)
    except (ValueError, IndexError):
        return None


# What is done -----------------------------------------------------------------------------------


def settle(directory: Path) -> None:
    """Bring everything in the file system of `directory` to the place where GRUB looks for it."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
        run("sync", "-f", str(directory))
        with contextlib.suppress(OSError):  # ext4 alone has it
            fcntl.ioctl(handle, EXT4_IOC_CHECKPOINT, (0).to_bytes(4, "little"))
    finally:
        os.close(handle)


def replace(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write the file whole: who looks finds the old or the new one. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.homeport")
    with open(beside, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())
    beside.replace(path)
    settle(path.parent)


def update_grub() -> str:
    """Make grub.cfg anew; "" or what went wrong. Not in place, as update-grub does: a power cut
    while it writes would leave a node that does not boot."""
    path = (GRUB / "grub.cfg").resolve()
    beside = path.with_name("homeport-new.cfg")
    made = run("grub-mkconfig", "-o", str(beside), timeout=300)
    try:
        if not made.ok:
            return f"grub-mkconfig: {made.err.strip()[-600:]}"
        replace(path, beside.read_bytes(), path.stat().st_mode & 0o777)
    except OSError as error:
        return str(error)
    finally:
        beside.unlink(missing_ok=True)
        Path(f"{beside}.new").unlink(missing_ok=True)
    return ""


def failed_units() -> "list[str]":
    """The units that have failed, by name."""
    shown = run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").out
    return sorted(line.split()[0] for line in shown.splitlines() if line.split())


def has_route() -> bool:
    """Whether there is a default route, of either kind of address."""
    return any(run("ip", kind, "route", "show", "default").out.strip() for kind in ("-4", "-6"))


def disarm() -> None:
    """Take the trial's clocks away: the switch, then the timer."""
    for process in switches():
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)
    run("systemctl", "stop", TIMER)


def withdraw(*, clocks: bool = True) -> "str | None":
    """Take the trial away, whatever of it there is; its clocks run on unless `clocks`."""
    if environment().get("next_entry") == ENTRY_ID:
        cleared = run("grub-editenv", str(GRUB / "grubenv"), "unset", "next_entry")
        if not cleared.ok:
            return f"grub-editenv: {cleared.err.strip()}"
    try:
        if clocks:
            disarm()
        for path in trial_files():  # the record last: whoever comes after knows what is left
            path.unlink(missing_ok=True)
        for directory in {GRUB, RECORD.parent, UNITS}:
            if directory.is_dir():
                settle(directory)
    except OSError as error:
        return str(error)
    return None


def stage(parameters: "list[str]", seconds: int, timer: str, service: str) -> "str | None":
    """Have the next boot, and that one alone, be made with `parameters` in place of ours.

    `seconds` after its kernel began the node goes back by itself: by `timer`, and where nothing of
    the user space answers, by the switch, two minutes later.
    """
    ours = own_parameters()  # the record, which withdrawing removes, knows of some
    SCRIPT.chmod(0o755)
    fault = withdraw() or ("" if _hooked() else update_grub())
    if fault or not _hooked():
        return fault or f"{GRUB / 'grub.cfg'}: made anew, it offers no trial: {SCRIPT} was not run"
    text = read(GRUB / "grub.cfg") or ""
    entry = _default(text, environment())
    arguments = kernel_arguments(entry) if entry else None
    if entry is None or arguments is None:
        return f"{GRUB / 'grub.cfg'}: its default entry starts no Linux kernel that can be told"
    image = INITRAMFS_TOOLS.is_file() and not DRACUT.exists() and has_initrd(entry)
    mark = secrets.token_hex(8)
    words = [*without(arguments, ours), *parameters, f"{MARK}={mark}", f"panic={PANIC}"]
    facts = {
        "id": mark,
        "parameters": parameters,
        "ours": ours,
        "boot_id": (read(BOOT_ID) or "").strip(),
        "failed": failed_units(),
        "route": has_route(),
        "switch": image,
        "seconds": seconds,
    }
    try:
        replace(RECORD, json.dumps(facts).encode())
        replace(UNITS / SERVICE, service.encode())
        replace(UNITS / TIMER, timer.encode())
        wants = UNITS / "timers.target.wants" / TIMER
        wants.parent.mkdir(parents=True, exist_ok=True)
        wants.symlink_to(UNITS / TIMER)
        if image:
            replace(IMAGE, switch_image(seconds + 120))
        replace(GRUB / f"{ENTRY_ID}.cfg", trial_entry(entry, words, image).encode(), 0o600)
    except OSError as error:
        return str(error)
    if not image:
        print(
            "homeport-says no dead man's switch on this trial: the initramfs is not of "
            "initramfs-tools, or not in /boot"
        )
    once = run("grub-reboot", ENTRY_ID)
    settle(GRUB)
    return None if once.ok else f"grub-reboot: {once.err.strip()}"


def _hooked() -> bool:
    return f"/{ENTRY_ID}.cfg" in (read(GRUB / "grub.cfg") or "")


def make_default(parameters: "list[str]", drop_in: str) -> "str | None":
    """Have every boot be made with `parameters`; `drop_in` is the file's text, "" for no file."""
    dropped = without(parameters_of(read(DROP_IN)), parameters)
    try:
        if drop_in:
            replace(DROP_IN, drop_in.encode())
        elif DROP_IN.exists():
            DROP_IN.unlink()
            settle(DROP_IN.parent)
        if not parameters and SCRIPT.exists():
            SCRIPT.unlink()
    except OSError as error:
        return str(error)
    fault = update_grub()
    if fault:
        return fault
    entry = _default(read(GRUB / "grub.cfg") or "", environment())
    arguments = Counter((kernel_arguments(entry) if entry else None) or [])
    lacking = Counter(parameters) - arguments
    if lacking:
        words = " ".join(lacking)
        return f"{GRUB / 'grub.cfg'}: made anew, its default entry does not carry {words}"
    left = [one for one in dropped if one in arguments]
    if left:
        print(f"homeport-says {' '.join(left)}: still on the command line: not of ours alone")
    return None


def came_up(facts: "dict[str, Any]") -> str:
    """What is worse than when the trial was staged, "" when nothing is."""
    # Well before the trial's own clock, by which the node would go back.
    until = time.monotonic() + min(SETTLING, facts.get("seconds", 0) / 3)
    while True:
        state = run("systemctl", "is-system-running").out.strip()
        routed = has_route() or not facts.get("route")
        if state not in ("initializing", "starting") and routed:
            break
        if time.monotonic() > until:
            break
        time.sleep(2)
    if not routed:
        return "it came up without a default route"
    worse = sorted(set(failed_units()) - set(facts.get("failed", [])) - {TIMER, SERVICE})
    if worse:
        return f"units failed that had not before: {', '.join(worse)}"
    return ""


def confirm(parameters: "list[str]", drop_in: str) -> "str | None":
    """Make what is on trial the default if the node came up well; else go back to the old one."""
    facts = record() or {}
    arguments = (read(CMDLINE) or "").split()
    if f"{MARK}={facts.get('id')}" not in arguments or facts.get("parameters") != parameters:
        return "this boot is not the trial that was staged: converge again"
    lacking = Counter(parameters) - Counter(arguments)
    fault = f"not in force: {' '.join(lacking)}" if lacking else came_up(facts)
    if fault:
        away = withdraw(clocks=False)  # should the reboot hang
        run("systemctl", "--no-block", "reboot")
        return (
            f"{fault}: the node reboots into its old command line now; "
            f"`journalctl -b -1` there says more{f'; {away}' if away else ''}"
        )
    return make_default(parameters, drop_in) or withdraw()


def fell_back(parameters: "list[str]") -> "str | None":
    """Take a trial away from which the node came back by itself, and say so."""
    fault = withdraw()
    words = " ".join(parameters) or "without parameters of ours"
    return (
        f"the node went back to its old command line: it did not come up with `{words}`. "
        f"`journalctl -b -1` there shows how far it got{f'; {fault}' if fault else ''}"
    )
