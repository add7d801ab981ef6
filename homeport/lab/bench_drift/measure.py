"""`bin/homeport bench drift`: a lab node with both workloads, and what is measured on it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from homeport import report
from homeport.lab import LabError, StepFailed, cache
from homeport.lab import engine as engines
from homeport.lab.bench_drift import iona, limits, mix, playbooks, rivals
from homeport.lab.bench_drift.compare import Workload, compare
from homeport.lab.bench_drift.fleet import DEPLOY, fleet
from homeport.lab.bench_drift.places import (
    Place,
    ansible_inventory,
    homeport_inventory,
    places,
    pyinfra_inventory,
)
from homeport.lab.desk import converge
from homeport.lab.desk import homeport as run_homeport
from homeport.lab.machine import Machine, client_key, machine
from homeport.lab.stage import Stage, stage

WORKLOADS = ("150", "iona")

# Lists of packages, and what Ansible's apt module needs on a node: a node of someone who uses
# Ansible has it.
PREPARE = "apt-get update -q && apt-get install -y -q --no-install-recommends python3-apt"

MIX_DRIFT = f"{mix.DIRECTORY}/gallery/users.csv"
HOSTS_DRIFT = "cp /etc/hosts /run/bench-hosts; grep -v iona-api /run/bench-hosts >/etc/hosts"

# pyinfra's own connector for the hosts of an inventory of ours.
STOCK = """
import runpy
hosts = [
    (_name.removeprefix("@homeport/"), _data)
    for _name, _data in runpy.run_path({inventory!r})["hosts"]
]
"""


def say(text: str) -> None:
    """Progress, on standard error."""
    report.console.print(f"  {text}", markup=False)


def _install_mix(place: Place, directory: Path) -> None:
    """Bring the node to the workload "150", by pyinfra itself."""
    say('lab: converging the workload "150"')
    inventory = pyinfra_inventory(directory / "install.py", [place])
    # Near to its end, `systemctl enable` of a new unit needs no daemon-reload: systemd finds it.
    words = [sys.executable, "-m", "pyinfra", "-y", str(inventory), str(DEPLOY)]
    done = subprocess.run(
        words, cwd=rivals.ROOT, capture_output=True, text=True, check=False, env=None
    )
    if done.returncode:
        raise LabError(f'the workload "150" could not be made: {done.stderr[-3000:]}')


def mix_workload(directory: Path) -> Workload:
    """The workload "150" for all four tools."""
    files = directory / "mix"
    files.mkdir()
    tasks = playbooks.mix_tasks(mix.services(), files)
    playbook = playbooks.write(directory / "mix.yml", tasks)
    stock = str(rivals.environment("pyinfra", say))

    def tools(place: Place, own: Path) -> tuple[rivals.Rival, ...]:
        hosts = ansible_inventory(own / "hosts.json", [place])
        ours = homeport_inventory(own / "homeport.py", [place])
        fresh = {"XDG_CACHE_HOME": str(own / "cache")}
        return (
            rivals.homeport(ours, DEPLOY, fresh),
            rivals.pyinfra(stock, pyinfra_inventory(own / "pyinfra.py", [place]), DEPLOY),
            rivals.ansible(hosts, playbook, own, mitogen=True, progress=say),
            rivals.ansible(hosts, playbook, own, mitogen=False, progress=say),
        )

    return Workload(
        name="150",
        rivals=tools,
        inject=f"cp -p {MIX_DRIFT} /run/bench-mix; echo drift >>{MIX_DRIFT}",
        mend=f"cp -p /run/bench-mix {MIX_DRIFT}",
        found=MIX_DRIFT,
    )


def iona_workload(on: Stage, directory: Path) -> Workload:
    """The whole of Iona, or of another inventory with one host, for all four tools."""
    files = directory / "iona"
    files.mkdir()
    tasks = iona.tasks(on.inventory, on.machine, files)
    playbook = playbooks.write(directory / "iona.yml", tasks)
    stock = directory / "stock.py"
    stock.write_text(STOCK.format(inventory=str(rivals.ROOT / on.inventory)))

    def tools(place: Place, own: Path) -> tuple[rivals.Rival, ...]:
        here = f'address = "{place.address}"\nport = {place.port}'
        text = on.targets.read_text().replace(f'address = "{on.machine.address}"', here)
        targets = on.directory / f"{own.name}.targets.toml"
        targets.write_text(text)
        settings = {
            "HOMEPORT_TARGETS": str(targets),
            "HOMEPORT_LOCK": str(on.lock),
            "XDG_CACHE_HOME": str(own / "cache"),
        }
        hosts = ansible_inventory(own / "hosts.json", [place])
        return (
            rivals.homeport(on.inventory, None, settings),
            rivals.pyinfra(sys.executable, stock, Path("deploys/full.py"), settings),
            rivals.ansible(hosts, playbook, own, mitogen=True, progress=say),
            rivals.ansible(hosts, playbook, own, mitogen=False, progress=say),
        )

    return Workload(
        name=on.inventory.stem,
        rivals=tools,
        inject=HOSTS_DRIFT,
        mend="cat /run/bench-hosts >/etc/hosts",
        found="Host names",
    )


@contextmanager
def _staged(inventory: Path) -> Iterator[Stage]:
    """The lab of `inventory`, locked and converged."""
    with stage(inventory, progress=lambda text: say(f"lab: {text}")) as on:
        made = run_homeport(on, "lock", str(on.inventory))
        if made.returncode != 0:
            raise LabError(made.stderr)
        try:
            converge(on, quiet=True)
        except StepFailed as error:
            raise LabError(str(error)) from error
        yield on


@contextmanager
def _bare() -> Iterator[Machine]:
    """A bare lab machine."""
    with ExitStack() as stack:
        engine = stack.enter_context(engines.engine(say))
        directory = Path(stack.enter_context(cache.scratch()))
        network = stack.enter_context(engine.network(f"homeport-bench-{directory.name[-8:]}"))
        key, public = client_key(directory)
        made = machine(engine, network, "node", ssh_key=key, ssh_public=public, progress=say)
        yield stack.enter_context(made)


def bench_drift(
    inventory: Path, workloads: Sequence[str], rtts: tuple[int, ...], runs: int
) -> dict[str, Any]:
    """Measure every tool over `workloads` at each round trip in ms, `runs` times.

    What `compare` returns, of all workloads together, and "ratios", "growth" and "limits", which
    `limits.py` describes. Seconds are wall time of a whole process. Raises `LabError`.
    """
    value: dict[str, Any] = {"results": [], "floor": [], "found_drift": {}, "load": {}, "fleet": []}
    with ExitStack() as stack:
        on = stack.enter_context(_staged(inventory)) if "iona" in workloads else None
        node = on.machine if on else stack.enter_context(_bare())
        # Below /tmp: the path of a socket for a kept connection may have 107 bytes.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hp-")))
        (place,) = stack.enter_context(places(node, directory))
        node.succeed(PREPARE)
        wanted = [iona_workload(on, directory)] if on else []
        if "150" in workloads:
            _install_mix(place, directory)
            wanted.insert(0, mix_workload(directory))
        for workload in wanted:
            found = compare(workload, place, rtts, runs, directory, say)
            for name, part in found.items():
                value[name] = value[name] + part if isinstance(part, list) else value[name] | part
    return _judged(value)


def bench_fleet(counts: Sequence[int], runs: int) -> dict[str, Any]:
    """Measure Homeport over as many targets as each of `counts` says: {"fleet", "limits"} and the
    rest of `bench_drift`'s keys, empty. Raises `LabError`."""
    with ExitStack() as stack:
        node = stack.enter_context(_bare())
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hp-")))
        nodes = stack.enter_context(places(node, directory, max(counts)))
        node.succeed(PREPARE)
        _install_mix(nodes[0], directory)
        found = fleet(nodes, sorted(counts), runs, directory, say, MIX_DRIFT)
    return _judged({"results": [], "floor": [], "fleet": found})


def _judged(value: dict[str, Any]) -> dict[str, Any]:
    value["ratios"] = limits.ratios(value["results"])
    value["growth"] = limits.growths(value["results"])
    value["limits"] = limits.limits(value)
    return value


def print_end(value: dict[str, Any]) -> None:
    """The ratios, and each limit with what was seen."""
    for one in value["ratios"]:
        say("{workload}, {rtt_ms} ms: {tool} takes {times} times as long".format(**one))
    for one in value["fleet"]:
        say(f"{one['hosts']} targets: {json.dumps(one['where'])}")
    for one in value["limits"]:
        style = "green" if one["met"] else "red"
        report.console.print(limits.sentence(one), style=style, markup=False)
