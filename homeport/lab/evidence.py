"""What a failed rehearsal leaves for whoever looks into it, when its machines are gone."""

import contextlib
from collections.abc import Iterable
from pathlib import Path

from homeport.lab import LabError, cache
from homeport.lab.driver import Driver
from homeport.lab.vm.emulator import CONSOLE

LINES = 5000  # of each journal


def place(system: str, on: str) -> Path:
    """Where the evidence of the last rehearsal of `system` on machines of the kind `on` is."""
    return cache.directory("failed") / f"{system}-{on}.log"


def keep(to: Path, directory: Path, machines: Iterable[Driver] = (), words: str = "") -> None:
    """Write to `to` what failed (`words`), the journals of `machines`, and every console's log.

    `directory` is the stage's. What cannot be had is left out; with nothing at all there is no
    file.
    """
    found = {"what failed": words} if words else {}
    for machine in machines:
        with contextlib.suppress(LabError):
            found[f"{machine.name}: the journal"] = machine.journal(LINES)
    for console in sorted(directory.glob(f"*/{CONSOLE}")):
        with contextlib.suppress(OSError):
            text = console.read_text(errors="replace").replace("\r", "")
            found[f"{console.parent.name}: the serial console"] = text
    if not found:
        return
    with contextlib.suppress(OSError):  # the disk may be full: that is then what failed
        to.write_text("".join(f"==== {what} ====\n{text}\n" for what, text in found.items()))
