"""What a person sees: live progress on a terminal, plain lines in a pipe; and the end of a run.

Everything goes to standard error except what a command was asked for (a targets file, JSON).
"""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.status import Status

from homeport.result import HostResult, Progress, RunResult

PROGRESS = "homeport-progress "
SAID = "homeport-says "

console = Console(stderr=True, highlight=False, soft_wrap=True)


def progress_line(what: str, done: int, total: int, unit: str = "B") -> str:
    """The line by which something that goes on is shown; `unit` is "B" or "s"."""
    return PROGRESS + json.dumps({"what": what, "done": done, "total": total, "unit": unit})


def said_line(words: str) -> str:
    """The line by which `words` are printed while a run goes on."""
    return SAID + words


def human_bytes(count: float) -> str:
    """`count` bytes with a binary unit, three significant digits at most: "4.81 GiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def human_seconds(seconds: float) -> str:
    """`seconds` as a person says it: "0.4 s", "12 s", "3 min 05 s"."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60:02d} s"


class Display(Progress):
    """Shows what is being done, on which node, for how long so far, and a download's bytes."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._step_began = self._began
        self._text = ""
        self._capability = ""
        self._told = -1
        self._status: Status | None = None

    @contextmanager
    def live(self) -> Iterator["Display"]:
        """While open, a terminal shows the current step in its last line."""
        if not console.is_terminal:
            yield self
            return
        with console.status("connecting") as status:
            self._status = status
            try:
                yield self
            finally:
                self._status = None

    def step(self, host: str, operation: str, done: int, total: int) -> None:
        self._step_began = time.monotonic()
        self._text = f"{host}: {operation}"
        self._told = -1
        capability = operation.split(" | ")[0]
        if self._status is not None:
            self._status.update(f"{done}/{total}  {self._text}")
        elif capability != self._capability:
            elapsed = human_seconds(time.monotonic() - self._began)
            console.print(f"{host}: {capability}  ({done} of {total} steps behind, {elapsed})")
        self._capability = capability

    def line(self, host: str, line: str) -> None:
        if line.startswith(SAID):
            console.print(line.removeprefix(SAID), markup=False)
        if not line.startswith(PROGRESS):
            return
        try:
            value = json.loads(line.removeprefix(PROGRESS))
            what, done, total = str(value["what"]), int(value["done"]), int(value["total"])
        except (ValueError, KeyError, TypeError):
            return
        share = 100 * done // total if total else 0
        elapsed = human_seconds(time.monotonic() - self._step_began)
        if value.get("unit") == "s":
            text = f"{what}: {human_seconds(done)} of at most {human_seconds(total)}"
        elif total:
            text = f"{what}: {human_bytes(done)} of {human_bytes(total)} ({share} %, {elapsed})"
        else:  # how much there is to come is not known
            text = f"{what}: {human_bytes(done)} ({elapsed})"
        if self._status is not None:
            self._status.update(f"{self._text}  {text}")
        elif share // 10 != self._told:
            self._told = share // 10
            console.print(f"{host}: {text}")


def print_result(result: RunResult, next_command: str) -> None:
    """The end of a converge: what changed, the URLs to open, or the cause and what to type."""
    for host in result.hosts:
        for change in host.changed:
            took = human_seconds(change.seconds)
            console.print(f"  [green]changed[/]  {host.name}: {change.operation}  ({took})")
        for missing in host.not_exercised:
            console.print(
                f"  [yellow]not exercised[/]  {host.name}: {missing.capability}: {missing.reason}"
            )
        for one in host.waiting:
            words = f"{host.name}: {one.capability}: {one.words}"
            console.print(f"  [yellow]waits for a reboot[/]  {words}")
    for host in result.hosts:
        _print_end(host)
    console.print(
        f"{'done' if result.ok else 'failed'} in {human_seconds(result.seconds)}: "
        f"{result.changed} of {sum(h.operations for h in result.hosts)} steps changed something"
    )
    if not result.ok:
        console.print(f"Mend the cause, then go on with:  [bold]{next_command}[/]")


def _print_end(host: HostResult) -> None:
    if host.failure is not None:
        console.print(f"[red]{host.name}: failed at: {host.failure.operation}[/]")
        for line in host.failure.words:
            console.print(f"    {line}", markup=False)
        return
    for line in host.closing:
        console.print(line, markup=False)


def result_json(inventory: str, result: RunResult) -> dict[str, Any]:
    """`converge --json`: the run as data; `seconds` are wall time.

    {"inventory", "ok", "seconds", "changed": number of operations that ran commands,
     "hosts": [{"name", "ok", "operations", "changed": [{"operation", "commands", "seconds"}],
                "failure": null | {"operation", "words": [line]},
                "not_exercised": [{"capability", "reason"}],
                "waiting": [{"capability", "words"}] of what waits for a reboot}]}
    """
    return {
        "inventory": inventory,
        "ok": result.ok,
        "seconds": result.seconds,
        "changed": result.changed,
        "hosts": [
            {
                "name": host.name,
                "ok": host.failure is None,
                "operations": host.operations,
                "changed": [
                    {"operation": c.operation, "commands": c.commands, "seconds": c.seconds}
                    for c in host.changed
                ],
                "failure": None
                if host.failure is None
                else {"operation": host.failure.operation, "words": list(host.failure.words)},
                "not_exercised": [
                    {"capability": m.capability, "reason": m.reason} for m in host.not_exercised
                ],
                "waiting": [one._asdict() for one in host.waiting],
            }
            for host in result.hosts
        ],
    }


def write_json(value: Any, to: str) -> None:
    """Write `value` to the file `to`, or to standard output for "-"."""
    text = json.dumps(value, indent=2) + "\n"
    if to == "-":
        sys.stdout.write(text)
    else:
        with open(to, "w") as file:
            file.write(text)
