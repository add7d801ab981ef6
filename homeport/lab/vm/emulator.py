"""The hardware that QEMU emulates, and the container that it runs in.

In a container, so that nothing is installed on the host, the machine has an address on the lab's
network like any other, and everything is gone with the container. KVM is used where it works, which
is tried and not inferred from a file; else QEMU translates code, five to ten times slower.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from homeport.lab import LabError, cache, images
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine

PACKAGES = (
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
    "iproute2",
    "fdisk",
    "e2fsprogs",
    "libarchive13t64",  # mke2fs fills a file system from a tar archive with it
)
STAGE = "/stage"  # in the container: the machine's own directory
CONSOLE = "console.log"
BASE = "/base"  # in the container: the disks that it builds upon, read-only

FIRST_CARD = 0x8  # the slot of the first card's root port

# Translating: a model of CPU that every kernel boots on; `max` has crashed Debian 13's early boot.
# Without the wide registers, which take longer to translate than they save, and with instructions
# for SHA-256, which halve the time that a checksum takes.
CPU = "Haswell-v4,-avx,-avx2,-fma,-f16c,+sha-ni"
TRANSLATING = ("-accel", "tcg,thread=multi,tb-size=1024", "-cpu", CPU)
KVM = ("-accel", "kvm", "-cpu", "host")

# A host without room is the guest's I/O error, which it tells; by default QEMU would stop it
# without a word. qemu(1): `-drive werror=`.
TELL = "werror=report"
ROOM_GIB = 6  # what a machine of Iona's size writes, and a disk that is made anew


class EmulatorEnded(LabError):
    """QEMU is not running, and nobody has switched the machine off; the text has its last words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardware:
    """What is in the box. `root` says what its file system lies on.

    `cards` display devices, identical, each behind a root port of its own, with an audio device as
    a second function. `port_before` puts another root port before them, which shifts their
    addresses. `second_nic` is in an IOMMU group of its own.
    """

    root: Literal["plain", "lvm"] = "plain"
    memory_mib: int = 4096
    cpus: int = 2
    cards: int = 2
    port_before: bool = False
    second_nic: bool = True
    watchdog: bool = True

    def card(self, number: int) -> dict[str, str]:
        """What a targets file says of display device `number`."""
        slot = FIRST_CARD + number
        bus = 1 + self.port_before + number  # firmware and kernel count in the order of the slots
        return {
            "address": f"0000:{bus:02x}:00.0",
            "id": "1234:1111",
            "subsystem": "1af4:1100",
            "place": f"pci0000:00/{slot:02x}.0/00.0",
        }

    def devices(self) -> list[str]:
        """QEMU's arguments for all of it."""
        words = ["-M", "q35,kernel-irqchip=split", "-device", "intel-iommu,intremap=on"]
        words += ["-smp", str(self.cpus), "-m", str(self.memory_mib)]
        words += ["-display", "none", "-vga", "none", "-device", "virtio-rng-pci,addr=0x1d"]
        if self.port_before:
            words += _port("extra", 0x4) + _device("e1000e,bus=extra,romfile=,netdev=extra")
            words += ["-netdev", "user,id=extra,restrict=on"]
        for number in range(self.cards):
            port = f"card{number}"
            words += _port(port, FIRST_CARD + number)
            words += _device(f"bochs-display,bus={port},addr=0.0,multifunction=on,romfile=")
            words += _device(f"intel-hda,bus={port},addr=0.1")
        if self.second_nic:
            words += ["-netdev", "user,id=second,restrict=on", *_port("second", 0x10)]
            words += _device("e1000e,bus=second,romfile=,netdev=second,mac=52:54:00:12:34:02")
        if self.watchdog:
            words += [*_device("i6300esb,addr=0x1c"), "-action", "watchdog=reset"]
        return words


def _device(text: str) -> list[str]:
    return ["-device", text]


def _port(name: str, slot: int) -> list[str]:
    """A root port in `slot` of the root bus; its chassis makes it one of its own."""
    return _device(f"pcie-root-port,id={name},chassis={slot},slot={slot},addr={slot:#x}")


def channels() -> list[str]:
    """QEMU's arguments for the ways in: the guest agent, and the log of the serial console."""
    return [
        *("-device", "virtio-serial-pci,addr=0x1e"),
        *("-chardev", f"socket,id=agent,path={STAGE}/agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0"),
        *("-chardev", f"file,id=console,path={STAGE}/{CONSOLE},append=on"),
        *("-serial", "chardev:console"),
    ]


def require_host() -> None:
    """Raise `LabError` where no virtual machine can be made: another architecture, or no room."""
    architecture, place = os.uname().machine, cache.root()
    if architecture != "x86_64":
        raise LabError(
            f"the lab's virtual machines need an x86_64 host, and this is {architecture}"
        )
    free = shutil.disk_usage(place).free / 2**30
    if free < ROOM_GIB:
        raise LabError(
            f"{place}: {free:.1f} GiB are free, and a virtual machine needs {ROOM_GIB} GiB: make "
            "room, or put the cache elsewhere with XDG_CACHE_HOME"
        )


def image(engine: Engine, progress: Progress = quiet) -> str:
    """The image of the emulator's container."""
    return images.debian_image(engine, "emulator", "trixie", PACKAGES, (), progress)


def acceleration(engine: Engine, kernel: Path, progress: Progress = quiet) -> tuple[str, ...]:
    """QEMU's arguments for the quickest way that works here; `kernel` is tried on KVM."""
    return (
        KVM if Path("/dev/kvm").exists() and _kvm_works(engine, kernel, progress) else TRANSLATING
    )


def _kvm_works(engine: Engine, kernel: Path, progress: Progress) -> bool:
    """Whether a kernel's first words appear under KVM. A /dev/kvm that exists proves nothing."""
    booted = "qemu-system-x86_64 -accel kvm -cpu host -m 512 -display none -no-reboot -serial stdio"
    script = (
        f"timeout 20 {booted} -kernel {BASE}/{kernel.name} "
        "-append 'console=ttyS0 panic=-1' 2>&1 </dev/null | grep -q 'Linux version'"
    )
    words = ["run", "--rm", *engine.labels, "--device", "/dev/kvm", "--network", "none"]
    words += ["--volume", f"{kernel.parent}:{BASE}:ro", image(engine, progress), "sh", "-c", script]
    try:
        return engine.run(*words, timeout=60).returncode == 0
    except LabError:  # no end in time: KVM hangs, which is as good as none
        return False


def run_tool(engine: Engine, directory: Path, script: str, *, timeout: float = 600) -> str:
    """Run a shell script among the emulator's tools, with `directory` as `STAGE`; what it prints.

    `timeout` in seconds. Raises `LabError` with the script's words when it fails.
    """
    # mke2fs reads names from the archive by way of the locale.
    words = ["run", "--rm", *engine.labels, "--network", "none", "--env", "LC_ALL=C.UTF-8"]
    words += [
        "--volume",
        f"{directory}:{STAGE}",
        "--volume",
        f"{cache.directory('disks')}:{BASE}:ro",
    ]
    done = engine.run(*words, image(engine), "sh", "-euc", f"cd {STAGE}\n{script}", timeout=timeout)
    if done.returncode:
        said = (done.stderr + done.stdout).decode(errors="replace").strip()
        raise LabError(f"making a disk: {said[-1500:]}")
    return done.stdout.decode(errors="replace").strip()


def create(engine: Engine, container: str, directory: Path, words: list[str], script: str) -> None:
    """Make the container of an emulator that runs `script`; `words` are further arguments."""
    fixed = ["create", "--name", container, *engine.labels, "--stop-timeout", "0"]
    fixed += ["--volume", f"{directory}:{STAGE}"]
    fixed += ["--volume", f"{cache.directory('disks')}:{BASE}:ro"]
    if "-accel kvm" in script:
        fixed += ["--device", "/dev/kvm"]
    engine.docker(*fixed, *words, image(engine), "sh", "-euc", script)


def require_running(engine: Engine, container: str) -> None:
    """Raise `EmulatorEnded` when the emulator in `container` is not running."""
    asked = "{{.State.Running}} {{.State.ExitCode}} {{.State.OOMKilled}}"
    running, code, starved = engine.docker("inspect", "--format", asked, container).split()
    if running == "true":
        return
    log = engine.run("logs", "--tail", "20", container)
    said = (log.stdout + log.stderr).decode(errors="replace").strip()
    killed = ", killed: is there enough memory?" if starved == "true" or code == "137" else ""
    raise EmulatorEnded(f"{container}: QEMU has ended (exit {code}{killed})\n{said}".strip())
