"""The disks of virtual machines: a bare installed Debian that boots through its own GRUB.

Made once and kept in the cache; a machine writes into an overlay of its own. GRUB is installed in
the guest, on a first boot that QEMU loads the kernel for: from then on the disk boots by itself.
"""

import contextlib
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from homeport.lab import LabError, cache, images
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine
from homeport.lab.vm import emulator
from homeport.lab.vm.agent import Agent, AgentGone
from homeport.lab.vm.emulator import BASE, CONSOLE, STAGE, Hardware

# What a fresh Debian server with ssh has, plus the agent that the lab speaks with.
PACKAGES = (
    *images.NODE,
    "linux-image-amd64",
    "grub-pc",
    "initramfs-tools",
    "busybox",
    "zstd",
    "kmod",
    "fdisk",
    "e2fsprogs",
    "qemu-guest-agent",
)
ROOT_UUID = "6f6d6570-6f72-4c61-8264-69736b000001"
SIZE_MIB = 20 * 1024
# The packages that machines share come over 9p, see `machine`. `nofail`: there may be none.
FSTAB = f"""\
UUID={ROOT_UUID} / ext4 errors=remount-ro 0 1
packages /var/cache/apt/archives 9p trans=virtio,version=9p2000.L,msize=262144,nofail 0 0
"""
# What the machine's owner wants, and no business of Homeport's: it has to stay. An emulator without
# KVM on a busy host ticks too unevenly for the kernel's check of its timer; and there each system
# call of a kernel that guards itself against Meltdown throws away what QEMU knows of the memory: a
# fifth of the time.
OWNERS = "console=tty0 console=ttyS0 no_timer_check mitigations=off"
GRUB = f'GRUB_TIMEOUT=1\\nGRUB_CMDLINE_LINUX="{OWNERS}"\\nGRUB_TERMINAL=console\\n'
HOOKS = (
    *images.BARE,
    # What Debian's installer calls "targeted": an initramfs for this machine takes half the time
    # that one for any machine takes. initramfs.conf(5).
    'echo MODULES=dep > "$1"/etc/initramfs-tools/conf.d/driver-policy',
    f"printf '{FSTAB}' > \"$1\"/etc/fstab".replace("\n", "\\n"),
    f"printf '{GRUB}' >> \"$1\"/etc/default/grub",
    'chroot "$1" systemctl enable systemd-networkd.service',
)

PARTITION = f"""\
truncate -s {SIZE_MIB}M disk.raw
printf 'label: dos\\nstart=2048, type=83, bootable\\n' | sfdisk --quiet disk.raw
mke2fs -q -t ext4 -U {ROOT_UUID} -E offset=1048576,root_owner=0:0 -d root.tar disk.raw \\
    {SIZE_MIB - 1}M
"""

INSTALL = "grub-install /dev/vda && update-grub && sync"

# The same system on a logical volume, which GRUB reads and cannot write.
ON_LVM = f"""\
set -e
printf 'label: dos\\nstart=2048, type=8e, bootable\\n' | sfdisk --quiet /dev/vdb
pvcreate -q /dev/vdb1 && vgcreate -q box /dev/vdb1 && lvcreate -q -l 100%FREE -n root box
mkfs.ext4 -q -U {ROOT_UUID[:-1]}2 /dev/box/root && mount /dev/box/root /mnt
tar -C / --one-file-system --exclude=./mnt/* -cf - . | tar -C /mnt -xf -
sed -i 's|^UUID={ROOT_UUID}|/dev/mapper/box-root|' /mnt/etc/fstab
for one in dev proc sys; do mount --bind /$one /mnt/$one; done
chroot /mnt grub-install /dev/vdb && chroot /mnt update-grub
umount /mnt/dev /mnt/proc /mnt/sys /mnt && sync
"""
LVM = (*PACKAGES, "lvm2")
RAW = f"format=raw,if=virtio,cache=unsafe,{emulator.TELL}"


@dataclass(frozen=True, slots=True)
class Disk:
    """A disk in the cache: `image` is its file, `kernel` and `initrd` what it has in /boot."""

    image: Path
    kernel: Path
    initrd: Path


def plain_disk(engine: Engine, release: str = "trixie", progress: Progress = quiet) -> Disk:
    """A disk with one ext4 partition, GRUB in its first sectors (BIOS, MBR)."""
    name = f"plain-{release}-{cache.key(release, PACKAGES, HOOKS, PARTITION, INSTALL)}"

    def build(path: Path) -> None:
        seed = _seed(path, engine, release, PACKAGES, progress)
        with _booted(engine, seed, progress) as agent:
            _do(agent, INSTALL)

    return _disk(cache.entry("disks", name, build, progress))


def lvm_disk(engine: Engine, release: str = "trixie", progress: Progress = quiet) -> Disk:
    """A disk whose root, with /boot, is a logical volume."""
    name = f"lvm-{release}-{cache.key(release, LVM, HOOKS, PARTITION, ON_LVM)}"

    def build(path: Path) -> None:
        seed = _seed(path, engine, release, LVM, progress)
        emulator.run_tool(engine, path, f"truncate -s {SIZE_MIB}M lvm.raw")
        second = ["-drive", f"file={STAGE}/lvm.raw,{RAW}"]
        with _booted(engine, seed, progress, second) as agent:
            _do(agent, ON_LVM)
        emulator.run_tool(engine, path, "mv lvm.raw disk.raw")

    return _disk(cache.entry("disks", name, build, progress))


def bare_disk(engine: Engine, hardware: Hardware, progress: Progress = quiet) -> Disk:
    """The disk that `hardware` comes with."""
    make = lvm_disk if hardware.root == "lvm" else plain_disk
    return make(engine, progress=progress)


def _disk(place: Path) -> Disk:
    return Disk(image=place / "disk.raw", kernel=place / "vmlinuz", initrd=place / "initrd.img")


def overlay(engine: Engine, disk: Disk, directory: Path, name: str = "disk.qcow2") -> None:
    """Make `name` in `directory`: a disk that is `disk` until it is written to."""
    inside = f"{BASE}/{disk.image.parent.name}/{disk.image.name}"
    emulator.run_tool(engine, directory, f"qemu-img create -q -f qcow2 -F raw -b {inside} {name}")


def _seed(
    path: Path, engine: Engine, release: str, packages: tuple[str, ...], progress: Progress
) -> Disk:
    """A disk without a boot loader, in the new directory `path`."""
    archive = cache.entry(
        "images",
        f"machine-{release}-{cache.key(release, packages, HOOKS)}.tar",
        lambda to: images.bare_root(to, release, packages, HOOKS, progress),
        progress,
    )
    path.mkdir()
    (path / "root.tar").hardlink_to(archive)
    _kernel(archive, path)
    progress("making a virtual machine's disk (once; one to three minutes)")
    emulator.run_tool(engine, path, PARTITION)
    (path / "root.tar").unlink()
    return _disk(path)


def _do(agent: Agent, script: str) -> None:
    code, said, errors = agent.run(script, timeout=1200)
    if code:
        raise LabError(f"making a disk: {(said + errors).decode(errors='replace')[-1500:]}")


def _kernel(archive: Path, to: Path) -> None:
    """Take the kernel and the initramfs out of a root file system's `archive`."""
    with tarfile.open(archive) as tar:
        for member in tar:
            for name in ("vmlinuz", "initrd.img"):
                if member.isreg() and member.name.startswith(f"./boot/{name}-"):
                    source = tar.extractfile(member)
                    assert source is not None
                    with (to / name).open("wb") as file:
                        shutil.copyfileobj(source, file)


@contextmanager
def _booted(
    engine: Engine, base: Disk, progress: Progress = quiet, more: Sequence[str] = ()
) -> Iterator[Agent]:
    """Boot `base`, writing to it, with its kernel given by QEMU; the guest's agent. Then power off.

    `more` are further arguments of QEMU's.
    """
    directory = base.image.parent
    accelerated = emulator.acceleration(engine, base.kernel, progress)
    words = ["qemu-system-x86_64", *accelerated, *Hardware(cards=0, second_nic=False).devices()]
    words += [*emulator.channels(), "-no-reboot"]
    words += ["-drive", f"file={STAGE}/{base.image.name},{RAW}", *more]
    words += ["-kernel", f"{STAGE}/{base.kernel.name}", "-initrd", f"{STAGE}/{base.initrd.name}"]
    words += ["-nic", "none", "-append", f"'root=UUID={ROOT_UUID} ro {OWNERS}'"]
    container = f"homeport-lab-disk-{directory.parent.name.strip('.')}"
    agent = Agent(directory / "agent")
    try:
        emulator.create(engine, container, directory, ["--network", "none"], " ".join(words))
        engine.docker("start", container)
        _wait_for_agent(agent, directory, lambda: emulator.require_running(engine, container))
        yield agent
        with contextlib.suppress(AgentGone):
            agent.run("systemctl poweroff")
        engine.docker("wait", container, timeout=300)
    except AgentGone:
        emulator.require_running(engine, container)
        raise
    finally:
        engine.run("rm", "--force", "--volumes", container)
    for name in ("agent", CONSOLE):
        (directory / name).unlink(missing_ok=True)


def _wait_for_agent(
    agent: Agent, directory: Path, check: Callable[[], None], timeout: float = 300
) -> None:
    """Wait until the guest's agent answers; `LabError` with its console after `timeout` seconds.

    What `check` raises ends it at once.
    """
    deadline = time.monotonic() + timeout
    while not agent.alive():
        check()
        if time.monotonic() > deadline:
            with contextlib.suppress(OSError):
                shown = (directory / CONSOLE).read_text(errors="replace")[-3000:]
                raise LabError(f"the machine did not boot within {timeout:g} s\n{shown}")
            raise LabError(f"the machine did not boot within {timeout:g} s")
        time.sleep(0.5)
