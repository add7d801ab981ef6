"""The workbench on a virtual machine: from bare to proved, through its reboots; then broken.

Of two identical display devices one is given to vfio-pci and one stays, whatever is inserted
before them.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from homeport.lab import desk
from homeport.lab.stage import Stage, stage
from homeport.lab.vm.machine import VirtualMachine
from tests.lab.box import HARDWARE
from tests.lab.plans import assert_same_plan

pytestmark = pytest.mark.machine

INVENTORY = desk.ROOT / "inventory" / "workbench.py"
GUEST, OWN = 1, 0  # the display devices, by number
PYTHON = "/opt/homeport/current/bin/python"
RESET_CAP = (
    "import pynvml as n; n.nvmlInit(); "
    "n.nvmlDeviceSetPowerManagementLimit(n.nvmlDeviceGetHandleByIndex(0), 250000)"
)
POWER = (
    "import pynvml as n; n.nvmlInit(); one = n.nvmlDeviceGetHandleByIndex(0); "
    "print(n.nvmlDeviceGetPowerManagementLimit(one), "
    "n.nvmlDeviceGetPowerManagementDefaultLimit(one))"
)


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The machine, converged once from bare."""
    with stage(INVENTORY, on="machine", hardware=HARDWARE) as made:
        done = desk.homeport(made, "lock", str(INVENTORY))
        assert done.returncode == 0, done.stderr
        before = boots(made)
        desk.converge(made)
        assert boots(made) == before + 1, "one reboot for all that waits for it"
        yield made


def boots(on: Stage) -> int:
    """How many boots the machine's journal knows."""
    listed = "journalctl --list-boots --no-pager | grep -c '^ *-*[0-9]'"
    return int(on.machine.succeed(listed))


def box(on: Stage) -> VirtualMachine:
    assert isinstance(on.machine, VirtualMachine)
    return on.machine


def driver(on: Stage, number: int, function: int = 0) -> str:
    """The driver of a function of display device `number`, wherever the device is now."""
    port = HARDWARE.card(number)["place"].split("/")[1]
    found = f"/sys/devices/pci0000:00/0000:00:{port}/*:00.{function}/driver"
    return Path(box(on).succeed(f"readlink {found}")).name


def verify(on: Stage) -> None:
    done = desk.homeport(on, "verify", str(on.inventory))
    assert done.returncode == 0, done.stdout + done.stderr


def drift(on: Stage) -> list[str]:
    """The operations that a drift check names."""
    to = on.directory / "drift.json"
    done = desk.homeport(on, "drift", str(on.inventory), "--json", str(to))
    assert done.returncode in (0, 2), done.stderr
    (host,) = json.loads(to.read_text())["hosts"]
    return [str(found["operation"]) for found in host["drift"]]


def test_from_bare_to_proved_and_again_after_a_power_cut(
    on: Stage, tell: Callable[[str], None]
) -> None:
    box(on).power_cut()
    box(on).power_on()
    box(on).wait_until("systemctl --quiet is-active ssh", timeout=120, what="ssh answers")
    assert box(on).run("systemctl is-system-running").stdout.strip() == b"starting"
    verify(on)
    assert [driver(on, GUEST, n) for n in (0, 1)] == ["vfio-pci", "vfio-pci"]
    assert "vfio-pci" not in [driver(on, OWN, n) for n in (0, 1)]
    assert desk.converge(on)["changed"] == 0
    tell("workbench: built, off and on again, proved, and nothing to change")


BREAKS = {
    "a sysctl changed at run time": ("sysctl -qw kernel.panic=0", "Lock-up recovery"),
    "a package un-held": ("apt-mark unhold nvidia-container-toolkit", "GPUs for containers"),
    "a GPU's power cap reset": (f"{PYTHON} -c '{RESET_CAP}'", "NVIDIA"),
    "the bound driver changed": (
        "a=$(basename $(ls -d /sys/devices/pci0000:00/0000:00:09.0/*:00.0)); "
        "echo > /sys/bus/pci/devices/$a/driver_override; "
        "echo $a > /sys/bus/pci/drivers/vfio-pci/unbind; "
        "echo $a > /sys/bus/pci/drivers/bochs-drm/bind",
        "VFIO",
    ),
    "the clock unsynchronised": ("systemctl stop systemd-timesyncd", "Base | Time zone and clock"),
}
# Soon after a boot nothing is expected of a clock.
HOURS_LATER = "echo 40000.0 1.0 > /root/uptime && mount --bind /root/uptime /proc/uptime"
# adjtimex(2), ADJ_MAXERROR: what the kernel has after hours without a correction.
NO_CORRECTION = """python3 - <<'END'
import ctypes, struct
timex = ctypes.create_string_buffer(struct.pack("@Illl", 4, 0, 0, 16_000_000), 512)
ctypes.CDLL(None).adjtimex(timex)
END"""


def test_what_broke_is_named_by_capability_and_healed(
    on: Stage, tell: Callable[[str], None]
) -> None:
    for do, _ in BREAKS.values():
        box(on).succeed(do)
    found = drift(on)
    for name, (_, by) in BREAKS.items():
        assert any(one.startswith(by) for one in found), (name, found)
    desk.converge(on)
    assert drift(on) == []
    box(on).succeed(HOURS_LATER)
    box(on).succeed(NO_CORRECTION)
    assert drift(on) == ["Base | Time zone and clock"]
    desk.converge(on)
    box(on).wait_until("timedatectl show -p NTPSynchronized --value | grep -q yes", timeout=120)
    assert drift(on) == []
    box(on).succeed("umount /proc/uptime")
    tell(f"found and healed: {'; '.join(BREAKS)}")


def test_another_command_line_and_a_port_before_the_cards(on: Stage) -> None:
    """The command line in force is not the one wanted: that is drift. The cards' addresses are
    others: that changes neither of them."""
    machine, file = box(on), "/etc/default/grub.d/zz-homeport.cfg"
    machine.succeed(f"mv {file} /root/aside && update-grub && sync")
    machine.power_cut()
    shifted = dataclasses.replace(HARDWARE, port_before=True)
    machine.fit(shifted)
    machine.start()
    moved = machine.succeed("ls -d /sys/devices/pci0000:00/0000:00:09.0/*:00.0")
    assert moved.endswith(shifted.card(GUEST)["address"])
    assert driver(on, GUEST) == "vfio-pci"
    assert driver(on, OWN) != "vfio-pci"
    machine.succeed(f"mv /root/aside {file} && update-grub")
    found = drift(on)
    assert [one for one in found if one.startswith("Kernel command line")]
    assert [one for one in found if one.startswith("VFIO")] == []
    desk.converge(on)
    assert [driver(on, GUEST, n) for n in (0, 1)] == ["vfio-pci", "vfio-pci"]
    assert driver(on, OWN) != "vfio-pci"


@pytest.mark.soak  # minutes for each plan without prefetch
def test_the_plan_is_the_same_with_prefetch_and_without(on: Stage) -> None:
    assert assert_same_plan(on) == []
    for name in ("a sysctl changed at run time", "a package un-held", "a GPU's power cap reset"):
        box(on).succeed(BREAKS[name][0])
    assert len(assert_same_plan(on)) >= 3
    desk.converge(on)


@pytest.mark.soak  # two more converges and a boot
def test_what_is_dropped_is_given_back(on: Stage, tmp_path: Path) -> None:
    text = INVENTORY.read_text()
    for line in ("kernel_cmdline=", "lockup_recovery=", "vfio=", "nvidia=", "nvidia_containers="):
        (start,) = [one for one in text.splitlines() if one.startswith(f"    {line}")]
        text = text.replace(f"{start}\n", "")
    plain = tmp_path / "workbench.py"
    plain.write_text(text)
    other = Stage(**{**vars(on), "inventory": plain})
    desk.converge(other)
    assert driver(on, GUEST) != "vfio-pci"
    assert "iommu=pt" not in box(on).succeed("cat /proc/cmdline")
    assert box(on).succeed("sysctl -n kernel.panic") == "0"
    limit, default = box(on).succeed(f"{PYTHON} -c '{POWER}'").split()
    assert limit == default
    box(on).succeed(
        "! find /etc /boot -name '*homeport*' | grep -E 'vfio|grub|lockup|nvidia|trial'"
    )
    assert desk.converge(other)["changed"] == 0
