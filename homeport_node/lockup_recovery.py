"""What restarts a machine that hangs: sysctls, and the watchdog that systemd holds.

Standard library only. A kernel may have a sysctl and refuse to set it: kernel.nmi_watchdog where
the processor counts no events, as in many virtual machines. That is found out by trying, and
written down for this kernel.
"""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

from homeport_node.common import (
    TRIAL_MARK,
    dropins,
    own_files,
    read,
    run,
    show_units,
    write_whole,
)

CMDLINE = Path("/proc/cmdline")
SYSCTLS = Path("/proc/sys")
RECORD = Path("/var/lib/homeport/lockup_recovery.json")
CLASS = Path("/sys/class/watchdog")
MODULES = Path("/sys/module")
MANAGER_FILES = Path("/proc/1/fd")
UNIT = "homeport-watchdog.service"
# Proxmox's own keeper of the watchdog, for its high availability.
MUX = "watchdog-mux.service"
MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1")
PROPERTY = (*MANAGER, "org.freedesktop.systemd1.Manager", "RuntimeWatchdogUSec")
ENOTSUPP = 524  # the kernel's own, which no C library knows
# A newer kernel that cannot find a hard lock-up lets nobody write the sysctl (kernel/watchdog.c).
UNABLE = (ENOTSUPP, errno.EOPNOTSUPP, errno.EACCES)


def record() -> "dict[str, Any]":
    """{"kernel", "refused": [name], "before": {name: value}}: what this kernel did not take, and
    what was in force before we came."""
    try:
        value = json.loads(read(RECORD) or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _write_record(value: "dict[str, Any]") -> None:
    write_whole(RECORD, json.dumps(value).encode(), 0o644)


def _place(name: str) -> Path:
    return SYSCTLS / name.replace(".", "/")


def _value(name: str) -> "str | None":
    text = read(_place(name))
    return None if text is None else text.strip()


def refused() -> "list[str]":
    """The sysctls that the running kernel did not take."""
    known = record()
    return list(known.get("refused", [])) if known.get("kernel") == os.uname().release else []


def watchdog_seconds() -> int:
    """How long systemd lets the watchdog wait; 0 for never."""
    words = run("busctl", "get-property", *PROPERTY).out.split()
    usec = int(words[1]) if len(words) == 2 and words[1].isdecimal() else 0
    return 0 if usec >= 2**64 - 1 else usec // 1_000_000


def held() -> bool:
    """Whether systemd has a watchdog's device open."""
    links = MANAGER_FILES.iterdir() if MANAGER_FILES.is_dir() else ()
    return any(_target(link).startswith("/dev/watchdog") for link in links)


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


def observe(files: "list[str]", sysctls: "list[str]", module: str) -> "dict[str, Any]":
    """Everything about it; `files` are ours, `module` the watchdog's driver or ""."""
    devices = sorted(CLASS.iterdir()) if CLASS.is_dir() else []
    shown = show_units(UNIT, MUX)
    unit, mux = shown.get(UNIT, {}), shown.get(MUX, {})
    return {
        "files": own_files(files),
        "sysctls": {name: _value(name) for name in sysctls},
        "refused": refused(),
        "record": RECORD.exists(),
        "left": {name: value for name, value in _before().items() if name not in sysctls},
        "watchdogs": [(read(one / "identity") or one.name).strip() for one in devices],
        "module": bool(module) and (MODULES / module.replace("-", "_")).is_dir(),
        "held": held(),
        "seconds": watchdog_seconds(),
        "enabled": unit.get("UnitFileState") == "enabled",
        "dropins": dropins(unit) if unit else [],
        "mux": mux.get("ActiveState") == "active" or mux.get("UnitFileState") == "enabled",
    }


def _earlier(name: str) -> "str | None":
    """What is in force for `name`, but for what a command line on trial adds for its boot alone."""
    words = (read(CMDLINE) or "").split()
    if name != "kernel.panic" or not any(one.startswith(f"{TRIAL_MARK}=") for one in words):
        return _value(name)
    given = [one.partition("=")[2] for one in words if one.startswith("panic=")]
    return ["0", *given][-2]


def set_sysctls(values: "dict[str, str]") -> "str | None":
    """Put `values` into force, and write down what was there before, and what is refused.

    Before the first is set, so that whatever stops this, nothing is set whose value before is lost.
    """
    before, unable = _before(), refused()
    for name in values:
        before.setdefault(name, _earlier(name))
    kernel = os.uname().release
    try:
        _write_record({"kernel": kernel, "refused": unable, "before": before})
        for name, value in values.items():
            try:
                _place(name).write_text(f"{value}\n")
            except OSError as error:
                if error.errno not in UNABLE:
                    return f"{name}: {error.strerror}"
                unable.append(name)
                print(f"homeport-says {name}={value} is not in force: this machine cannot do it")
        _write_record({"kernel": kernel, "refused": sorted({*unable}), "before": before})
    except OSError as error:
        return str(error)
    return None


def hold(module: str) -> "str | None":
    """Have systemd hold the watchdog, now and after every boot."""
    for words in (("daemon-reload",), ("enable", UNIT), ("restart", UNIT)):
        done = run("systemctl", *words, timeout=60)
        if not done.ok:
            why = run("journalctl", "-u", UNIT, "-n", "3", "-o", "cat", "--no-pager").out.strip()
            return f"systemctl {' '.join(words)}: {done.err.strip()}: {why}"
    if not held():
        there = f"{module} is loaded, and" if module else "no driver was named, and"
        return f"systemd holds no watchdog: {there} {CLASS} has {_names() or 'no device'}"
    return None


def _names() -> str:
    return ", ".join(one.name for one in sorted(CLASS.iterdir())) if CLASS.is_dir() else ""


def let_go(file: str, conf: str) -> "str | None":
    """Have systemd close the watchdog, and take its unit (`file`) and setting away."""
    loads = re.search(r"^ExecStart=\S*modprobe (\S+)$", read(file) or "", re.M)
    run("systemctl", "disable", "--now", UNIT)
    for path in (file, conf):
        Path(path).unlink(missing_ok=True)
    closed = run("busctl", "set-property", *PROPERTY, "t", "0")
    run("systemctl", "daemon-reload", timeout=60)
    if loads:
        run("modprobe", "-r", loads[1])
    return None if closed.ok else f"busctl: {closed.err.strip()}"


def _before() -> "dict[str, str | None]":
    """What was in force before ours."""
    return dict(record().get("before", {}))


def give_back(names: "list[str]") -> "str | None":
    """Put back into force what was before ours, for `names`."""
    known, before = record(), _before()
    try:
        for name in names:
            value = before.pop(name, None)
            if value is not None and _value(name) != value:
                _place(name).write_text(f"{value}\n")
        _write_record({**known, "before": before})
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return None


def restore(file: str) -> "str | None":
    """Take our sysctls back: the `file`, and what was in force before it."""
    try:
        Path(file).unlink(missing_ok=True)
        names = [*_before()]
        words = give_back(names) if names else None
        if words is None:
            RECORD.unlink(missing_ok=True)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return words
