"""What would be done to a stage: pyinfra's own plan, and what a drift check says."""

import dataclasses
import json
import subprocess
import sys
from typing import Any

from homeport.lab.bench_drift.measure import STOCK
from homeport.lab.desk import ROOT, pyinfra
from homeport.lab.stage import Stage

# Commands that reach a node, counted where paramiko sends them, whoever asked.
COUNTING = """
import sys
import pyinfra_cli
import paramiko
sent, exec_command = [], paramiko.Channel.exec_command
paramiko.Channel.exec_command = lambda channel, c: (sent.append(c), exec_command(channel, c))[1]
from homeport.cli import main
try:
    main(prog_name="homeport")
finally:
    print("commands:", len(sent))
"""


def plan(on: Stage, prefetch: str) -> Any:
    """The plan of pyinfra's own `--dry`."""
    done = pyinfra(on, "--dry", "--json", HOMEPORT_PREFETCH=prefetch)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)["plan"]


def changes(found: Any) -> list[str]:
    return [operation["name"] for operation in found if operation["hosts_with_change"]]


def stock_plan(on: Stage) -> Any:
    """The plan of pyinfra as it comes: with its own connector, and nothing of ours in between."""
    stock = on.directory / "stock.py"
    stock.write_text(STOCK.format(inventory=str(ROOT / on.inventory)))
    return plan(dataclasses.replace(on, inventory=stock), "0")


def assert_same_plan(on: Stage) -> list[str]:
    """pyinfra's own plan is ours, with prefetch and without, and what a drift check says is the
    same either way, to the commands; the names of what would change."""
    alone = stock_plan(on)
    assert plan(on, "0") == alone
    assert plan(on, "1") == alone  # asks one by one what the record lacks, and records it
    assert plan(on, "1") == alone  # answers all from memory
    told = [drift(on, HOMEPORT_PREFETCH=prefetch)[1]["hosts"] for prefetch in ("0", "1")]
    assert [one["drift"] for one in told[0]] == [one["drift"] for one in told[1]]
    assert bool(changes(alone)) == any(one["drift"] for one in told[0])
    return changes(alone)


def drift(on: Stage, **environment: str) -> tuple[int, Any, int]:
    """`bin/homeport drift`: its exit status, its JSON, and how many commands reached the node."""
    to = on.directory / "drift.json"
    to.unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", COUNTING, "drift", str(on.inventory), "--json", str(to)],
        cwd=ROOT,
        env={**on.environment, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert to.exists(), done.stderr
    return done.returncode, json.loads(to.read_text()), int(done.stdout.split("commands:")[1])
