"""Killing a first converge at a seeded moment, and what the next one must make of it."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from homeport.lab.rehearse import ROOT, containers, converge, homeport, pending
from homeport.lab.stage import Stage, stage

INVENTORY = Path("inventory/iona.py")

# A first converge takes about this long here, in seconds: moments are spread over it. A kill that
# comes after the end of the run still is one: of nothing.
LENGTH = 45.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Kill:
    """One kill: after how many seconds, and the last step that the run had announced."""

    seed: int
    after_s: float
    step: str


def moment(seed: int) -> float:
    """Seconds from the start of a converge to its end by `seed`."""
    return random.Random(seed).uniform(0.5, LENGTH)


def kill_a_converge(on: Stage, seed: int) -> Kill:
    """Start a converge and kill it (SIGKILL) at the moment of `seed`."""
    after = moment(seed)
    log = on.directory / "killed.log"
    with log.open("w") as output:
        run = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "converge", str(on.inventory)],
            cwd=ROOT,
            env=on.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        time.sleep(after)
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
    steps = [line for line in log.read_text().splitlines() if " steps behind" in line]
    return Kill(seed=seed, after_s=round(after, 1), step=steps[-1] if steps else "connecting")


def heals(seed: int) -> Kill:
    """Build Iona on a bare machine, killed once at the moment of `seed`; fails unless it heals.

    The next converge ends as a first would, the checks pass, and a third changes nothing.
    """
    with stage(INVENTORY) as on:
        made = homeport(on, "lock", str(on.inventory))
        assert made.returncode == 0, made.stderr
        kill = kill_a_converge(on, seed)
        print(f"seed {seed}: killed after {kill.after_s} s, in: {kill.step}")
        converge(on, quiet=True)
        verified = homeport(on, "verify", str(on.inventory))
        assert verified.returncode == 0, f"{kill}: {verified.stderr}"
        before = containers(on)
        again = converge(on, quiet=True)
        assert again["changed"] == 0, f"{kill}: the third converge changed {again['hosts']}"
        assert pending(on) == []
        assert containers(on) == before
    return kill
