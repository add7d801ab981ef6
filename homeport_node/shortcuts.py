"""Answers to the commands of common facts, without the shells and tools that they would start.

pyinfra asks for each file with a shell, `test` and `stat`, each of a process of its own: some 5 ms
of a node's processor, where the system call takes 5 µs. The desk (`homeport/shortcuts.py`)
recognises such a command by making pyinfra's own text for its arguments, and the functions here
say byte for byte what that command would. Where something is out of the ordinary they do not try:
they return None, and the command itself is run.

Like `gather.py`, this is sent over standard input and imports the standard library alone.
"""

import grp
import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

# What no quoting of a shell or of `stat` touches; the desk sends no other paths.
PLAIN = re.compile(r"[A-Za-z0-9_./@%+=:,-]+")
# Account names in which `grep ^name:` finds that name alone.
NAME = re.compile(r"[a-z_][a-z0-9_-]*")
# Bytes of one file that are read here. `sha1sum` of a larger one may run beside the others.
LARGE = 1 << 22


def file_status(path: str) -> "str | None":
    """What `stat` with pyinfra's format says of `path`, a link itself; "" when there is none."""
    try:
        found = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    shown = f"'{path}'"
    if stat.S_ISLNK(found.st_mode):
        target = os.readlink(path)  # noqa: PTH115  # a Path would tidy it up
        if not PLAIN.fullmatch(target):
            return None
        shown += f" -> '{target}'"
    if "QUOTING_STYLE" in os.environ:  # stat(1) quotes as it says
        return None
    times = [value // 10**9 for value in (found.st_atime_ns, found.st_mtime_ns, found.st_ctime_ns)]
    return (
        f"user={_user(found.st_uid)} group={_group(found.st_gid)} "
        f"mode={stat.filemode(found.st_mode)} "
        f"atime={times[0]} mtime={times[1]} ctime={times[2]} size={found.st_size} {shown}\n"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return "UNKNOWN"


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return "UNKNOWN"


def _small(path: str) -> "bytes | None":
    """The content of a regular file of no more than `LARGE` bytes, None for anything else."""
    found = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(found.st_mode) or found.st_size > LARGE:
        return None
    with open(path, "rb") as file:
        content = file.read(LARGE + 1)  # it may grow, and those of /proc have no size
    return content if len(content) <= LARGE else None


def sha1(path: str) -> "str | None":
    """What `sha1sum` says of `path`; "" when there is none."""
    try:
        content = _small(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    return None if content is None else f"{hashlib.sha1(content).hexdigest()}  {path}\n"


def lines(path: str, pattern: str, none: str) -> "str | None":
    """What `grep` says, or `none` and a newline when no line of the file matches.

    `pattern` means the same to `grep` and to `re`: the desk has seen to that.
    """
    content = _small(path)
    if content is None or not content.isascii() or b"\0" in content:
        return None
    wanted = re.compile(pattern)
    all_lines = content.decode().split("\n")
    if not all_lines[-1]:
        all_lines.pop()
    found = [line for line in all_lines if wanted.search(line)]
    return "".join(f"{line}\n" for line in found or [none])


def accounts() -> "str | None":
    """What pyinfra's loop over /etc/passwd says: each line with group, groups and password."""
    if shutil.which("lastlog") or shutil.which("lastlogin"):
        return None
    with open("/etc/passwd") as file:
        entries = file.read().splitlines()
    names = [entry.partition(":")[0] for entry in entries]
    if len(set(names)) != len(names) or not all(NAME.fullmatch(name) for name in names):
        return None
    passwords: dict[str, str] = {}
    with open("/etc/shadow") as file:
        for line in file.read().splitlines():
            name, _, rest = line.partition(":")
            passwords.setdefault(name, rest.partition(":")[0])
    said = []
    for name, entry in zip(names, entries, strict=True):
        account = pwd.getpwnam(name)
        numbers = os.getgrouplist(name, account.pw_gid)
        groups = [grp.getgrgid(n).gr_name for n in dict.fromkeys([account.pw_gid, *numbers])]
        said.append(f"{entry}|{groups[0]}|{' '.join(groups)}||{passwords.get(name, '')}\n")
    text = "".join(said)
    # The shell's echo takes a backslash for an escape, and grep what is no text in the locale.
    return text if text.isascii() and "\\" not in text else None


class Units:
    """What `systemctl show` says of units: asked once for all of them, when the first is."""

    def __init__(self, wanted: "list[list[str]]") -> None:
        self.wanted = wanted  # pairs of property and unit
        self.said: dict[str, list[str]] | None = None

    def __call__(self, name: str, unit: str) -> "str | None":
        """The lines for "Id" and the property `name` of `unit`."""
        if self.said is None:
            self.said = self._ask()
        found = self.said.get(unit)
        keep = ("Id=", f"{name}=")
        if not found:
            return None
        return "".join(f"{line}\n" for line in found if line.startswith(keep))

    def _ask(self) -> "dict[str, list[str]]":
        names = sorted({name for name, _ in self.wanted})
        units = list(dict.fromkeys(unit for _, unit in self.wanted))
        words = ["systemctl", "show", "--all", "--property", "Id"]
        for name in names:
            words += ["--property", name]
        done = subprocess.run(
            [*words, *units], stdin=subprocess.DEVNULL, capture_output=True, check=False
        )
        blocks = done.stdout.decode().split("\n\n")
        if done.returncode or done.stderr or len(blocks) != len(units):
            return {}
        return dict(zip(units, [block.splitlines() for block in blocks], strict=True))


KINDS: "dict[str, Callable[..., str | None]]" = {
    "status": file_status,
    "sha1": sha1,
    "lines": lines,
    "accounts": accounts,
}


def answer(kind: str, arguments: "list[str]", command: str) -> "list[Any] | None":
    """[exit status, stdout, stderr] of `command`, which is `kind` of `arguments`.

    None when it is run and says what is not UTF-8.
    """
    try:
        said = KINDS[kind](*arguments)
    except (OSError, ValueError, KeyError):
        said = None
    if said is not None:
        return [0, said, ""]
    done = subprocess.run(
        ["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    try:
        return [done.returncode, done.stdout.decode(), done.stderr.decode()]
    except UnicodeDecodeError:
        return None


def answers(asked: "list[list[Any]]") -> "Iterator[list[Any] | None]":
    """The answer to each [kind, arguments, command] of `asked`."""
    KINDS["unit"] = Units([arguments for kind, arguments, _ in asked if kind == "unit"])
    for kind, arguments, command in asked:
        yield answer(kind, arguments, command)
