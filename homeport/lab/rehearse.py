"""The rehearsal: an inventory built on a lab machine by the commands that build a real one.

Each step runs `bin/homeport`'s or pyinfra's own command (`desk`). Nothing is done to the machine by
any other way.
"""

import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport import report
from homeport.inventory import unbound
from homeport.lab import LabError, StepFailed, desk, evidence
from homeport.lab.stage import Kind, Stage, stage
from homeport.lab.vm.seat import hotspot_seat
from homeport.leaks import find_leaks
from homeport.lock import read_lock
from homeport.spec import SpecError


@dataclass(kw_only=True, slots=True)
class Step:
    """One step: wall time in seconds, and how many operations changed something, where it counts.

    `said` is what the step proved, or why it failed.
    """

    name: str
    ok: bool
    seconds: float
    changed: int | None = None
    said: str = ""


@dataclass(kw_only=True, slots=True)
class Rehearsal:
    """How a rehearsal went; `seconds` is wall time, the lab's own set-up included."""

    system: str
    on: str
    steps: list[Step] = field(default_factory=list)
    not_exercised: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return bool(self.steps) and all(step.ok for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        """`rehearse --json`: {"system", "on", "ok", "seconds",
        "steps": [{"name", "ok", "seconds", "changed": null | int, "said"}],
        "not_exercised": [{"capability", "reason"}]}; seconds are wall time."""
        return {
            "system": self.system,
            "on": self.on,
            "ok": self.ok,
            "seconds": round(self.seconds, 1),
            "steps": [
                {
                    "name": step.name,
                    "ok": step.ok,
                    "seconds": round(step.seconds, 1),
                    "changed": step.changed,
                    "said": step.said,
                }
                for step in self.steps
            ],
            "not_exercised": self.not_exercised,
        }


def _bare(on: Stage) -> str:
    asked = '. /etc/os-release && python3 --version && echo "$PRETTY_NAME"'
    found = [line for one in on.machines.values() for line in one.succeed(asked).splitlines()]
    return f"{', '.join(dict.fromkeys(found))}; ssh answers"


def _twice(on: Stage, before: str) -> tuple[int, str]:
    again = desk.converge(on, quiet=True)
    if again["changed"]:
        names = [c["operation"] for host in again["hosts"] for c in host["changed"]]
        raise StepFailed(f"the second converge changed something: {'; '.join(names)}")
    if waiting := desk.pending(on):
        raise StepFailed(f"pyinfra --dry would run: {'; '.join(waiting)}")
    if desk.containers(on) != before:
        raise StepFailed("the second converge touched a container: an id or start time changed")
    total = sum(host["operations"] for host in again["hosts"])
    return 0, f"none of {total} operations ran a command; pyinfra --dry agrees; same containers"


# Every container runs, and none that says how it is says anything but "healthy".
HEALTHY = """\
! command -v docker >/dev/null && exit
test -z "$(docker ps --all --quiet --filter health=starting --filter health=unhealthy)" &&
test "$(docker ps --quiet | wc -l)" = "$(docker ps --all --quiet | wc -l)" ||
{ sleep 5; exit 1; }
"""


def _power_cut(on: Stage) -> str:
    """Cut every machine's power, boot it, and wait until systemd has started what it starts, and
    its services have: an engine loads its model first."""
    began = time.monotonic()
    for machine in on.machines.values():
        before = machine.boot_id
        machine.power_cut()
        machine.start()
        if machine.boot_id == before:
            raise StepFailed(f"{machine.name} was not switched off: this would prove nothing")
        failed = machine.succeed("systemctl --failed --plain --no-legend")
        if failed:
            raise StepFailed(f"{machine.name}: units failed after the power cut: {failed}")
    up = report.human_seconds(time.monotonic() - began)
    for machine in on.machines.values():
        machine.wait_until(HEALTHY, timeout=300, what="every service is healthy")
    healthy = report.human_seconds(time.monotonic() - began)
    return f"off, and up again by itself in {up}, with every service healthy in {healthy}"


def _verify(on: Stage) -> str:
    to = on.directory / "verify.json"
    to.unlink(missing_ok=True)
    done = desk.homeport(on, "verify", str(on.inventory), "--json", str(to), quiet=False)
    if done.returncode != 0:
        raise StepFailed("a check failed, see above")
    checks = json.loads(to.read_text())["checks"]
    return f"{sum(c['outcome'] == 'passed' for c in checks)} checks passed"


def _lock(on: Stage) -> str:
    done = desk.homeport(on, "lock", str(on.inventory))
    if done.returncode != 0:
        raise StepFailed(done.stderr.strip())
    locked = read_lock(on.lock)
    files = sum(len(repo.files) for repo in locked.repos.values())
    return f"{len(locked.images)} images by digest, {files} files of models by commit and sha256"


def _network(on: Stage) -> str:
    seen, declared = desk.neighbour_sees(on), desk.declared_ports(on)
    inside = {address: ports for address, ports in seen.items() if address not in declared}
    if not inside:
        raise StepFailed("there was no container to look for: this would prove nothing")
    for address, wanted in declared.items():
        if set(seen[address]) != wanted:
            raise StepFailed(f"{address} answers on {seen[address]}, declared are {sorted(wanted)}")
    if reached := {address: ports for address, ports in inside.items() if ports}:
        raise StepFailed(f"a neighbour reaches containers: {reached}")
    ports = sorted(set().union(*declared.values()))
    return f"from a neighbour only ports {ports} answer; {len(inside)} addresses inside do not"


def _client(on: Stage) -> str:
    nodes: dict[str, Any] = {**unbound(on.inventory)}
    said = [
        hotspot_seat(on, machine, nodes[name])
        for name, machine in on.machines.items()
        if nodes[name].hotspot is not None
    ]
    return "; ".join(said) or "no node opens a Wi-Fi network"


def _leaks(on: Stage) -> str:
    known, texts = desk.secrets(on), desk.places(on)
    if not known or not all(texts.values()):
        empty = [place for place, text in texts.items() if not text]
        raise StepFailed(f"{len(known)} secrets, and nothing in {empty}: this would prove nothing")
    if found := find_leaks(known, texts):
        raise StepFailed("; ".join(found))
    return f"{len(known)} secrets in none of {len(texts)} places"


def rehearse(inventory: Path, *, on: Kind = "container", keep: bool = False) -> Rehearsal:
    """Rehearse `inventory` on lab machines of the kind `on` and print how it goes.

    Stops at the first step that fails. With `keep`, the lab is left up and how to reach it is said.
    Whatever goes wrong is a step that failed; what the machines said is kept then.
    """
    began = time.monotonic()
    log = evidence.place(inventory.stem, on)
    log.unlink(missing_ok=True)
    result = Rehearsal(system=inventory.stem, on=on)
    console = report.console

    def progress(text: str) -> None:
        console.print(f"  lab: {text}", markup=False)

    try:
        with stage(inventory, on=on, progress=progress) as made:
            said = _bare(made)
            ready = time.monotonic() - began
            result.steps.append(Step(name="bare machine", ok=True, seconds=ready, said=said))
            _told(result.steps[-1])
            _steps(made, result)
            if not result.ok:
                words = result.steps[-1].said
                evidence.keep(log, made.directory, made.machines.values(), words)
            if keep:
                made.engine.keep()
                _say_how_to_reach(made)
            result.seconds = time.monotonic() - began
    except Exception as error:  # noqa: BLE001  # whatever it is, it is told
        name = "putting away" if result.steps else "bare machine"
        took = time.monotonic() - began - sum(step.seconds for step in result.steps)
        result.steps.append(Step(name=name, ok=False, seconds=took, said=_words(error)))
        _told(result.steps[-1])
    result.seconds = time.monotonic() - began
    _print_end(result, inventory)
    if not result.ok and log.exists():
        _say_what_is_left(
            log, "" if keep else f"bin/homeport rehearse {inventory} --on {on} --keep"
        )
    return result


def _words(error: Exception) -> str:
    """What an error that nobody has foreseen says, with the place; of any other its text."""
    if isinstance(error, StepFailed | LabError | SpecError):
        return str(error)
    return f"{type(error).__name__}: {error}\n{traceback.format_exc()}"


def _steps(on: Stage, result: Rehearsal) -> None:
    """Run the steps in order, until one fails."""
    before = ""

    def first() -> tuple[int, str]:
        nonlocal before
        made = desk.converge(on)
        for host in made["hosts"]:
            result.not_exercised += host["not_exercised"]
        before = desk.containers(on)
        return made["changed"], f"{made['changed']} operations changed something"

    def cut() -> str:
        nonlocal before
        said = _power_cut(on)
        before = desk.containers(on)
        return said

    again: list[tuple[str, Callable[[], str | tuple[int, str]]]] = [
        ("power cut", cut),
        ("verify again", lambda: _verify(on)),
    ]
    steps: list[tuple[str, Callable[[], str | tuple[int, str]]]] = [
        ("lock", lambda: _lock(on)),
        ("converge", first),
        ("verify", lambda: _verify(on)),
        *(again if result.on == "machine" else []),
        ("converge again", lambda: _twice(on, before)),
        ("network", lambda: _network(on)),
        *([("Wi-Fi client", lambda: _client(on))] if result.on == "machine" else []),
        ("secrets", lambda: _leaks(on)),
    ]
    for name, run in steps:
        began = time.monotonic()
        report.console.rule(f"{name}", align="left", style="dim")
        step = Step(name=name, ok=True, seconds=0)
        try:
            said = run()
            step.changed, step.said = said if isinstance(said, tuple) else (None, said)
        except Exception as error:  # noqa: BLE001  # whatever it is, it is told
            step.ok, step.said = False, _words(error)
        step.seconds = time.monotonic() - began
        result.steps.append(step)
        _told(step)
        if not step.ok:
            return


def _told(step: Step) -> None:
    took = report.human_seconds(step.seconds)
    word = "[green]ok[/]" if step.ok else "[red]FAILED[/]"
    report.console.print(f"{word} {step.name} ({took})")
    report.console.print(f"   {step.said}", markup=False)


def _say_how_to_reach(on: Stage) -> None:
    settings = f"HOMEPORT_TARGETS={on.targets} HOMEPORT_LOCK={on.lock}"
    for name, machine in on.machines.items():
        report.console.print(
            f"kept: ssh -i {machine.ssh_key} root@{machine.address}   # {name}\n"
            f"      {settings} bin/homeport status {on.inventory}\n"
            f"      bin/homeport release                # takes the lab away",
            markup=False,
        )


def _say_what_is_left(log: Path, again: str) -> None:
    """The last words of a rehearsal that failed: a converge's own name a machine that is gone.

    `again` is the command that keeps it, when it was not kept.
    """
    report.console.print(f"What its machines said: {log}", markup=False)
    if again:
        report.console.print(f"To look at the machine, keep it:  {again}", markup=False)


def _print_end(result: Rehearsal, inventory: Path) -> None:
    console = report.console
    console.rule(align="left", style="dim")
    for step in result.steps:
        mark = "[green]ok    [/]" if step.ok else "[red]FAILED[/]"
        console.print(f"{mark} {step.name:15} {report.human_seconds(step.seconds):>9}  ", end="")
        console.print(step.said.splitlines()[0] if step.said else "", markup=False)
    for missing in result.not_exercised:
        console.print(f"[yellow]not exercised[/] {missing['capability']}: {missing['reason']}")
    took = report.human_seconds(result.seconds)
    if not result.ok:
        console.print(f"the rehearsal of {result.system} failed after {took}", style="red")
        return
    console.print(
        f"{result.system} was built on a bare lab machine and proved in {took}. On a real one:"
    )
    for line in (
        f"bin/homeport probe HOST --inventory {inventory} --write",
        f"bin/homeport lock {inventory}",
        f"bin/homeport converge {inventory}",
        f"bin/homeport verify {inventory}",
    ):
        console.print(f"  {line}", markup=False)
