"""A lab machine with a kernel of its own: a virtual machine behind the verbs of `Driver`."""

import contextlib
import dataclasses
import ipaddress
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from homeport.lab import LabError, nvml
from homeport.lab.cache import Progress, quiet
from homeport.lab.driver import Driver
from homeport.lab.engine import Engine
from homeport.lab.gpus import gpu_table, simulated_gpus
from homeport.lab.machine import archive, firmware, key_pair, packages
from homeport.lab.network import Network
from homeport.lab.sources import TIME
from homeport.lab.vm import disk, emulator
from homeport.lab.vm.agent import Agent, AgentGone
from homeport.lab.vm.emulator import CONSOLE, STAGE, EmulatorEnded, Hardware

# What QEMU cannot give: the display devices stand for GPUs, and the driver's view is simulated.
LACKS = {
    "nvidia_driver": "the GPUs are simulated: there is nothing that a driver could be loaded for",
    "cuda": "the GPUs are simulated, and the lab's llama-server is a build for the CPU",
}
# mac80211_hwsim numbers its radios; the second is for the clients of the node's network.
RADIOS = ("02:00:00:00:00:00", "02:00:00:00:01:00")
DESKSIDE = Hardware()
# What Docker falls back to as well where the host's name server listens on loopback alone.
PUBLIC_RESOLVERS = b"nameserver 8.8.8.8\nnameserver 8.8.4.4\n"

# Puts the machine on the lab's network: its card and the container's are on one bridge.
BRIDGE = """\
ip link add lan type bridge && ip tuntap add dev tap0 mode tap
ip address flush dev eth0 && ip -6 address flush dev eth0
for one in eth0 tap0; do ip link set "$one" master lan up; done
ip link set lan up
"""

# The address is as an installer leaves it: in a file, for this card alone.
LAN = """\
[Match]
MACAddress={mac}
[Network]
Address={address}/{prefix}
Gateway={gateway}
NTP={time}
IPv6AcceptRA=no
"""


class VirtualMachine(Driver):
    """One virtual machine; made by `virtual_machine`. `directory` has its disk and its console."""

    lacks = LACKS
    patience = 5.0

    def __init__(self, *, directory: Path, **common: Any) -> None:
        super().__init__(**common)
        self.directory = directory
        self.agent = Agent(directory / "agent")
        self.words: list[str] = []
        self.accelerated: tuple[str, ...] = ()
        self.on = False  # whether it has been switched on, and not off since

    def run(
        self, command: str, *, timeout: float = 300, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            code, output, errors = self.agent.run(
                command, timeout=timeout * self.patience, stdin=stdin
            )
        except AgentGone:
            if self.on:  # QEMU outlives a reboot
                emulator.require_running(self.engine, self.container)
            raise
        return subprocess.CompletedProcess(command, code, output, errors)

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.unpack({path: (data, mode)})

    def unpack(self, files: dict[str, tuple[bytes, int]]) -> None:
        """Write files of root's, path to contents and mode, with their directories."""
        self.succeed("tar -xC / --no-overwrite-dir", stdin=archive(files))

    def journal(self, lines: int = 40) -> str:
        with contextlib.suppress(LabError):
            done = self.run(f"journalctl --no-pager --quiet --lines={lines}", timeout=10)
            if done.returncode == 0:
                return done.stdout.decode(errors="replace").strip()
        return self.console(lines)

    def console(self, lines: int = 40) -> str:
        """The end of what came out of the serial console, over all boots."""
        with contextlib.suppress(OSError):
            text = (self.directory / CONSOLE).read_text(errors="replace")
            return "\n".join(text.replace("\r", "").splitlines()[-lines:])
        return ""

    def reboot(self, *, timeout: float = 120) -> None:
        before = self.boot_id
        with contextlib.suppress(AgentGone):  # the agent may go before it has answered
            self.run("systemctl reboot")
        self.wait_for_another_boot(before, timeout=timeout)

    def power_cut(self) -> None:
        self.on = False
        self.engine.docker("kill", self.container)

    def start(self, *, timeout: float = 120) -> None:
        self.power_on()
        self.wait_for_boot(timeout=timeout)

    def fit(self, hardware: Hardware) -> None:
        """Have a machine that is off consist of `hardware`, with the disk that it has."""
        self.engine.run("rm", "--force", "--volumes", self.container)
        script = command_line(hardware, self.accelerated, self.address)
        emulator.create(self.engine, self.container, self.directory, self.words, script)

    def power_on(self) -> None:
        """Start the emulator, and wait for nothing."""
        self.engine.docker("start", self.container)
        self.on = True

    def wait_for_another_boot(self, before: str, *, timeout: float = 120) -> str:
        """Wait until the machine has booted again and its id is not `before`; the new one."""
        deadline = time.monotonic() + timeout * self.patience
        while True:
            try:
                now = self.boot_id
                if now != before:
                    left = max(1, deadline - time.monotonic())
                    self.wait_for_boot(timeout=left / self.patience)
                    return now
            except EmulatorEnded:
                raise
            except LabError:
                pass  # it is on its way down or up
            if time.monotonic() > deadline:
                raise LabError(
                    f"{self.name}: no other boot within {timeout * self.patience:g} s\n"
                    f"{self.console()}"
                )
            time.sleep(0.5)

    def wait_until(self, command: str, *, timeout: float = 60, what: str = "") -> str:
        deadline = time.monotonic() + timeout * self.patience
        while True:  # on its way up or down the guest has no agent
            try:
                left = max(0.1, deadline - time.monotonic()) / self.patience
                return super().wait_until(command, timeout=left, what=what)
            except AgentGone as error:
                if time.monotonic() > deadline:
                    raise LabError(
                        f"{self.name}: {what or command}: {error}\n{self.console()}"
                    ) from error
                time.sleep(0.5)


def emulated(engine: Engine, hardware: Hardware, progress: Progress = quiet) -> bool:
    """Whether QEMU translates a machine's code, for want of KVM."""
    kernel = disk.bare_disk(engine, hardware, progress).kernel
    return emulator.acceleration(engine, kernel, progress) == emulator.TRANSLATING


@contextmanager
def virtual_machine(
    engine: Engine,
    network: Network,
    name: str,
    *,
    directory: Path,
    ssh_key: Path,
    ssh_public: str,
    hardware: Hardware = DESKSIDE,
    names: dict[str, str] | None = None,
    gpus: tuple[str, ...] = (),
    hook: bool = True,
    cards: tuple[str, ...] = (),
    radios: bool = False,
    progress: Progress = quiet,
) -> Iterator[VirtualMachine]:
    """A booted virtual machine on `network` with a bare Debian, for the length of the block.

    Its disk is an overlay in `directory`, which the caller takes away. `names` are names to
    addresses for its /etc/hosts, `gpus` the handles of its simulated GPUs, which Docker finds a
    `hook` for, `cards` those of its display devices, `radios` says that it has two simulated Wi-Fi
    radios.
    """
    base = disk.bare_disk(engine, hardware, progress)
    directory.mkdir(parents=True, exist_ok=True)
    disk.overlay(engine, base, directory)
    container, address = f"{network.name}-{name}", network.address()
    host = key_pair()
    simulated = tuple(
        dataclasses.replace(gpu, pci=f"0000{hardware.card(number)['address']}")
        for number, gpu in enumerate(simulated_gpus(name, gpus))
    )
    made = VirtualMachine(
        engine=engine,
        name=name,
        container=container,
        address=address,
        host_key=host[1],
        ssh_key=ssh_key,
        gpus=simulated,
        radios=RADIOS if radios else (),
        cards={name: hardware.card(number) for number, name in enumerate(cards)},
        directory=directory,
    )
    with packages("trixie", container, engine) as shared:
        try:
            accelerated = emulator.acceleration(engine, base.kernel, progress)
            made.words = [*network.at(address), "--cap-add", "NET_ADMIN"]
            made.words += ["--device", "/dev/net/tun", "--volume", f"{shared}:/packages"]
            made.accelerated = accelerated
            made.fit(hardware)
            progress(f"booting the virtual machine {name} ({accelerated[1].split(',')[0]})")
            made.power_on()
            made.wait_until("true", timeout=60, what="the machine does not boot")
            files = firmware(name, names or {}, ssh_public, host, gpu_table(simulated), hook)
            if simulated:
                files |= nvml.files(nvml.library(engine, progress))
            made.unpack(placed(files) | lan(made, network, radios=radios))
            made.succeed(FIRST_BOOT)
            made.wait_for_boot()
            yield made
        finally:
            if not engine.keeping:
                engine.run("rm", "--force", "--volumes", container)


# What an installer has asked for is there now; the services that read it began without it, and ssh,
# which had no host key, was given up.
FIRST_BOOT = """\
hostname "$(cat /etc/hostname)"
systemctl reset-failed
systemctl restart systemd-networkd.service ssh.service
systemctl restart systemd-modules-load.service
"""


def placed(files: dict[str, tuple[bytes, int]]) -> dict[str, tuple[bytes, int]]:
    """`firmware`'s files, with those that a container copies at power-on in their places.

    Without a name server of the host's there are public ones.
    """
    lab = "/usr/lib/lab-machine/"
    return {"/etc/resolv.conf": (PUBLIC_RESOLVERS, 0o644)} | {
        path.replace(lab, "/etc/"): content
        for path, content in files.items()
        if path != f"{lab}power-on"
    }


def lan(made: VirtualMachine, network: Network, *, radios: bool) -> dict[str, tuple[bytes, int]]:
    """The files that put the machine on the lab's network, and give it its radios."""
    text = LAN.format(
        mac=mac(made.address),
        address=made.address,
        prefix=network.subnet.prefixlen,
        gateway=network.subnet[1],
        time=TIME,
    )
    for address in made.addresses[1:]:
        text += f"Address={ipaddress.IPv6Address(address)}/64\n"
    files = {"/etc/systemd/network/10-lan.network": (text.encode(), 0o644)}
    if radios:
        files["/etc/modules-load.d/lab-radios.conf"] = (b"mac80211_hwsim\n", 0o644)
        files["/etc/modprobe.d/lab-radios.conf"] = (b"options mac80211_hwsim radios=2\n", 0o644)
    return files


def mac(address: str) -> str:
    """The MAC address of the machine's card, of its own on the lab's network as `address` is."""
    return "52:54:00:" + ipaddress.IPv4Address(address).packed[1:].hex(":")


def command_line(hardware: Hardware, accelerated: tuple[str, ...], address: str) -> str:
    """The shell script that the machine's container runs: the network, then QEMU in its place."""
    words = ["qemu-system-x86_64", *accelerated, *hardware.devices(), *emulator.channels()]
    drive = f"file={STAGE}/disk.qcow2,if=none,id=disk,cache=unsafe,discard=unmap"
    words += ["-drive", f"{drive},{emulator.TELL}"]
    words += ["-device", "virtio-blk-pci,drive=disk,addr=0x2,bootindex=0"]
    words += ["-netdev", "tap,id=lan,ifname=tap0,script=no,downscript=no"]
    words += ["-device", f"virtio-net-pci,netdev=lan,mac={mac(address)},romfile=,addr=0x3"]
    words += ["-virtfs", "local,path=/packages,mount_tag=packages,security_model=none"]
    return f"{BRIDGE}rm -f {STAGE}/agent\nexec {' '.join(words)}"
