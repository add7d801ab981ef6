"""What tests and rehearsals do with a lab machine of either kind, container or virtual machine.

In the spirit of the driver of NixOS's tests: plain verbs that wait, and that say what they saw
when they give up.
"""

import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from homeport.lab import LabError
from homeport.lab.engine import Engine
from homeport.lab.gpus import TABLE, SimulatedGpu, gpu_table
from homeport.lab.nvml import FAULTS


class Driver(ABC):
    """One lab machine: `name`, its `address` on the lab's network, and how ssh knows and enters it.

    `radios` are the MAC addresses of its Wi-Fi radios, of which the first is free for the node;
    `cards` what the targets file says of its PCI cards, by handle.
    `container` is the Docker container that carries it: the machine itself, or its emulator.
    `lacks` is what it has not, with why, as its targets file says it; `patience` how many times
    longer than a container its steps may take.
    """

    lacks: Mapping[str, str] = MappingProxyType({})
    patience = 1.0

    def __init__(
        self,
        *,
        engine: Engine,
        name: str,
        container: str,
        address: str,
        host_key: str,
        ssh_key: Path,
        gpus: tuple[SimulatedGpu, ...] = (),
        radios: tuple[str, ...] = (),
        cards: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
    ) -> None:
        self.engine = engine
        self.name = name
        self.container = container
        self.address = address
        self.host_key = host_key
        self.ssh_key = ssh_key
        self.gpus = gpus
        self.radios = radios
        self.cards = cards

    @abstractmethod
    def run(
        self, command: str, *, timeout: float = 300, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a shell command as root, whatever comes of it; `timeout` in seconds."""

    @abstractmethod
    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Write a file of root's on the machine; its directory must exist."""

    @abstractmethod
    def journal(self, lines: int = 40) -> str:
        """The end of the machine's journal, or of what it printed when there is none yet."""

    @abstractmethod
    def reboot(self, *, timeout: float = 120) -> None:
        """Shut the machine down in order and boot it again: new processes, same disk."""

    @abstractmethod
    def power_cut(self) -> None:
        """Cut the machine's power. `start` boots it again."""

    @abstractmethod
    def start(self, *, timeout: float = 120) -> None:
        """Boot the machine after `power_cut`."""

    def succeed(self, command: str, *, timeout: float = 300, stdin: bytes | None = None) -> str:
        """What `command` prints. Raises `LabError` with its words when it fails."""
        done = self.run(command, timeout=timeout, stdin=stdin)
        if done.returncode:
            said = (done.stderr + done.stdout).decode(errors="replace").strip()
            raise LabError(f"{self.name}: {command}: exit {done.returncode}: {said[-2000:]}")
        return done.stdout.decode(errors="replace").strip()

    def fail(self, command: str, *, timeout: float = 300) -> str:
        """What `command` says when it fails. Raises `LabError` when it succeeds."""
        done = self.run(command, timeout=timeout)
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        if done.returncode == 0:
            raise LabError(f"{self.name}: {command}: should have failed, said {said[-500:]!r}")
        return said

    def wait_until(self, command: str, *, timeout: float = 60, what: str = "") -> str:
        """What `command` prints once it succeeds; `LabError` with the journal after `timeout` s."""
        deadline = time.monotonic() + timeout * self.patience
        while True:
            done = self.run(command)
            if done.returncode == 0:
                return done.stdout.decode(errors="replace").strip()
            if time.monotonic() > deadline:
                said = (done.stdout + done.stderr).decode(errors="replace").strip()
                raise LabError(
                    f"{self.name}: {what or command}: not within {timeout * self.patience:g} s; "
                    f"it says {said[-300:]!r}\n{self.journal()}"
                )
            time.sleep(0.2)

    def wait_for_unit(self, unit: str, *, timeout: float = 60) -> None:
        """Wait until systemd calls `unit` active."""
        self.wait_until(
            f"systemctl is-active {unit}", timeout=timeout, what=f"unit {unit} is not active"
        )

    def wait_for_open_port(self, port: int, *, timeout: float = 60) -> None:
        """Wait until something on the machine's address answers at TCP `port`, from the host."""
        deadline = time.monotonic() + timeout * self.patience
        while True:
            try:
                socket.create_connection((self.address, port), timeout=2).close()
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"{self.name}: port {port} at {self.address}: {error} after "
                        f"{timeout * self.patience:g} s\n{self.journal()}"
                    ) from error
            time.sleep(0.1)

    def wait_for_boot(self, *, timeout: float = 60) -> None:
        """Wait until systemd has started what it starts at boot, and ssh answers."""
        self.wait_until(
            "systemctl is-system-running 2>&1 | grep -qxE 'running|degraded'",
            timeout=timeout,
            what="systemd has not come up",
        )
        self.wait_for_open_port(22, timeout=timeout)

    def unplug(self, handle: str) -> None:
        """Take the GPU called `handle` out, until `plug_all`."""
        self._plug(tuple(gpu for gpu in self.gpus if gpu.handle != handle))

    def plug_all(self) -> None:
        """Put all GPUs back in."""
        self._plug(self.gpus)

    def gpu_faults(self, *lines: str) -> None:
        """Have the simulated NVML play these, and no others: see hardware/nvml."""
        self.put(FAULTS, "".join(f"{line}\n" for line in lines).encode())

    def _plug(self, gpus: tuple[SimulatedGpu, ...]) -> None:
        self.put(TABLE, gpu_table(gpus))

    @property
    def boot_id(self) -> str:
        """The kernel's name of this boot."""
        return self.succeed("cat /proc/sys/kernel/random/boot_id")

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the network reaches it: `address`, and its IPv6 address where the lab has IPv6."""
        words = "{{range .NetworkSettings.Networks}}{{.GlobalIPv6Address}}{{end}}"
        shown = self.engine.docker("inspect", "--format", words, self.container).strip()
        return (self.address, shown) if shown else (self.address,)
