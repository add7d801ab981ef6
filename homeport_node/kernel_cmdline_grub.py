"""GRUB: its menu, its environment, and how its files are brought to the disk.

Standard library only. What a node boots by is read off grub.cfg itself, never off what it was made
from. Everything that the next boot depends on is written whole beside its place, moved over it,
and brought to the disk: GRUB reads the file system without its journal.
"""

import contextlib
import fcntl
import os
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import read, run

GRUB = Path("/boot/grub")
CFG, BLOCK = GRUB / "grub.cfg", GRUB / "grubenv"
ENTRY_ID = "homeport-trial"
TRIAL = GRUB / f"{ENTRY_ID}.cfg"
OWN = Path("/etc/default/grub.d/zz-homeport.cfg")
SCRIPT = Path("/etc/grub.d/42_homeport")
PROGRAMS = ("grub-mkconfig", "grub-probe", "grub-editenv", "grub-reboot")
# What GRUB itself can write a block of its environment to.
WRITABLE = ("ext2", "fat", "xfs")
# _IOW('f', 43, __u32) of fs/ext4/ext4.h, from Linux 5.14: what the journal holds goes to its place.
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


def kernel_release(entry: "Entry | None") -> str:
    """The release in the name of the kernel's file, "" when the entry starts no Linux kernel."""
    for line in entry.body if entry else []:
        words = line.split()
        if words and words[0] in ("linux", "linuxefi") and len(words) > 1:
            return words[1].rpartition("/")[2].partition("-")[2]
    return ""


def without(arguments: "list[str]", ours: "list[str]") -> "list[str]":
    """`arguments` less one of each of `ours`, the last one: ours stand behind the others."""
    kept = list(arguments)[::-1]
    for one in ours:
        if one in kept:
            kept.remove(one)
    return kept[::-1]


def trial_entry(entry: Entry, ours: "list[str]", added: "list[str]", image: str) -> str:
    """GRUB's text of an entry like `entry`, with `added` in place of `ours` wherever it starts a
    kernel; `image` is a file beside its initrd that is to be read after it, "" for none."""
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
            line = f"\t{' '.join([*words[:2], *without(words[2:], ours), *added])}"
        elif words and words[0] == "initrd" and image:
            line = f"\t{' '.join([*words, words[-1].rpartition('/')[0]])}/{image}"
        lines.append(line)
    return "\n".join([*lines, "}", ""])


def initrd_name(entry: Entry) -> str:
    """The name of the initrd that the entry loads, the last if there are several.

    "" for none, and where it may start a kernel without: Ubuntu's cloud images try that first.
    """
    lines = [line.split() for line in entry.body if line.split()]
    names = [words[-1].rpartition("/")[2] for words in lines if words[0] == "initrd"]
    kernels = [words for words in lines if words[0] in ("linux", "linuxefi")]
    return names[0] if names and len(names) == len(kernels) else ""


def parameters_of(own: "str | None") -> "list[str]":
    """The parameters that a file of ours, a drop-in or Proxmox's, says are ours."""
    pattern = r'^(?:GRUB_CMDLINE_LINUX_DEFAULT="\$\w+ ?(.*)"|parameters: (.*))$'
    found = re.search(pattern, own or "", re.M)
    return (found[1] or found[2] or "").split() if found else []


# The node's own ---------------------------------------------------------------------------------


def environment() -> "dict[str, str]":
    """GRUB's environment block."""
    lines = run("grub-editenv", str(BLOCK), "list").out.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def fault() -> str:
    """Why a trial would not be taken back by itself, "" when it would: GRUB clears its own mark
    in its environment block, where it can write that.

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


def booted_entry() -> "Entry | None":
    """The entry of this node's menu that boots by itself; None when that cannot be told."""
    try:
        return default_entry(read(CFG) or "", environment())
    except (ValueError, IndexError):
        return None


def hooked() -> bool:
    """Whether this node's menu offers a trial while there is one."""
    return f"/{ENTRY_ID}.cfg" in (read(CFG) or "")


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
    path = CFG.resolve()
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


# What a boot loader does for a trial ------------------------------------------------------------


def arguments() -> "list[str] | None":
    """What boots by default; None when that cannot be told."""
    entry = booted_entry()
    return kernel_arguments(entry) if entry else None


def marked() -> bool:
    """Whether the next boot is to be the trial."""
    return environment().get("next_entry") == ENTRY_ID


def files() -> "list[Path]":
    """The files of a trial, in the order in which they are taken away."""
    return [TRIAL, switch.IMAGE]


def prepare() -> str:
    """Have the menu offer a trial while there is one; "" or what went wrong."""
    SCRIPT.chmod(0o755)
    words = "" if hooked() else update_grub()
    return words or ("" if hooked() else f"{CFG}: made anew, it offers no trial: {SCRIPT} did not")


def write_trial(ours: "list[str]", added: "list[str]", seconds: int) -> bool:
    """Write the trial: the default entry with `added` in place of `ours`. Raises OSError.

    Answers whether it has a switch, which pulls after `seconds`.
    """
    entry = booted_entry()
    if entry is None or kernel_arguments(entry) is None:
        raise OSError(f"{CFG}: its default entry starts no Linux kernel that can be told")
    switched = switch.possible(initrd_name(entry))
    if switched:
        replace(switch.IMAGE, switch.switch_image(seconds))
    text = trial_entry(entry, ours, added, switch.IMAGE.name if switched else "")
    replace(TRIAL, text.encode(), 0o600)
    return switched


def mark() -> str:
    """Have the next boot be the trial; "" or what went wrong."""
    done = run("grub-reboot", ENTRY_ID)
    settle(GRUB)
    return "" if done.ok else f"grub-reboot: {done.err.strip()}"


def clear() -> str:
    """Have the next boot be as every other; "" or what went wrong."""
    if not marked():
        return ""
    done = run("grub-editenv", str(BLOCK), "unset", "next_entry")
    return "" if done.ok else f"grub-editenv: {done.err.strip()}"


def set_default(parameters: "list[str]", text: str) -> str:
    """Have every boot be made with `parameters`; `text` is the drop-in's, "" for no drop-in."""
    try:
        if text:
            replace(OWN, text.encode())
        elif OWN.exists():
            OWN.unlink()
            settle(OWN.parent)
        if not parameters:
            SCRIPT.unlink(missing_ok=True)
    except OSError as error:
        return str(error)
    return update_grub()
