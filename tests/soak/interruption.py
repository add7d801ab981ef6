"""Interrupting a converge inside a stage: the run is killed, or its connection is cut.

The stage is read from the node, where a program watches what runs (`watcher.py`): that is where it
is seen that the stage is under way, in the moment before the blow.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeport.alive import KEEPALIVE, PEER_TIMEOUT, PEER_TIMEOUT_VARIABLE
from homeport.lab.desk import ROOT
from homeport.lab.driver import Driver
from homeport.lab.stage import Stage
from tests.soak.moments import Moment
from tests.soak.relay import relay

WATCHER = Path(__file__).with_name("watcher.py").read_text()
SAMPLE_S = 0.03
# Seconds after which a converge that was to be interrupted has to be over, and those within which a
# run whose connection is cut must end by itself, above the time that it grants a silent node.
CONVERGE_S = 300.0
ENDS_WITHIN_S = 20.0
NEXT = "Mend the cause, then go on with:  "


@dataclass(kw_only=True, slots=True)
class Hit:
    """What was hit: `seen` running, `detail` of how far it was, read from the node.

    `ended_s` is how many seconds after the blow the run at the desk had ended; `went_on` what of
    the stage still ran on the node one second after the blow, "" for nothing.
    """

    moment: Moment
    seen: str
    detail: str
    at: float
    ended_s: float = 0.0
    went_on: str = ""

    def line(self) -> str:
        """In words, for whoever watches the tests."""
        m = self.moment
        return (
            f"{m.number}: {m.on}, {m.stage}, {m.way} at {self.at:.0%} ({self.seen}; "
            f"{self.detail}); the run ended after {self.ended_s:.1f} s; one second after the blow "
            + (f"the node still ran {self.went_on}" if self.went_on else "the node had stopped too")
        )


class Watch:
    """The watcher on a node."""

    def __init__(self, process: "subprocess.Popen[str]", since: float) -> None:
        self.process = process
        self.since = since

    def ask(self, stage: str, then: str = "") -> dict[str, Any]:
        """What the watcher answers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        question = {"stage": stage, "since": self.since, "then": then}
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer


@contextlib.contextmanager
def watching(machine: Driver) -> Iterator[Watch]:
    """A watcher on `machine`, for the length of the block; past the network, which may be cut."""
    since = float(machine.succeed("date +%s"))
    words = ["docker", "exec", "--interactive", machine.container, "python3", "-c", WATCHER]
    with subprocess.Popen(
        words,
        env=machine.engine.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Watch(process, since)
        finally:
            assert process.stdin is not None
            process.stdin.close()


@dataclass(kw_only=True)
class Blow:
    """A way to interrupt: the environment of the run, and what ends it.

    `then` is done on the node in the moment in which the stage is seen, `strike` at the desk.
    `patience_s` is how long the run may take to end by itself; None when it is killed.
    """

    environment: dict[str, str]
    strike: Callable[["subprocess.Popen[bytes]"], None] = field(default=lambda run: None)
    then: str = ""
    patience_s: float | None = None


def _kill(run: "subprocess.Popen[bytes]") -> None:
    os.killpg(run.pid, signal.SIGKILL)


@contextlib.contextmanager
def _reset(on: Stage) -> Iterator[Blow]:
    with relay(on.machine.address, 22) as (port, process):
        here = f'address = "127.0.0.1"\nport = {port}'
        targets = on.directory / "relay.targets.toml"
        text = on.targets.read_text()
        assert f'address = "{on.machine.address}"' in text
        targets.write_text(text.replace(f'address = "{on.machine.address}"', here))
        yield Blow(
            environment={**on.environment, "HOMEPORT_TARGETS": str(targets)},
            strike=lambda run: process.send_signal(signal.SIGUSR1),
            patience_s=ENDS_WITHIN_S,
        )


def _desk(on: Stage) -> str:
    """This machine's address, as the node sees it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((on.machine.address, 22))  # sends nothing
        return str(probe.getsockname()[0])


@contextlib.contextmanager
def _silence(on: Stage, patience: int) -> Iterator[Blow]:
    """The node answers the desk no more, and no packet says so; everything else goes on."""
    route = f"blackhole {_desk(on)}/32"
    try:
        yield Blow(
            environment={**on.environment, PEER_TIMEOUT_VARIABLE: str(patience)},
            then=f"ip route add {route}",
            patience_s=KEEPALIVE + patience + ENDS_WITHIN_S,
        )
    finally:
        on.machine.run(f"ip route del {route}")


@contextlib.contextmanager
def blow(on: Stage, way: str, patience: int) -> Iterator[Blow]:
    """The blow that is called `way`; what it did to the network is undone afterwards."""
    if way == "kill":
        yield Blow(environment=on.environment, strike=_kill)
        return
    with _reset(on) if way == "reset" else _silence(on, patience) as made:
        yield made


def _wait_for(
    watch: Watch, run: "subprocess.Popen[bytes]", moment: Moment, whole: int, then: str
) -> Hit | None:
    """Wait for `moment`; None when the run ended first. `whole` is how much the stage has to do."""
    base = watch.ask(moment.stage)["at"]
    deadline = time.monotonic() + CONVERGE_S
    met: float | None = None
    begun = False
    while run.poll() is None:
        assert time.monotonic() < deadline, f"{moment} did not come within {CONVERGE_S:.0f} s"
        due = met is not None and time.monotonic() >= met + moment.delay_s
        answer = watch.ask(moment.stage, then if due else "")
        if due and answer["seen"]:
            share = (answer["at"] - base) / whole
            return Hit(moment=moment, seen=answer["seen"], detail=answer["detail"], at=share)
        begun = begun or bool(answer["seen"])
        if met is None and begun and answer["at"] - base >= int(moment.share * whole):
            met = time.monotonic()
        time.sleep(SAMPLE_S)
    return None


def _ended_well(log: Path, status: int, moment: Moment) -> None:
    """The run whose connection was cut said what happened, and what to type."""
    said = log.read_text()
    assert status == 1, f"{moment}: exit status {status}\n{said[-3000:]}"
    assert "Traceback" not in said, said[-3000:]
    assert "the connection to " in said, said[-3000:]
    assert " broke: " in said, said[-3000:]
    last = said.splitlines()[-1]
    assert last.startswith(NEXT), said[-3000:]
    assert "bin/homeport converge " in last


def interrupt(on: Stage, moment: Moment, whole: int, patience: int = PEER_TIMEOUT) -> Hit | None:
    """Begin a converge of `on` and interrupt it at `moment`; None when the stage was over before.

    `whole` is how much the stage has to do, as the watcher counts it. `patience` is for how many
    seconds the run waits for a silent node. Fails when a run that is cut does not end as it must.
    """
    log = on.directory / "interrupted.log"
    command = [sys.executable, "-m", "homeport.cli", "converge", str(on.inventory)]
    with blow(on, moment.way, patience) as made, watching(on.machine) as watch:
        with log.open("w") as output:
            run = subprocess.Popen(
                command,
                cwd=ROOT,
                env=made.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            hit = _wait_for(watch, run, moment, whole, made.then)
            struck = time.monotonic()
            if hit is None:
                assert run.returncode == 0, log.read_text()[-3000:]
                return None
            made.strike(run)
            with contextlib.suppress(subprocess.TimeoutExpired):
                run.wait(timeout=1)
            hit.ended_s = time.monotonic() - struck
            time.sleep(max(0.0, 1 - hit.ended_s))
            hit.went_on = watch.ask(moment.stage)["seen"]
            if run.poll() is None:  # raises when it does not end by itself
                run.wait(timeout=made.patience_s)
                hit.ended_s = time.monotonic() - struck
        finally:
            with contextlib.suppress(ProcessLookupError):
                _kill(run)
            run.wait()
    if moment.way != "kill":
        _ended_well(log, run.returncode, moment)
    return hit
