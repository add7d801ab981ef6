"""The kernel's command line: what it is, and the trial of a new one.

Standard library only. A trial is wholly on the node's disk, and whoever looks can tell from there
and from the boot that runs how it stands: a run that was cut off is gone on with by the next.
"""

import json
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from homeport_node import kernel_cmdline_grub as grub
from homeport_node import kernel_cmdline_proxmox as proxmox
from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import TRIAL_MARK as MARK
from homeport_node.common import own_files, read, run

CMDLINE = Path("/proc/cmdline")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
RECORD = Path("/var/lib/homeport/kernel_cmdline.json")
UNITS = Path("/etc/systemd/system")
TIMER, SERVICE = "homeport-trial.timer", "homeport-trial.service"
LOADER_INFO = Path("/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")

PANIC = 30  # seconds that a panic on trial stays on the screen
SWITCH_LATER = 120  # seconds from the timer to the switch
SETTLING = 120  # seconds in which a node that came up has to have started everything
RESERVE = 30  # seconds before the timer by which the node is judged
# dracut waits for a person where a root is not found, unless it is told: dracut.cmdline(7).
OF_DRACUT = ("rd.shell=0", "rd.emergency=reboot")

LOADERS: "Mapping[str, Any]" = {"grub": grub, "systemd-boot": proxmox}


# What is there ----------------------------------------------------------------------------------


def loader(arguments: "list[str]") -> "dict[str, str]":
    """{"kind": "grub" | "systemd-boot" | "", "why"}: what this boot came from, by its own traces.

    GRUB names the kernel's file to the kernel; systemd-boot names itself to the firmware.
    """
    told = (read(LOADER_INFO) or "").replace("\0", "")
    kept = f"{proxmox.UUIDS}: proxmox-boot-tool keeps the boot loader's files"
    if "systemd-boot" in told:
        if not proxmox.UUIDS.exists():
            return {"kind": "", "why": "it was systemd-boot, and not one that Proxmox keeps"}
        lacking = [one for one in proxmox.PROGRAMS if not shutil.which(one)]
        why = f"{kept}, and {', '.join(lacking)} is not installed" if lacking else ""
        return {"kind": "" if lacking else "systemd-boot", "why": why}
    if proxmox.UUIDS.exists():
        return {"kind": "", "why": f"{kept}, and it was not systemd-boot"}
    cfg, tools = grub.CFG.is_file(), all(map(shutil.which, grub.PROGRAMS))
    named = any(one.startswith("BOOT_IMAGE=") for one in arguments)
    if cfg and tools and named:
        return {"kind": "grub", "why": ""}
    traces = (
        f"{grub.CFG} is {'there' if cfg else 'not there'}, GRUB's programs are "
        f"{'there' if tools else 'not there'}, and the kernel was "
        f"{'started by a boot loader that names its file' if named else 'not started by GRUB'}"
    )
    return {"kind": "", "why": traces}


def boot_loader() -> Any:
    """The module for this node's boot loader; GRUB's where it cannot be told: its files are then
    not there, and whoever changes something has asked before."""
    return LOADERS.get(loader((read(CMDLINE) or "").split())["kind"], grub)


def record() -> "dict[str, Any] | None":
    """What was written down of the trial when it was staged."""
    try:
        value = json.loads(RECORD.read_text())
        return value if isinstance(value, dict) else None
    except (OSError, ValueError):
        return None


def own_parameters(boot: Any) -> "list[str]":
    """The parameters by default that are or were ours: of a change that was cut short, both."""
    ours: Counter[str] = Counter(grub.parameters_of(read(boot.OWN)))
    ours |= Counter((record() or {}).get("ours", []))
    return list(ours.elements())


def trial_files(boot: Any) -> "list[Path]":
    """All the files of a trial, in the order in which they are taken away."""
    wants = UNITS / "timers.target.wants" / TIMER
    return [*boot.files(), wants, UNITS / TIMER, UNITS / SERVICE, RECORD]


def observe(wanted: "list[str]") -> "dict[str, Any]":
    """Everything about the command line: in force, by default, and on trial.

    Where nothing is `wanted`, and there is nothing of ours, the boot loader is not asked; and what
    would stand in the way of a trial only where there may be need of one.
    """
    arguments, boot = (read(CMDLINE) or "").split(), boot_loader()
    there = [path for path in trial_files(boot) if path.is_symlink() or path.exists()]
    found: dict[str, Any] = {
        "loader": loader(arguments),
        "cmdline": arguments,
        "boot_id": (read(BOOT_ID) or "").strip(),
        "files": own_files(map(str, (boot.OWN, grub.SCRIPT))),
        "ours": own_parameters(boot),
        "trial": record(),
        "trial_files": [str(path) for path in there],
        "entry": None,
        "marked": False,
        "fault": "",
    }
    if found["loader"]["kind"] and (wanted or there or found["files"]):
        found |= {"entry": boot.arguments(), "marked": boot.marked()}
        other = {*wanted} - {*arguments} or {*found["ours"]} - {*wanted}
        found["fault"] = boot.fault() if other or found["trial"] else ""
    return found


# What is done -----------------------------------------------------------------------------------


def failed_units() -> "list[str]":
    """The units that have failed, by name."""
    shown = run("systemctl", "list-units", "--failed", "--plain", "--no-legend", "--no-pager").out
    return sorted(line.split()[0] for line in shown.splitlines() if line.split())


def has_route() -> bool:
    """Whether there is a default route, of either kind of address."""
    return any(run("ip", kind, "route", "show", "default").out.strip() for kind in ("-4", "-6"))


def withdraw(*, clocks: bool = True) -> "str | None":
    """Take the trial away, whatever of it there is; its clocks run on unless `clocks`."""
    boot = boot_loader()
    words = boot.clear()
    if words:
        return str(words)
    try:
        if clocks:
            switch.disarm()
            run("systemctl", "stop", TIMER)
        for path in trial_files(boot):  # the record last: whoever comes after knows what is left
            path.unlink(missing_ok=True)
        for directory in (grub.GRUB, RECORD.parent, UNITS):
            if directory.is_dir():
                grub.settle(directory)
    except OSError as error:
        return str(error)
    return None


def stage(parameters: "list[str]", seconds: int, timer: str, service: str) -> "str | None":
    """Have the next boot, and that one alone, be made with `parameters` in place of ours.

    `seconds` after its kernel began the node goes back by itself: by `timer`, and where nothing of
    the user space answers, by the switch, two minutes later.
    """
    boot = boot_loader()
    ours = own_parameters(boot)  # the record, which withdrawing removes, knows of some
    earlier = record() or {}
    known = {*ours, *earlier.get("parameters", []), *earlier.get("known", [])}
    facts = {
        "id": secrets.token_hex(8),
        "parameters": parameters,
        "ours": ours,
        "known": sorted(known),  # this boot may be the trial of others
        "boot_id": (read(BOOT_ID) or "").strip(),
        "failed": failed_units(),
        "route": has_route(),
        "seconds": seconds,
    }
    added = [*parameters, f"{MARK}={facts['id']}", f"panic={PANIC}"]
    added += OF_DRACUT if switch.DRACUT.exists() else ()
    if earlier.get("parameters") == parameters and earlier.get("boot_id") != facts["boot_id"]:
        print("homeport-says the node went back from this command line before: it is tried again")
    try:
        words = withdraw() or boot.prepare()
        if words:
            return str(words)
        _write_record(facts, timer, service)
        if not boot.write_trial(ours, added, seconds + SWITCH_LATER):
            print(
                "homeport-says no dead man's switch on this trial: the initramfs is not of "
                "initramfs-tools, or not in /boot"
            )
    except OSError as error:
        return str(error)
    return boot.mark() or None


def _write_record(facts: "dict[str, Any]", timer: str, service: str) -> None:
    """Write the record of a trial, and then its timer. Raises OSError."""
    grub.replace(RECORD, json.dumps(facts).encode())
    grub.replace(UNITS / SERVICE, service.encode())
    grub.replace(UNITS / TIMER, timer.encode())
    wants = UNITS / "timers.target.wants" / TIMER
    wants.parent.mkdir(parents=True, exist_ok=True)
    wants.symlink_to(UNITS / TIMER)


def make_default(parameters: "list[str]", own: str) -> "str | None":
    """Have every boot be made with `parameters`; `own` is the text of our file, "" for none."""
    boot = boot_loader()
    dropped = grub.without(grub.parameters_of(read(boot.OWN)), parameters)
    words = boot.set_default(parameters, own)
    if words:
        return str(words)
    arguments = Counter(boot.arguments() or [])
    lacking = Counter(parameters) - arguments
    if lacking:
        return f"the default entry was made anew, and does not carry {' '.join(lacking)}"
    left = [one for one in dropped if one in arguments]
    if left:
        print(f"homeport-says {' '.join(left)}: still on the command line: not of ours alone")
    return None


def came_up(facts: "dict[str, Any]") -> str:
    """What is worse than when the trial was staged, "" when nothing is."""
    # Well before the trial's own clock, which began with the boot, as this one did.
    now, seconds = time.monotonic(), facts.get("seconds", 0)
    until = now + min(SETTLING, seconds / 3, seconds - RESERVE - now)
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


def confirm(parameters: "list[str]", own: str) -> "str | None":
    """Make what is on trial the default if the node came up well; else go back to the old one."""
    facts = record() or {}
    arguments = (read(CMDLINE) or "").split()
    if f"{MARK}={facts.get('id')}" not in arguments or facts.get("parameters") != parameters:
        return "this boot is not the trial that was staged: converge again"
    lacking = Counter(parameters) - Counter(arguments)
    fault = f"not in force: {' '.join(lacking)}" if lacking else came_up(facts)
    if fault:
        away = withdraw(clocks=False)  # should the reboot hang
        # Whoever holds a lock on reboots, such as apt's, would keep the bad command line for good.
        went = run("systemctl", "-i", "--no-block", "reboot")
        when = "now" if went.ok else f"at the next reboot ({went.err.strip()})"
        return (
            f"{fault}: the node reboots into its old command line {when}; "
            f"`journalctl -b -1` there says more{f'; {away}' if away else ''}"
        )
    # Its clocks would cut a slow boot loader's tool short half way. Whatever happens from here, the
    # next boot is of the default entry, the old one or the new.
    switch.disarm()
    run("systemctl", "stop", TIMER)
    return make_default(parameters, own) or withdraw()


def fell_back(parameters: "list[str]") -> "str | None":
    """Take a trial away from which the node came back by itself, and say so."""
    fault = withdraw()
    words = " ".join(parameters) or "without parameters of ours"
    return (
        f"the node went back to its old command line: it did not come up with `{words}`. "
        f"`journalctl -b -1` there shows how far it got{f'; {fault}' if fault else ''}"
    )
