"""Every tool over one workload, near and far, in turn within one run.

A tool is first shown to call the node clean, and at the end to find a drift that was put in: a
check that is quick and wrong is not measured.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport.lab import LabError
from homeport.lab.bench_drift.places import Place
from homeport.lab.bench_drift.rivals import ROOT, Rival
from homeport.lab.cache import Progress
from homeport.lab.delay import delayed


@dataclass(frozen=True, kw_only=True, slots=True)
class Workload:
    """What is checked, and the drift that is put in: `inject` and `mend` are shell commands.

    `rivals` makes the tools for a place, with a directory of their own. `found` is in the name of
    the operation with which every tool must answer the drift.
    """

    name: str
    rivals: Callable[[Place, Path], tuple[Rival, ...]]
    inject: str
    mend: str
    found: str


def floor(place: Place) -> float:
    """Seconds of the least that a check can take: see `floor.py`. Raises `LabError`."""
    words = [sys.executable, "-m", "homeport.lab.bench_drift.floor", place.address]
    words += [str(place.port), str(place.key), str(place.known_hosts)]
    began = time.monotonic()
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    if done.returncode:
        raise LabError(f"the floor: {done.stderr.strip()[-1000:]}")
    return seconds


def figures(seconds: list[float]) -> dict[str, Any]:
    """{"median_s", "runs_s"}: wall seconds to the millisecond."""
    return {
        "median_s": round(statistics.median(seconds), 3),
        "runs_s": [round(one, 3) for one in seconds],
    }


def _clean(rival: Rival) -> float:
    """The seconds of one check. Raises `LabError` when it does not call the node clean."""
    seconds, pending = rival.run()
    if pending:
        raise LabError(f"{rival.name}: the node is not as wanted: {pending[:10]}")
    return seconds


def _at(
    workload: Workload, place: Place, rtt: int, runs: int, directory: Path, *, last: bool
) -> tuple[list[dict[str, Any]], dict[str, Any], list[str]]:
    """The results of every tool, the floor, and, at the `last` distance, who finds a drift."""
    own = directory / f"{workload.name}-{rtt}"
    own.mkdir()
    with delayed(place.machine.address, place.node_port, rtt) as port:
        far = place.at(port)
        rivals = workload.rivals(far, own)
        first = {rival.name: _clean(rival) for rival in rivals}
        taken: dict[str, list[float]] = {rival.name: [] for rival in rivals}
        asked: dict[str, list[int]] = {rival.name: [] for rival in rivals}
        least = []
        for _ in range(runs):
            least.append(floor(far))
            for rival in rivals:
                before = far.sessions()
                taken[rival.name].append(_clean(rival))
                asked[rival.name].append(far.sessions() - before)
        found = _finds(workload, far, rivals) if last else []
    results = [
        {
            "tool": rival.name,
            "workload": workload.name,
            "rtt_ms": rtt,
            **figures(taken[rival.name]),
            "first_s": round(first[rival.name], 3),
            "remote_commands": statistics.median_high(asked[rival.name]),
        }
        for rival in rivals
    ]
    return results, {"workload": workload.name, "rtt_ms": rtt, **figures(least)}, found


def _finds(workload: Workload, place: Place, rivals: tuple[Rival, ...]) -> list[str]:
    """The tools that find the drift that is put in, as they were measured: ours, with the record of
    its earlier runs, in each of five runs from the third on. Raises `LabError` for one that does
    not."""
    ours = rivals[0]
    for _ in range(2):
        _clean(ours)
    place.machine.succeed(workload.inject)
    try:
        for rival in (ours, ours, *rivals):
            pending = rival.run()[1]
            if not any(workload.found in name for name in pending):
                raise LabError(f"{rival.name} did not find the drift that was put in: {pending}")
    finally:
        place.machine.succeed(workload.mend)
    return [rival.name for rival in rivals]


def compare(
    workload: Workload,
    place: Place,
    rtts: tuple[int, ...],
    runs: int,
    directory: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Measure `workload` at each round trip of `rtts` (ms), `runs` times.

    {"results": [{"tool", "workload", "rtt_ms", "median_s", "runs_s", "first_s": the first run,
                  without any record, "remote_commands": sessions that the node's sshd started
                  for one run, the median}],
     "floor": [{"workload", "rtt_ms", "median_s", "runs_s"}],
     "found_drift": {workload: [tool]}, at the last round trip,
     "load": the load average before it began}
    """
    load = os.getloadavg()[0]
    results, least = [], []
    finders: list[str] = []
    for rtt in rtts:
        far = rtt == rtts[-1]
        found, lowest, finders = _at(workload, place, rtt, runs, directory, last=far)
        results += found
        least.append(lowest)
        progress("{workload}, {rtt_ms} ms: floor {median_s} s".format(**lowest))
        for one in found:
            progress(
                "{workload}, {rtt_ms} ms: {tool} {median_s} s (first {first_s} s), "
                "{remote_commands} remote commands".format(**one)
            )
    return {
        "results": results,
        "floor": least,
        "found_drift": {workload.name: finders},
        "load": {workload.name: round(load, 2)},
    }
