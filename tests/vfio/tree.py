"""A sysfs of PCI devices on the disk, as Linux lays it out, for what reads one."""

import shutil
from dataclasses import dataclass
from pathlib import Path

GPU, SOUND, PORT = "10de:1e07", "10de:10f7", "8086:1901"
BOARD = "1462:3711"


@dataclass(frozen=True)
class Function:
    """A PCI function at `path` below the root bus, such as "0000:00:01.0/0000:01:00.0"."""

    path: str
    id: str
    kind: str
    driver: str = ""
    group: str = ""
    subsystem: str = BOARD
    boot_vga: bool = False

    @property
    def address(self) -> str:
        return self.path.rsplit("/", 1)[-1]


def port(path: str, group: str) -> Function:
    """A root port, with its driver."""
    return Function(path, PORT, "060400", "pcieport", group, "0000:0000")


def card(
    path: str, group: str, *, driver: str = "nouveau", sound: str = "snd_hda_intel"
) -> list[Function]:
    """A card of two functions, the display at `path` + ".0"."""
    return [
        Function(f"{path}.0", GPU, "030000", driver, group),
        Function(f"{path}.1", SOUND, "040300", sound, group),
    ]


# Two cards that look alike, each behind a root port of its own.
LEFT = [port("0000:00:01.0", "1"), *card("0000:00:01.0/0000:01:00", "1", driver="nvidia")]
RIGHT = [port("0000:00:1c.0", "2"), *card("0000:00:1c.0/0000:02:00", "2")]
TWINS = [*LEFT, *RIGHT]
# The same, after a port and a disk were plugged in at 00:01.1: the right card has another bus.
SHIFTED = [
    *LEFT,
    port("0000:00:01.1", "3"),
    Function("0000:00:01.1/0000:02:00.0", "144d:a808", "010802", "nvme", "4"),
    port("0000:00:1c.0", "2"),
    *card("0000:00:1c.0/0000:03:00", "2"),
]
# The firmware gave a new port the number of the left card's: both cards moved up by one.
MOVED = [
    port("0000:00:01.0", "1"),
    port("0000:00:1c.0", "2"),
    *card("0000:00:1c.0/0000:02:00", "2", driver="nvidia"),
    port("0000:00:1c.1", "3"),
    *card("0000:00:1c.1/0000:03:00", "3"),
]


def build(root: Path, functions: list[Function]) -> Path:
    """Lay `functions` out as a sysfs at `root`, in the place of what was there; returns `root`."""
    shutil.rmtree(root, ignore_errors=True)
    links = root / "bus/pci/devices"
    links.mkdir(parents=True)
    (root / "devices").mkdir()
    (root / "bus/pci/drivers_probe").write_text("")
    for one in functions:
        device = root / "devices/pci0000:00" / one.path
        device.mkdir(parents=True, exist_ok=True)
        vendor, number = one.id.split(":")
        board_vendor, board = one.subsystem.split(":")
        values = {
            "vendor": f"0x{vendor}",
            "device": f"0x{number}",
            "subsystem_vendor": f"0x{board_vendor}",
            "subsystem_device": f"0x{board}",
            "class": f"0x{one.kind}",
            "modalias": f"pci:v0000{vendor}d0000{number}",
            "driver_override": "(null)",
        }
        if one.kind.startswith("03"):
            values["boot_vga"] = str(int(one.boot_vga))
        for name, value in values.items():
            (device / name).write_text(f"{value}\n")
        (links / one.address).symlink_to(device)
        if one.driver:
            driver = root / "bus/pci/drivers" / one.driver
            driver.mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(driver)
        if one.group:
            members = root / "kernel/iommu_groups" / one.group / "devices"
            members.mkdir(parents=True, exist_ok=True)
            (members / one.address).symlink_to(device)
            (device / "iommu_group").symlink_to(members.parent)
    return root
