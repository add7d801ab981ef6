"""Why the node must reboot, told by the node alone. Standard library only.

A capability that waits for a reboot adds a function here, under its stem in `REASONS`: it returns
why, in words, or "" for no reason. What must be right before the node may go down, so that it comes
up as it should, is under the same stem in `FAULTS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from homeport_node import kernel_cmdline as command_line
from homeport_node import nvidia
from homeport_node.common import read

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """What tells this boot from every other."""
    return (read(BOOT_ID) or "").strip()


def _trial() -> "dict[str, Any]":
    """The trial of a command line that was staged in this boot; {} when there is none."""
    value = command_line.record() or {}
    return value if value.get("boot_id") == boot_id() else {}


def kernel_cmdline() -> str:
    """A command line was staged in this boot, and none but the next boot can try it."""
    trial = _trial()
    if not trial:
        return ""
    words = " ".join(map(str, trial.get("parameters", ()))) or "nothing of ours"
    return f"the command line to be tried: {words}"


def kernel_cmdline_fault() -> str:
    """A staged command line that the boot menu does not choose would not be tried."""
    if not _trial() or command_line.boot_loader().marked():
        return ""
    return "the next boot is not marked to be the trial"


REASONS: "Mapping[str, Callable[[], str]]" = {
    "kernel_cmdline": kernel_cmdline,
    "nvidia": nvidia.reboot_reason,
}
FAULTS: "Mapping[str, Callable[[], str]]" = {
    "kernel_cmdline": kernel_cmdline_fault,
    "nvidia": nvidia.reboot_fault,
}


def observe() -> "dict[str, Any]":
    """{"boot_id", "reasons": {stem: why}, "faults": {stem: why not yet}}."""
    return {
        "boot_id": boot_id(),
        "reasons": {stem: why for stem, ask in REASONS.items() if (why := ask())},
        "faults": {stem: why for stem, ask in FAULTS.items() if (why := ask())},
    }
