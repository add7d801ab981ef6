"""What a drift check found, as data and for people."""

from typing import Any

from homeport import report
from homeport.differs import Pair
from homeport.drift import DriftResult, HostDrift

SHOWN = 5  # of what one operation finds: a bare node lacks everything


def result_json(inventory: str, result: DriftResult) -> dict[str, Any]:
    """`drift --json`: the check as data; `seconds` is wall time.

    {"inventory", "status": 0 clean | 2 drift | 1 a host is unknown, "seconds",
     "hosts": [{"name", "state": "clean" | "drift" | "unknown", "operations": how many were asked,
                "drift": [{"capability", "operation", "differs": [{"wanted", "there"}],
                           "commands": [text],
                           "more": whether it would look again after these and may do more}],
                "failure": null | {"operation", "words": [line]},
                "not_exercised": [{"capability", "reason"}]}]}

    "wanted" names the thing and says how it ought to be, "there" how it is, each on one line.
    Secrets are masked; an upload is shown as "upload PATH", without what is in it.
    """
    return {
        "inventory": inventory,
        "status": result.status,
        "seconds": result.seconds,
        "hosts": [_host_json(host) for host in result.hosts],
    }


def _host_json(host: HostDrift) -> dict[str, Any]:
    wrong = host.failure
    return {
        "name": host.name,
        "state": host.state,
        "operations": host.operations,
        "drift": [
            {
                "capability": one.capability,
                "operation": one.operation,
                "differs": [pair._asdict() for pair in one.differs],
                "commands": list(one.commands),
                "more": one.more,
            }
            for one in host.differences
        ],
        "failure": wrong and {"operation": wrong.operation, "words": list(wrong.words)},
        "not_exercised": [
            {"capability": one.capability, "reason": one.reason} for one in host.not_exercised
        ],
    }


def _print_pairs(pairs: tuple[Pair, ...]) -> None:
    console = report.console
    for pair in pairs[:SHOWN]:
        console.print("    wanted  ", style="dim", end="")
        console.print(pair.wanted, markup=False)
        console.print("    there   ", style="dim", end="")
        console.print(pair.there, markup=False)
    if len(pairs) > SHOWN:
        console.print(f"    and {len(pairs) - SHOWN} more: --json has them all", style="dim")


def print_result(result: DriftResult, next_command: str) -> None:
    """What is wanted and what is there, by host and capability, and what would be done about it."""
    console = report.console
    for host in result.hosts:
        for one in host.differences:
            console.print(f"[yellow]drift[/]  {host.name}: ", end="")
            console.print(f"{one.capability}: {one.operation}".removeprefix(": "), markup=False)
            _print_pairs(one.differs)
            for words in one.words:
                console.print(f"    {words}", markup=False)
            if one.more:
                console.print("    then looks again", style="dim")
        if host.failure is not None:
            console.print("[red]unknown[/]  ", end="")
            console.print(f"{host.name}: {host.failure.operation}", markup=False)
            for line in host.failure.words:
                console.print(f"    {line}", markup=False)
        elif not host.differences:
            console.print(f"[green]clean[/]  {host.name}: {host.operations} steps are as wanted")
        for missing in host.not_exercised:
            console.print("[yellow]not exercised[/]  ", end="")
            words = f"{host.name}: {missing.capability}: {missing.reason}"
            console.print(words, markup=False)
    if result.status == 2:
        console.print(f"To put it right:  [bold]{next_command}[/]")
    console.print(f"checked in {report.human_seconds(result.seconds)}, nothing was changed")
