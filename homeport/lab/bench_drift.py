"""How long a drift check of an unchanged node takes, against pyinfra as it comes.

Both read the same inventory and deploy and look at the same lab node, in turn, through a proxy
that is the same round trip away. Each must then find a drift that is put in. pyinfra goes over
its own ssh connector, without anything of ours between it and the node.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport import report
from homeport.lab import LabError
from homeport.lab.delay import delayed
from homeport.lab.rehearse import ROOT, StepFailed, converge, homeport
from homeport.lab.stage import Stage, stage

# Runs a tool's command line and prints, last, how many commands it sent to nodes.
COUNTING = """
import sys
import pyinfra_cli
import paramiko
sent, exec_command = [], paramiko.Channel.exec_command
paramiko.Channel.exec_command = lambda channel, c: (sent.append(c), exec_command(channel, c))[1]
if sys.argv[1] == "homeport":
    from homeport.cli import main
else:
    from pyinfra_cli.main import main
del sys.argv[1]
try:
    main()
finally:
    print("\\ncommands:", len(sent))
"""

# pyinfra's own connector for the hosts of an inventory of ours.
STOCK = """
import runpy
hosts = [
    (_name.removeprefix("@homeport/"), _data)
    for _name, _data in runpy.run_path({inventory!r})["hosts"]
]
"""

DRIFT = "grep -v iona-api /etc/hosts >/tmp/hosts; cat /tmp/hosts >/etc/hosts"
FOUND = "Host names"


@dataclass(frozen=True, slots=True)
class Tool:
    """A rival: its module's command line, and what ends a check that went well."""

    name: str
    module: str
    words: tuple[str, ...]

    def run(self, environment: dict[str, str], counting: bool = False) -> tuple[float, str]:
        """(seconds, what it printed). Raises `LabError` when it failed."""
        head = ["-c", COUNTING, self.name] if counting else ["-m", self.module]
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, *head, *self.words],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        seconds = time.monotonic() - began
        if done.returncode not in (0, 2):
            raise LabError(f"{self.name} exited {done.returncode}: {done.stderr[-2000:]}")
        return seconds, done.stdout


def pending(tool: Tool, said: str) -> list[str]:
    """The operations that `tool` would run, from its JSON."""
    value = json.loads(said.partition("\ncommands:")[0])
    if tool.name == "homeport":
        return [one["operation"] for host in value["hosts"] for one in host["drift"]]
    return [one["name"] for one in value["plan"] if one["hosts_with_change"]]


def tools(on: Stage) -> tuple[Tool, ...]:
    """The rivals, each with its inventory."""
    stock = on.directory / "stock.py"
    stock.write_text(STOCK.format(inventory=str(ROOT / on.inventory)))
    plan = (str(stock), "deploys/full.py", "--dry", "--json")
    return (
        Tool("homeport", "homeport.cli", ("drift", str(on.inventory), "--json", "-")),
        Tool("pyinfra", "pyinfra", plan),
    )


def _environment(on: Stage, port: int, rtt: int) -> dict[str, str]:
    """The environment in which the node of `on` is reached through the proxy at `port`."""
    here = f'address = "127.0.0.1"\nport = {port}'
    text = on.targets.read_text().replace(f'address = "{on.machine.address}"', here)
    path = on.directory / f"far-{rtt}.targets.toml"
    path.write_text(text)
    environment = {k: v for k, v in os.environ.items() if k != "PYINFRA_YES"}
    return environment | {"HOMEPORT_TARGETS": str(path), "HOMEPORT_LOCK": str(on.lock)}


def _unchanged(on: Stage, rtt: int, runs: int) -> list[dict[str, Any]]:
    """Time every tool at one distance, in turn; a node that is not as wanted is an error."""
    rivals = tools(on)
    with delayed(on.machine.address, 22, rtt) as port:
        environment = _environment(on, port, rtt)
        first = {tool.name: tool.run(environment)[0] for tool in rivals}
        taken: dict[str, list[float]] = {tool.name: [] for tool in rivals}
        for _ in range(runs):
            for tool in rivals:
                seconds, said = tool.run(environment)
                if waiting := pending(tool, said):
                    raise LabError(f"{tool.name}: the node is not as wanted: {waiting}")
                taken[tool.name].append(seconds)
        counts = {
            tool.name: int(tool.run(environment, counting=True)[1].rpartition(":")[2])
            for tool in rivals
        }
    return [
        {
            "tool": tool.name,
            "workload": on.inventory.stem,
            "rtt_ms": rtt,
            "median_s": round(statistics.median(taken[tool.name]), 2),
            "runs_s": [round(seconds, 2) for seconds in taken[tool.name]],
            "first_s": round(first[tool.name], 2),
            "remote_commands": counts[tool.name],
        }
        for tool in rivals
    ]


def _finds(on: Stage) -> None:
    """Every tool names a drift that is put in. Raises `LabError` for one that does not."""
    on.machine.succeed(DRIFT)
    for tool in tools(on):
        waiting = pending(tool, tool.run(dict(on.environment))[1])
        if not any(name.startswith(FOUND) for name in waiting):
            raise LabError(f"{tool.name} did not find the drift that was put in: {waiting}")


def bench_drift(inventory: Path, rtts: tuple[int, ...], runs: int) -> dict[str, Any]:
    """Measure each tool over `inventory`, unchanged, at each round trip in ms, `runs` times.

    {"results": [{"tool": "homeport" | "pyinfra", "workload": the inventory's name, "rtt_ms",
                  "median_s", "runs_s", "first_s": a first run, without any record,
                  "remote_commands": after the handshake}]}; seconds are wall time, of the whole
    process. Raises `LabError`.
    """
    results: list[dict[str, Any]] = []
    with stage(inventory, progress=lambda text: report.console.print(f"  lab: {text}")) as on:
        made = homeport(on, "lock", str(on.inventory))
        if made.returncode != 0:
            raise LabError(made.stderr)
        try:
            converge(on, quiet=True)
        except StepFailed as error:
            raise LabError(str(error)) from error
        for rtt in rtts:
            for result in _unchanged(on, rtt, runs):
                results.append(result)
                report.console.print(
                    "{tool}: {workload}, {rtt_ms} ms: {median_s} s (first {first_s} s), "
                    "{remote_commands} remote commands".format(**result)
                )
        _finds(on)
    return {"results": results}
