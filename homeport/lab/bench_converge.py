"""How long the first converge of a node takes, beside a shell script that builds the same node.

The rival is `by_hand.sh`, written as someone writes it who knows these programs: one call of apt,
images pulled in the background, here-documents, `docker compose up --wait`. It keeps nothing that
only Homeport needs, and none of Homeport's files: its Caddyfile, Compose file and units are its
own. Both tools get the same from the lab: images by digest and the model by commit out of one lock,
the registry, the Hub, the package index, the CA.

Each tool and each round has a fresh machine, with an empty image store, an empty model directory
and the same downloaded packages at hand; the tools take turns, and the one that begins changes with
every round. The time is from the command's start at the desk, ssh included, to its end; then
`bin/homeport verify` must pass on that machine, or there is no result.

What only Homeport can pass is left out of that for both, and named in the result: see `LEFT_OUT`.
The script does not compare the model's sha256, as Homeport does; the checks find that it fits.
"""

import json
import os
import shlex
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport import report
from homeport.inventory import unbound
from homeport.lab import LabError, cache
from homeport.lab.desk import homeport
from homeport.lab.stage import Stage, stage
from homeport.lock import read_lock
from homeport.pins import HubRepo, Image, find

SCRIPT = Path(__file__).with_name("by_hand.sh")
TARGET_RATIO = 1.2
TIMEOUT = 900  # seconds; either tool needs about one minute

# pytest's expression for the checks that both must pass, and why the others are left out.
EXPRESSION = "not aboard and not test_docker_runs_what_the_inventory_says"
LEFT_OUT = [
    {
        "checks": "tests/aboard, and hf_models' test_the_check_aboard_agrees_without_a_network",
        "reason": "they ask Homeport's own programs on the node, which a script does without; "
        "the same files' sizes and sha256 are checked by hf_models' other checks",
    },
    {
        "checks": "docker's test_docker_runs_what_the_inventory_says",
        "reason": "it reads Homeport's own note of which values in daemon.json are its; the script "
        "writes the same values, and has no such note",
    },
]


@dataclass(kw_only=True, slots=True)
class Run:
    """One tool on one fresh machine: wall time in seconds, how many checks passed after it.

    `parts` is where the time went, in seconds by name, as far as the tool tells. `load` is this
    machine's load average of the last minute before it began: other work slows both tools.
    """

    tool: str
    seconds: float
    checks: int = 0
    load: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)


def _said(output: str) -> str:
    return output.strip()[-3000:]


def by_homeport(on: Stage) -> Run:
    """Converge with Homeport. Raises `LabError` with its words when it fails."""
    to = on.directory / "converge.json"
    began = time.monotonic()
    done = homeport(on, "converge", str(on.inventory), "--json", str(to))
    seconds = time.monotonic() - began
    if done.returncode:
        raise LabError(f"bench converge: homeport failed:\n{_said(done.stdout + done.stderr)}")
    (host,) = json.loads(to.read_text())["hosts"]
    parts = {change["operation"]: change["seconds"] for change in host["changed"]}
    return Run(tool="homeport", seconds=seconds, parts=parts)


def settings(on: Stage) -> dict[str, str]:
    """The script's environment: what it fetches and from where, and the machine's GPUs."""
    lock = read_lock(on.lock)
    (node,) = unbound(on.inventory).values()
    images = {}
    for image in find(node, Image):
        host, _, path = image.name.rpartition(":")[0].partition("/")
        images[path] = f"{on.sources.registries[host]}/{path}@{lock.images[image.name]}"
    (repo,) = find(node, HubRepo)
    return {
        "LLAMA_IMAGE": images["ggml-org/llama.cpp"],
        "WEBUI_IMAGE": images["open-webui/open-webui"],
        "GPUS": ", ".join(f"nvidia.com/gpu={gpu.uuid}" for gpu in on.machine.gpus),
        "MODEL_COMMIT": lock.repos[f"{repo.repo}@{repo.revision}"].commit,
        "HF_ENDPOINT": on.sources.hub,
        "PIP_INDEX_URL": on.sources.pypi,
        "TOOLKIT": next(iter(on.sources.apt.values())),
        "CA_CERTIFICATE": on.sources.authority.certificate,
    }


def by_hand(on: Stage) -> Run:
    """Build the node with the script. Raises `LabError` with its words when it fails."""
    machine = on.machine
    known = on.directory / "known_hosts"
    known.write_text(f"{machine.address} {machine.host_key}\n")
    lines = [f"export {name}={shlex.quote(value)}" for name, value in settings(on).items()]
    text = "\n".join(lines) + "\n" + SCRIPT.read_text()
    words = ["ssh", "-i", str(machine.ssh_key), "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes"]
    words += ["-o", f"UserKnownHostsFile={known}", f"root@{machine.address}"]
    # A file first: what apt and Docker start would otherwise read the script from standard input.
    words.append("cat > iona.sh && bash iona.sh < /dev/null")
    began = time.monotonic()
    try:
        done = subprocess.run(
            words, input=text, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
    except FileNotFoundError as error:
        raise LabError("bench converge needs ssh: apt-get install openssh-client") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"bench converge: the script did not end within {TIMEOUT} s") from error
    seconds = time.monotonic() - began
    if done.returncode:
        raise LabError(f"bench converge: the script failed:\n{_said(done.stdout + done.stderr)}")
    return Run(tool="shell", seconds=seconds)


TOOLS: tuple[Callable[[Stage], Run], ...] = (by_homeport, by_hand)


def _verified(on: Stage, tool: str) -> int:
    """How many checks pass on the machine. Raises `LabError` when one fails."""
    to = on.directory / "verify.json"
    done = homeport(on, "verify", str(on.inventory), "-k", EXPRESSION, "--json", str(to))
    if done.returncode:
        raise LabError(f"bench converge: not verified after {tool}:\n{_said(done.stderr)}")
    checks = json.loads(to.read_text())["checks"]
    return sum(check["outcome"] == "passed" for check in checks)


def measure(inventory: Path, tool: Callable[[Stage], Run]) -> Run:
    """`tool` on a fresh machine: timed, then verified."""
    with stage(inventory) as on:
        locked = homeport(on, "lock", str(on.inventory))
        if locked.returncode:
            raise LabError(f"bench converge: no lock: {_said(locked.stderr)}")
        load = os.getloadavg()[0]
        run = tool(on)
        run.load = load
        run.checks = _verified(on, run.tool)
    report.console.print(
        f"  {run.tool:9} {run.seconds:6.1f} s   {run.checks} checks passed (load {run.load:.1f})",
        markup=False,
    )
    return run


def _warm(inventory: Path) -> None:
    """Have the downloaded packages in the cache: else the tool that begins would pay for both."""
    if any(cache.directory("apt", "trixie").glob("docker.io_*.deb")):
        return
    report.console.print("  the cache holds no packages yet: one round that does not count")
    measure(inventory, by_hand)


def bench_converge(inventory: Path, rounds: int) -> dict[str, Any]:
    """Measure both tools `rounds` times each; print a table and return the result.

    {"results": [{"tool", "workload", "median_s", "runs_s"}], "ratio": Homeport's median over the
    script's, "target_ratio", "runs": [{"tool", "seconds", "checks_passed", "load",
    "parts"}] in the order in which they ran, "checks_left_out": [{"checks", "reason"}]}; times are
    wall time in seconds.
    Raises `LabError` when a tool fails or the machine is not verified after it.
    """
    if rounds < 1:
        raise LabError("bench converge: --rounds must be at least 1")
    _warm(inventory)
    runs: list[Run] = []
    for number in range(rounds):
        for tool in TOOLS if number % 2 == 0 else TOOLS[::-1]:
            runs.append(measure(inventory, tool))
    passed = {run.checks for run in runs}
    if len(passed) != 1:
        raise LabError(f"bench converge: not the same checks passed each time: {sorted(passed)}")
    result = _result(inventory.stem, runs)
    _print(result)
    return result


def _result(workload: str, runs: list[Run]) -> dict[str, Any]:
    results: list[dict[str, Any]] = []
    for tool in ("homeport", "shell"):
        seconds = [run.seconds for run in runs if run.tool == tool]
        results.append(
            {
                "tool": tool,
                "workload": workload,
                "median_s": round(statistics.median(seconds), 2),
                "runs_s": [round(one, 2) for one in seconds],
            }
        )
    return {
        "results": results,
        "ratio": round(results[0]["median_s"] / results[1]["median_s"], 3),
        "target_ratio": TARGET_RATIO,
        "runs": [
            {
                "tool": run.tool,
                "seconds": round(run.seconds, 2),
                "checks_passed": run.checks,
                "load": round(run.load, 1),
                "parts": run.parts,
            }
            for run in runs
        ],
        "checks_left_out": LEFT_OUT,
    }


def _print(result: dict[str, Any]) -> None:
    console = report.console
    console.print(f"\n{'tool':10} {'median':>8}   rounds", markup=False)
    for one in result["results"]:
        rounds = "  ".join(f"{seconds:.1f}" for seconds in one["runs_s"])
        console.print(f"{one['tool']:10} {one['median_s']:6.1f} s   {rounds}", markup=False)
    met = "met" if result["ratio"] <= TARGET_RATIO else "NOT met"
    console.print(
        f"Homeport takes {result['ratio']:.2f} times the script's time; "
        f"at most {TARGET_RATIO} is wanted: {met}",
        markup=False,
    )
