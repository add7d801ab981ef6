"""What this machine is: system, GPUs, IOMMU groups, radios, disks, boot loader, memory.

Only reads, and needs nothing but Python; what cannot be read is empty or None. Without root some
of it (the boot loader's own word, other users' mounts) may be missing.
"""

import csv
import os
import platform
import re
from pathlib import Path
from typing import Any

from homeport_node.common import read, run

SYS = Path("/sys")
NVIDIA = "0x10de"  # the PCI-SIG's number for the vendor
# Written by the boot loader that started the machine: the Boot Loader Interface's LoaderInfo.
LOADER_INFO = "firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f"
# `nvidia-smi --help-query-gpu` names these; with nounits memory is in MiB and power in W.
GPU_FIELDS = (
    "index",
    "name",
    "uuid",
    "pci.bus_id",
    "memory.total",
    "power.min_limit",
    "power.max_limit",
)
DISK_FILESYSTEMS = ("ext4", "ext3", "xfs", "btrfs", "zfs", "f2fs", "overlay")


def observe() -> "dict[str, Any]":
    """Everything that a targets file is made of; see `homeport.probe` for how it is read."""
    gpus, words = _gpus()
    return {
        "os": _os_release(read("/etc/os-release") or ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "arch": platform.machine(),
        "processors": os.cpu_count() or 0,
        "memory_mib": _memory_mib(read("/proc/meminfo") or ""),
        "virtualization": run("systemd-detect-virt").out.strip(),
        "container": _container(),
        "gpus": gpus,
        "gpus_words": words,
        "nvidia_functions": _nvidia_functions(),
        "displays": _displays(),
        "iommu_groups": _iommu_groups(),
        "radios": _radios(),
        "disks": _disks(),
        "filesystems": _filesystems(read("/proc/mounts") or ""),
        "boot_loader": _boot_loader(),
    }


def _os_release(text: str) -> "dict[str, str]":
    """{"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)"}"""
    pairs = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    keys = {"id": "ID", "version": "VERSION_ID", "name": "PRETTY_NAME"}
    return {short: pairs.get(key, "").strip("\"'") for short, key in keys.items()}


def _memory_mib(text: str) -> int:
    found = re.search(r"^MemTotal:\s+(\d+) kB", text, re.M)
    return int(found[1]) // 1024 if found else 0


def _container() -> str:
    """The kind of container that this is ("docker", "lxc"), "" for a machine."""
    ran = run("systemd-detect-virt", "--container")
    if ran.status != 127:
        return ran.out.strip() if ran.ok else ""
    return (read("/run/systemd/container") or "").strip() or (
        "docker" if Path("/.dockerenv").exists() else ""
    )


def _gpus() -> "tuple[list[dict[str, Any]], str]":
    """The GPUs that the driver answers for, and its words when it answers for none."""
    ran = run("nvidia-smi", f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits")
    if ran.status == 127:
        return [], "there is no nvidia-smi: the driver is not installed"
    gpus = parse_gpus(ran.out) if ran.ok else []
    return gpus, "" if gpus else (ran.out + ran.err).strip()[-300:]


def parse_gpus(text: str) -> "list[dict[str, Any]]":
    """The lines that nvidia-smi printed for GPU_FIELDS; memory in MiB, power in W or None."""
    gpus = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != len(GPU_FIELDS) or not row[2].startswith("GPU-"):
            continue
        index, name, uuid, address, memory, least, most = row
        gpus.append(
            {
                "index": int(index),
                "name": name,
                "uuid": uuid,
                "pci": pci_address(address),
                "memory_mib": _number(memory),
                "power_min_w": _number(least),
                "power_max_w": _number(most),
            }
        )
    return gpus


def pci_address(text: str) -> str:
    """nvidia-smi's "00000000:01:00.0" as the kernel writes it: "0000:01:00.0"."""
    return re.sub(r"^0000(?=[0-9a-f]{4}:)", "", text.lower())


def _number(text: str) -> "float | None":
    """A number, or None for "[N/A]" and "[Not Supported]"."""
    try:
        return float(text)
    except ValueError:
        return None


def _target(link: Path) -> str:
    """The last part of what a symbolic link points to, "" when there is none."""
    try:
        return os.path.basename(os.readlink(link))  # noqa: PTH115, PTH119
    except OSError:
        return ""


def _nvidia_functions() -> "list[dict[str, str]]":
    """Every PCI function of the vendor: address, ids, class, driver and IOMMU group."""
    functions = []
    for device in sorted(SYS.glob("bus/pci/devices/*")):
        if (read(device / "vendor") or "").strip() != NVIDIA:
            continue
        functions.append(
            {
                "address": device.name,
                "device": (read(device / "device") or "").strip().removeprefix("0x"),
                "class": (read(device / "class") or "").strip().removeprefix("0x"),
                "driver": _target(device / "driver"),
                "iommu_group": _target(device / "iommu_group"),
            }
        )
    return functions


def _displays() -> "list[dict[str, Any]]":
    """The display devices, whoever drives them, those that the machine boots with last: a card by
    what it is and where it hangs. `homeport_node.vfio.survey` reads the same."""

    def value(path: Path) -> str:
        return (read(path) or "").strip().removeprefix("0x")

    displays = []
    root = os.path.realpath(SYS / "devices")
    for device in sorted(SYS.glob("bus/pci/devices/*")):
        if not value(device / "class").startswith("03"):  # PCI's base class of displays
            continue
        parts = os.path.relpath(os.path.realpath(device), root).split("/")
        own = [device / name for name in ("vendor", "device")]
        board = [device / f"subsystem_{name}" for name in ("vendor", "device")]
        displays.append(
            {
                "address": device.name,
                "id": ":".join(map(value, own)),
                "subsystem": ":".join(map(value, board)),
                # Of a bridge's address the device and function alone: bus numbers shift.
                "place": "/".join(p.split(":")[-1] if p.count(":") > 1 else p for p in parts),
                "driver": _target(device / "driver"),
                "iommu_group": _target(device / "iommu_group"),
                "boot_vga": value(device / "boot_vga") == "1",
            }
        )
    return sorted(displays, key=lambda one: bool(one["boot_vga"]))


def _iommu_groups() -> "dict[str, list[str]]":
    """The PCI functions of every IOMMU group; empty when the IOMMU is off or not to be seen."""
    groups = {}
    for group in SYS.glob("kernel/iommu_groups/*"):
        groups[group.name] = sorted(entry.name for entry in group.glob("devices/*"))
    return groups


def _radios() -> "list[dict[str, Any]]":
    """The Wi-Fi radios; `mac` is the permanent one, `ap` is None when `iw` is not there to ask."""
    radios = []
    for phy in sorted(SYS.glob("class/ieee80211/phy*")):
        interfaces = sorted(entry.name for entry in phy.glob("device/net/*"))
        info = run("iw", "phy", phy.name, "info")
        radios.append(
            {
                "phy": phy.name,
                "interface": interfaces[0] if interfaces else "",
                "mac": (read(phy / "macaddress") or "").strip(),
                "driver": _target(phy / "device" / "driver"),
                "ap": has_access_point(info.out) if info.ok else None,
            }
        )
    return radios


def has_access_point(info: str) -> bool:
    """Whether `iw phy … info` lists AP among the modes that the radio can be put in."""
    modes = re.search(r"Supported interface modes:\n((?:\s+\* .*\n)+)", info)
    return modes is not None and re.search(r"^\s+\* AP$", modes[1], re.M) is not None


def _disks() -> "list[dict[str, Any]]":
    """The disks, not their partitions: {"name", "model", "bytes"}."""
    disks = []
    for block in sorted(SYS.glob("block/*")):
        if re.match(r"(loop|ram|zram|dm-|sr|fd|nbd|md)", block.name):
            continue
        # The file counts sectors of 512 bytes, whatever the disk's own are.
        size = int((read(block / "size") or "0").strip() or 0) * 512
        model = (read(block / "device" / "model") or "").strip()
        if size:
            disks.append({"name": f"/dev/{block.name}", "model": model, "bytes": size})
    return disks


def _filesystems(mounts: str) -> "list[dict[str, Any]]":
    """The file systems that can hold something: {"mount", "type", "bytes", "free_bytes"}."""
    found: dict[int, dict[str, Any]] = {}
    for line in mounts.splitlines():
        _, mount, kind = line.split(" ")[:3]
        mount = re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), mount)
        if kind not in DISK_FILESYSTEMS or not os.path.isdir(mount):  # noqa: PTH112
            continue
        if kind == "overlay" and mount != "/":  # a container's, not a disk's
            continue
        try:
            state, device = os.statvfs(mount), os.stat(mount).st_dev  # noqa: PTH116
        except OSError:
            continue
        size, free = state.f_blocks * state.f_frsize, state.f_bavail * state.f_frsize
        # A file system that is mounted more than once counts once.
        found.setdefault(device, {"mount": mount, "type": kind, "bytes": size, "free_bytes": free})
    return list(found.values())


def _boot_loader() -> str:
    """ "grub", "systemd-boot", "proxmox-boot-tool" (which may drive either), or "none"."""
    if Path("/etc/kernel/proxmox-boot-uuids").exists():
        return "proxmox-boot-tool"
    try:
        info = (SYS / LOADER_INFO).read_bytes().decode("utf-16-le", "ignore")
    except OSError:
        info = ""
    if "systemd-boot" in info:
        return "systemd-boot"
    if Path("/boot/grub/grub.cfg").exists():
        return "grub"
    installed = run("bootctl", "is-installed", timeout=5)
    return "systemd-boot" if installed.out.strip() == "yes" else "none"
