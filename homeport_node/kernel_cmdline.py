"""The kernel's command line under GRUB: what it is, and the trial of a new one.

Standard library only. A trial is wholly on the node's disk, and whoever looks can tell from there
and from the boot that runs how it stands: a run that was cut off is gone on with by the next.
"""

import json
import os
import re
import secrets
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

from homeport_node import kernel_cmdline_grub as grub
from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import read, run

CMDLINE = Path("/proc/cmdline")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
DROP_IN = Path("/etc/default/grub.d/zz-homeport.cfg")
SCRIPT = Path("/etc/grub.d/42_homeport")
RECORD = Path("/var/lib/homeport/kernel_cmdline.json")
UNITS = Path("/etc/systemd/system")
TIMER, SERVICE = "homeport-trial.timer", "homeport-trial.service"
PROXMOX = Path("/etc/kernel/proxmox-boot-uuids")
LOADER_INFO = Path("/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f")

MARK = "homeport.trial"
PANIC = 30  # seconds that a panic on trial stays on the screen
SWITCH_LATER = 120  # seconds from the timer to the switch
SETTLING = 120  # seconds in which a node that came up has to have started everything


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
    cfg = grub.CFG.is_file()
    tools = all(map(shutil.which, ("grub-mkconfig", "grub-probe", "grub-editenv", "grub-reboot")))
    named = any(one.startswith("BOOT_IMAGE=") for one in arguments)
    if cfg and tools and named:
        return {"kind": "grub", "why": ""}
    traces = (
        f"{grub.CFG} is {'there' if cfg else 'not there'}, GRUB's programs are "
        f"{'there' if tools else 'not there'}, and the kernel was "
        f"{'started by a boot loader that names its file' if named else 'not started by GRUB'}"
    )
    return {"kind": "", "why": traces}


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
    return [grub.TRIAL, switch.IMAGE, wants, UNITS / TIMER, UNITS / SERVICE, RECORD]


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
        "entry": None,
        "next_entry": "",
        "environment_fault": "",
    }
    texts = (found["drop_in"], found["script"])
    ours = found["trial_files"] or any(one is not None for one in texts)
    if found["loader"]["kind"] == "grub" and (wanted or ours):
        entry = grub.booted_entry()
        found["entry"] = grub.kernel_arguments(entry) if entry else None
        found["next_entry"] = grub.environment().get("next_entry", "")
        found["environment_fault"] = grub.environment_fault()
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
    if grub.environment().get("next_entry") == grub.ENTRY_ID:
        cleared = run("grub-editenv", str(grub.BLOCK), "unset", "next_entry")
        if not cleared.ok:
            return f"grub-editenv: {cleared.err.strip()}"
    try:
        if clocks:
            switch.disarm()
            run("systemctl", "stop", TIMER)
        for path in trial_files():  # the record last: whoever comes after knows what is left
            path.unlink(missing_ok=True)
        for directory in {grub.GRUB, RECORD.parent, UNITS}:
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
    ours = own_parameters()  # the record, which withdrawing removes, knows of some
    SCRIPT.chmod(0o755)
    fault = withdraw() or ("" if grub.hooked() else grub.update_grub())
    if fault or not grub.hooked():
        return fault or f"{grub.CFG}: made anew, it offers no trial: {SCRIPT} was not run"
    entry = grub.booted_entry()
    arguments = grub.kernel_arguments(entry) if entry else None
    if entry is None or arguments is None:
        return f"{grub.CFG}: its default entry starts no Linux kernel that can be told"
    switched = switch.possible(grub.initrd_name(entry))
    facts = {
        "id": secrets.token_hex(8),
        "parameters": parameters,
        "ours": ours,
        "boot_id": (read(BOOT_ID) or "").strip(),
        "failed": failed_units(),
        "route": has_route(),
        "seconds": seconds,
    }
    words = [*grub.without(arguments, ours), *parameters, f"{MARK}={facts['id']}", f"panic={PANIC}"]
    text = grub.trial_entry(entry, words, switch.IMAGE.name if switched else "")
    try:
        _write_trial(facts, timer, service, text, seconds + SWITCH_LATER if switched else 0)
    except OSError as error:
        return str(error)
    once = run("grub-reboot", grub.ENTRY_ID)
    grub.settle(grub.GRUB)
    return None if once.ok else f"grub-reboot: {once.err.strip()}"


def _write_trial(
    facts: "dict[str, Any]", timer: str, service: str, text: str, switch_seconds: int
) -> None:
    """Write the files of a trial, the record first. Raises OSError."""
    grub.replace(RECORD, json.dumps(facts).encode())
    grub.replace(UNITS / SERVICE, service.encode())
    grub.replace(UNITS / TIMER, timer.encode())
    wants = UNITS / "timers.target.wants" / TIMER
    wants.parent.mkdir(parents=True, exist_ok=True)
    wants.symlink_to(UNITS / TIMER)
    if switch_seconds:
        grub.replace(switch.IMAGE, switch.switch_image(switch_seconds))
    else:
        print(
            "homeport-says no dead man's switch on this trial: the initramfs is not of "
            "initramfs-tools, or not in /boot"
        )
    grub.replace(grub.TRIAL, text.encode(), 0o600)


def make_default(parameters: "list[str]", drop_in: str) -> "str | None":
    """Have every boot be made with `parameters`; `drop_in` is the file's text, "" for no file."""
    dropped = grub.without(parameters_of(read(DROP_IN)), parameters)
    try:
        if drop_in:
            grub.replace(DROP_IN, drop_in.encode())
        elif DROP_IN.exists():
            DROP_IN.unlink()
            grub.settle(DROP_IN.parent)
        if not parameters and SCRIPT.exists():
            SCRIPT.unlink()
    except OSError as error:
        return str(error)
    fault = grub.update_grub()
    if fault:
        return fault
    entry = grub.booted_entry()
    arguments = Counter((grub.kernel_arguments(entry) if entry else None) or [])
    lacking = Counter(parameters) - arguments
    if lacking:
        words = " ".join(lacking)
        return f"{grub.CFG}: made anew, its default entry does not carry {words}"
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
