"""The disks of virtual machines: a bare installed Debian that boots through its own GRUB.

Made once and kept in the cache; a machine writes into an overlay of its own. GRUB is installed in
the guest, on a first boot that QEMU loads the kernel for: from then on the disk boots by itself.
"""

import shutil
import tarfile
from dataclasses import dataclass
from pathlib import Path

from homeport.lab import LabError, cache, images
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine
from homeport.lab.vm import emulator
from homeport.lab.vm.emulator import BASE

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
# The console is the machine's owner's wish, and no business of Homeport's: it has to stay.
GRUB = 'GRUB_TIMEOUT=1\\nGRUB_CMDLINE_LINUX="console=tty0 console=ttyS0"\\nGRUB_TERMINAL=console\\n'
HOOKS = (
    *images.BARE,
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
        _build(path, engine, release, progress)

    return _disk(cache.entry("disks", name, build, progress))


def _disk(place: Path) -> Disk:
    return Disk(image=place / "disk.raw", kernel=place / "vmlinuz", initrd=place / "initrd.img")


def overlay(engine: Engine, disk: Disk, directory: Path, name: str = "disk.qcow2") -> None:
    """Make `name` in `directory`: a disk that is `disk` until it is written to."""
    inside = f"{BASE}/{disk.image.parent.name}/{disk.image.name}"
    emulator.run_tool(engine, directory, f"qemu-img create -q -f qcow2 -F raw -b {inside} {name}")


INSTALL = "grub-install /dev/vda && update-grub && sync"


def _build(path: Path, engine: Engine, release: str, progress: Progress) -> None:
    archive = cache.entry(
        "images",
        f"machine-{release}-{cache.key(release, PACKAGES, HOOKS)}.tar",
        lambda to: images.bootstrap(to, release, PACKAGES, HOOKS, progress),
        progress,
    )
    path.mkdir()
    (path / "root.tar").hardlink_to(archive)
    _kernel(archive, path)
    progress("making a virtual machine's disk (once; about a minute)")
    emulator.run_tool(engine, path, PARTITION)
    (path / "root.tar").unlink()
    from homeport.lab.vm.machine import booted_once

    with booted_once(engine, _disk(path), progress) as agent:
        code, said, errors = agent.run(INSTALL, timeout=600)
        if code:
            raise LabError(f"grub-install: {(said + errors).decode(errors='replace')[-1500:]}")


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
