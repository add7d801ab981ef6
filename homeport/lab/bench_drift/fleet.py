"""Homeport over a fleet: so many sshds on a lab machine, each with the workload "150".

The targets share this machine's processors with the desk that checks them, so the time holds both.
Every target is asked for everything: a drift that is put in for one of them alone, in the mount
namespace of its sshd, must be found on that one and on no other.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport.lab import LabError
from homeport.lab.bench_drift import rivals
from homeport.lab.bench_drift.compare import figures, floor
from homeport.lab.bench_drift.places import Place, homeport_inventory
from homeport.lab.cache import Progress
from homeport.lab.driver import Driver

DEPLOY = Path("homeport/lab/bench_drift/mix_deploy.py")
CPU = "cat /sys/fs/cgroup/cpu.stat"
HANDSHAKES = 10

# Runs a command and writes what it used to a file: processor seconds, and peak memory in KiB. A
# process of its own: gevent, which is in this one, waits for children in a way of its own.
USED = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[2:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
with open(sys.argv[1], "w") as file:
    json.dump([used.ru_utime + used.ru_stime, used.ru_maxrss], file)
sys.exit(done.returncode)
"""

# Runs the command line under a profiler that counts processor time, and writes it to a file.
PROFILED = """
import sys
import pyinfra_cli
import cProfile, time
from homeport.cli import main
profile = cProfile.Profile(time.process_time)
to = sys.argv.pop(1)
try:
    profile.runcall(main)
finally:
    profile.dump_stats(to)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """One check of a fleet: wall and processor seconds of the desk, its peak memory in MiB.

    `node` is the processor seconds of the machine that carries the targets.
    """

    seconds: float
    desk: float
    node: float
    peak: float
    said: Any


def _node_seconds(machine: Driver) -> float:
    for line in machine.succeed(CPU).splitlines():
        name, _, value = line.partition(" ")
        if name == "usage_usec":
            return int(value) / 1e6
    raise LabError(f"{machine.name}: {CPU}: no usage_usec")


def _run(machine: Driver, words: Sequence[str], environment: dict[str, str]) -> Cost:
    """One check, with what it cost. Raises `LabError` when it could not tell."""
    before = _node_seconds(machine)
    began = time.monotonic()
    with tempfile.NamedTemporaryFile() as file:
        done = subprocess.run(
            [sys.executable, "-c", USED, file.name, *words],
            cwd=rivals.ROOT,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - began
        if done.returncode not in (0, 2):
            raise LabError(f"homeport exited {done.returncode}: {done.stderr[-2000:]}")
        desk, peak = json.loads(Path(file.name).read_text())
    return Cost(
        seconds=seconds,
        desk=desk,
        node=_node_seconds(machine) - before,
        peak=peak / 1024,
        said=json.loads(done.stdout),
    )


def _states(cost: Cost) -> dict[str, str]:
    return {host["name"]: host["state"] for host in cost.said["hosts"]}


def _finds_one(
    nodes: Sequence[Place], words: Sequence[str], environment: dict[str, str], path: str
) -> None:
    """A drift of one target is found there and nowhere else. Raises `LabError` when it is not."""
    odd = nodes[len(nodes) // 2]
    copy = f"{path}.drifted"
    odd.machine.succeed(f"cp -p {path} {copy} && echo drift >>{copy}")
    odd.alone(f"mount --bind {copy} {path}")
    try:
        states = _states(_run(odd.machine, words, environment))
    finally:
        odd.alone(f"umount {path}")
        odd.machine.succeed(f"rm {copy}")
    wanted = {one.name: "drift" if one is odd else "clean" for one in nodes}
    if states != wanted:
        wrong = {name: state for name, state in states.items() if state != wanted[name]}
        raise LabError(f"a drift on {odd.name} alone: wrong states: {wrong}")


def shares(path: Path) -> dict[str, float]:
    """{package: share of the processor time} of a profile, those above one percent."""
    import pstats

    spent: dict[str, float] = {}
    stats = pstats.Stats(str(path)).stats  # type: ignore[attr-defined]
    for (file, _, name), (_, _, own, _, _) in stats.items():
        _, inside, rest = file.rpartition("site-packages/")
        package = rest.split("/")[0].removesuffix(".py") if inside else _ours(file, name)
        spent[package] = spent.get(package, 0.0) + own
    whole = sum(spent.values()) or 1.0
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: round(own / whole, 3) for name, own in ordered if own / whole > 0.01}


def _ours(file: str, name: str) -> str:
    if str(rivals.ROOT) in file:
        return "homeport"
    if file != "~":
        return "python"
    # Built-in functions: those of compiled modules say which.
    return "cryptography" if "cryptography" in name or "openssl" in name else "built in"


def fleet(
    nodes: Sequence[Place],
    counts: Sequence[int],
    runs: int,
    directory: Path,
    progress: Progress,
    drift_path: str,
) -> list[dict[str, Any]]:
    """Check the first so many of `nodes` as each of `counts` says, `runs` times.

    [{"hosts", "median_s", "runs_s", "first_s": some of them without a record, "desk_cpu_s" and
      "node_cpu_s": processor seconds per target, "handshake_cpu_s": of those the node's for a
      connection and `true`, "memory_mib": the desk's peak, "memory_mib_per_target": above that
      of one, "where": shares of the desk's processor time by package, "found_drift": true}]
    """
    machine = nodes[0].machine
    environment = {"XDG_CACHE_HOME": str(directory / "cache")}
    before = _node_seconds(machine)
    for _ in range(HANDSHAKES):
        floor(nodes[0])
    handshake = (_node_seconds(machine) - before) / HANDSHAKES
    results: list[dict[str, Any]] = []
    for count in counts:
        inventory = homeport_inventory(directory / "fleet.py", nodes[:count])
        words = rivals.homeport(inventory, DEPLOY).words
        first = _run(machine, words, environment)
        costs = [_run(machine, words, environment) for _ in range(runs)]
        for cost in costs:
            if set(_states(cost).values()) != {"clean"}:
                raise LabError(f"the fleet is not as wanted: {_states(cost)}")
        _finds_one(nodes[:count], words, environment, drift_path)
        profile = directory / "profile"
        profiled = (sys.executable, "-c", PROFILED, str(profile), *words[3:])
        _run(machine, profiled, environment)
        results.append(
            {
                "hosts": count,
                **figures([cost.seconds for cost in costs]),
                "first_s": round(first.seconds, 3),
                "desk_cpu_s": _mean([cost.desk for cost in costs], count),
                "node_cpu_s": _mean([cost.node for cost in costs], count),
                "handshake_cpu_s": round(handshake, 3),
                "memory_mib": round(max(cost.peak for cost in costs), 1),
                "where": shares(profile),
                "found_drift": True,
            }
        )
        progress(
            "{hosts} targets: {median_s} s; per target {desk_cpu_s} s of processor at the desk, "
            "{node_cpu_s} s at the node; {memory_mib} MiB".format(**results[-1])
        )
    return _with_memory(results)


def _mean(values: Sequence[float], count: int) -> float:
    return round(sum(values) / len(values) / count, 3)


def _with_memory(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`results` with the memory that each target beyond those of the smallest fleet adds."""
    if results:
        least = results[0]
        for one in results:
            more = one["hosts"] - least["hosts"]
            added = (one["memory_mib"] - least["memory_mib"]) / more if more else None
            one["memory_mib_per_target"] = added if added is None else round(added, 2)
    return results
