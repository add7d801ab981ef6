"""Why the node must reboot, told by the node alone. Standard library only.

A capability that waits for a reboot adds a function here, under its stem in `REASONS`: it returns
why, in words, or "" for no reason. What must be right before the node may go down, so that it comes
up as it should, is under the same stem in `FAULTS`.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homeport_node.common import read, run

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
CMDLINE = Path("/proc/cmdline")
TRIAL = Path("/var/lib/homeport/kernel_cmdline.json")
GRUB_BLOCK = Path("/boot/grub/grubenv")
TRIAL_ENTRY = "homeport-trial"


def boot_id() -> str:
    """What tells this boot from every other."""
    return (read(BOOT_ID) or "").strip()


def _trial() -> "dict[str, Any]":
    """The trial of a command line that was staged in this boot; {} when there is none."""
    try:
        value = json.loads(read(TRIAL) or "")
    except ValueError:
        return {}
    return value if isinstance(value, dict) and value.get("boot_id") == boot_id() else {}


def kernel_cmdline() -> str:
    """A command line was staged in this boot, and none but the next boot can try it."""
    trial = _trial()
    if not trial:
        return ""
    words = " ".join(map(str, trial.get("parameters", ()))) or "nothing of ours"
    return f"the command line to be tried: {words}"


def kernel_cmdline_fault() -> str:
    """A staged command line that the boot menu does not choose would not be tried."""
    if not _trial():
        return ""
    lines = run("grub-editenv", str(GRUB_BLOCK), "list").out.splitlines()
    if f"next_entry={TRIAL_ENTRY}" in lines:
        return ""
    return f"{GRUB_BLOCK}: the next boot is not marked to be the trial"


REASONS: "Mapping[str, Callable[[], str]]" = {"kernel_cmdline": kernel_cmdline}
FAULTS: "Mapping[str, Callable[[], str]]" = {"kernel_cmdline": kernel_cmdline_fault}


def observe() -> "dict[str, Any]":
    """{"boot_id", "reasons": {stem: why}, "faults": {stem: why not yet}}."""
    return {
        "boot_id": boot_id(),
        "reasons": {stem: why for stem, ask in REASONS.items() if (why := ask())},
        "faults": {stem: why for stem, ask in FAULTS.items() if (why := ask())},
    }
