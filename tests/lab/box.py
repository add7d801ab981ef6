"""A virtual machine under an inventory that tests rewrite: for what containers cannot show."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homeport.lab import desk
from homeport.lab.stage import Stage, stage
from homeport.lab.vm.emulator import Hardware
from homeport.lab.vm.machine import VirtualMachine

# The tier runs two machines side by side, on two processors it may be: a second one in each would
# spend a third of the time on waiting for its twin.
HARDWARE = Hardware(cpus=1)
HEAD = """\
from deploys.kernel_cmdline import KernelCmdline, Parameter
from deploys.lockup_recovery import LockupRecovery
from deploys.node import Node
from homeport.inventory import inventory

"""
HOSTS = 'hosts = inventory(__file__, box=Node(name="box"{fields}))\n'


def cmdline(parameters: str, trial_seconds: int) -> str:
    """The field `kernel_cmdline` of a node, with `parameters` as they stand on the command line."""
    made = []
    for one in parameters.split():
        name, _, value = one.partition("=")
        made.append(f"Parameter(name={name!r}, value={value or None!r}, reason='a test')")
    held = ", ".join([*made, ""])
    return f", kernel_cmdline=KernelCmdline(parameters=({held}), trial_seconds={trial_seconds})"


@dataclass
class Box:
    """The machine, and the inventory that says what it is to be."""

    stage: Stage

    @property
    def machine(self) -> VirtualMachine:
        machine = self.stage.machine
        assert isinstance(machine, VirtualMachine)
        return machine

    def wants(self, fields: str) -> None:
        """Rewrite the inventory: `fields` are further arguments of its one `Node`."""
        self.stage.inventory.write_text(HEAD + HOSTS.format(fields=fields))

    def begin(self, *words: str) -> "subprocess.Popen[str]":
        """A converge on its way, its output to be read when it is over."""
        command = [sys.executable, "-m", "homeport.cli", "converge", str(self.stage.inventory)]
        return subprocess.Popen(
            [*command, *words],
            cwd=desk.ROOT,
            env=self.stage.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def converge(self, *words: str) -> tuple[int, str, float]:
        """Exit status, output, and seconds of a converge."""
        began = time.monotonic()
        with self.begin(*words) as run:
            said, _ = run.communicate(timeout=1500)
        return run.returncode, said, time.monotonic() - began

    def cmdline(self) -> list[str]:
        """The command line in force."""
        return self.machine.succeed("cat /proc/cmdline").split()


@contextmanager
def box(directory: Path, fields: str = "", hardware: Hardware = HARDWARE) -> Iterator[Box]:
    """A bare virtual machine for the length of the block."""
    path = directory / "box.py"
    path.write_text(HEAD + HOSTS.format(fields=fields))
    with stage(path, on="machine", hardware=hardware) as made:
        yield Box(stage=made)
