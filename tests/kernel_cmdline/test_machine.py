"""A new command line on a real kernel, by a real boot loader: kept, or taken back unattended."""

import contextlib
import dataclasses
import pathlib
import random
import re
import time
from collections.abc import Callable, Iterator

import pytest

from homeport.lab import LabError
from homeport.lab.vm.agent import AgentGone
from homeport.lab.vm.machine import VirtualMachine
from tests.lab.box import HARDWARE, Box, box, cmdline

pytestmark = pytest.mark.machine

GOOD = "iommu=pt"
# Time that no test waits for to its end: enough for an emulated machine on a busy host.
TRIAL_SECONDS = 300
# As little as the tests must wait for, which is as little as there may be.
HOPELESS_SECONDS = 120
# From the moment at which a run gives the reboot until the old entry answers again: the trial, the
# two minutes of the switch, and two boots.
UNATTENDED_SECONDS = 480

FATAL = {
    # The kernel has no room for its own initramfs.
    "panics": "mem=100M",
    "cannot mount the root": "rootfstype=vfat",
    # The initramfs waits for a disk that has no driver.
    "hangs early": "module_blacklist=virtio_blk rootdelay=3600",
    "has no network": "module_blacklist=virtio_net",
}
# Each prints what it finds.
TRACES = """\
ls -d 2>/dev/null /boot/homeport-trial.img /boot/grub/homeport-trial.cfg \\
    /etc/systemd/system/homeport-trial.* /etc/systemd/system/timers.target.wants/homeport-trial.* \\
    /var/lib/homeport/kernel_cmdline.json
grub-editenv list | grep next_entry=homeport
for fd in /proc/[0-9]*/fd/9; do readlink $fd; done 2>/dev/null | grep sysrq-trigger
true
"""
PLANTED = {
    "touch /boot/grub/homeport-trial.cfg": "rm /boot/grub/homeport-trial.cfg",
    "touch /etc/systemd/system/homeport-trial.timer": "rm /etc/systemd/system/homeport-trial.timer",
    "grub-reboot homeport-trial": "grub-editenv - unset next_entry",
    "systemd-run --unit=planted sh -c 'exec 9>/proc/sysrq-trigger; exec sleep 600'; sleep 5": (
        "systemctl stop planted"
    ),
}


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """The machine, which no converge has seen yet: for the first test alone."""
    with box(tmp_path_factory.mktemp("box"), cmdline(GOOD, TRIAL_SECONDS)) as one:
        yield one


@pytest.fixture(scope="module")
def made(bare: Box) -> Box:
    """The machine, which came up with `GOOD`; that is its default since."""
    code, said, _ = bare.converge()
    assert code == 0, said
    return bare


def left(one: Box) -> list[str]:
    """What is there of a trial."""
    return one.machine.succeed(TRACES).splitlines()


def cut_off(machine: VirtualMachine) -> None:
    """Cut the power and boot again; that it was no shutdown."""
    machine.succeed("echo unwritten > /run/gone; echo kept > /root/kept; sync")
    before, addresses = machine.boot_id, machine.addresses
    machine.power_cut()
    with pytest.raises(AgentGone):
        machine.run("true", timeout=1)
    machine.start()
    assert machine.boot_id != before
    assert machine.addresses == addresses
    machine.succeed(f"ip address | grep -F ' {addresses[-1]}/'")
    assert machine.succeed("cat /root/kept") == "kept"
    machine.fail("test -e /run/gone")
    shown = machine.succeed("journalctl -b -1 --no-pager -o cat")
    assert "Started" in shown, "without the journal of the boot before this would prove nothing"
    assert not re.search("Reached target.*Shutdown", shown)


def settled(one: Box, parameters: str, without: str = "") -> None:
    """The machine has `parameters` in force and by default and none of `without`, nothing foreign
    lost, no trial left."""
    entry = one.machine.succeed("grep -m1 '^[[:space:]]*linux' /boot/grub/grub.cfg").split()
    for there in (one.cmdline(), entry):
        assert [p for p in parameters.split() if p not in there] == []
        assert [p for p in without.split() if p in there] == []
        assert {"console=ttyS0", "quiet", "ro"} <= {*there}, "a foreign parameter was lost"
    ours = one.machine.succeed("cat /etc/default/grub.d/zz-homeport.cfg")
    assert [p for p in without.split() if p in ours] == []
    assert left(one) == []


# Of the lab itself: here, where a machine is booted anyway.
def test_the_machine_is_bare_and_whole(bare: Box) -> None:
    machine = bare.machine
    for program in ("docker", "caddy", "nmcli", "pip3", "iw"):
        machine.fail(f"command -v {program}")
    assert machine.succeed("systemctl is-system-running") == "running"
    for number, card in enumerate(("0000:01:00.0", "0000:02:00.0")):
        found = machine.succeed(f"readlink -f /sys/bus/pci/devices/{card}")
        slot = HARDWARE.card(number)["place"].split("/")[1]
        assert found == f"/sys/devices/pci0000:00/0000:00:{slot}/{card}"
        groups = [
            machine.succeed(f"readlink /sys/bus/pci/devices/{card[:-1]}{function}/iommu_group")
            for function in (0, 1)
        ]
        assert groups[0] == groups[1]
    one = "for d in $(dirname $(grep -l '^0x0[23]' /sys/bus/pci/devices/*/class)); do"
    groups = machine.succeed(f"{one} readlink $d/iommu_group; done").splitlines()
    assert len({*groups}) == len(groups) == 4, "two network cards and two display devices, apart"


def test_a_new_command_line_is_tried_kept_and_survives_a_power_cut(made: Box) -> None:
    settled(made, GOOD)
    cut_off(made.machine)
    assert GOOD in made.cmdline()
    assert "homeport.trial" not in " ".join(made.cmdline())
    code, said, _ = made.converge()
    assert code == 0, said
    assert "0 of" in said.splitlines()[-1], said


def test_what_is_left_of_a_trial_would_be_seen(made: Box) -> None:
    for plant, undo in PLANTED.items():
        made.machine.succeed(plant)
        assert len(left(made)) == 1, plant
        made.machine.succeed(undo)
    assert left(made) == []


def test_nobody_need_be_there(made: Box, tell: Callable[[str], None]) -> None:
    """The run that tries a command line is killed once it is on trial; the trial panics."""
    made.wants(cmdline(f"{GOOD} {FATAL['panics']}", HOPELESS_SECONDS))
    before, began = made.machine.boot_id, time.monotonic()
    with made.begin() as run:
        assert run.stdout is not None
        assert any("reboots, for" in line for line in run.stdout)
        with contextlib.suppress(LabError):  # until nobody answers any more
            while made.machine.boot_id == before:
                time.sleep(0.2)
        run.kill()
    made.machine.wait_for_another_boot(before, timeout=UNATTENDED_SECONDS / made.machine.patience)
    tell(f"without a run, after a panic: the old entry in {time.monotonic() - began:.0f} s")
    assert FATAL["panics"] not in made.cmdline()
    # So would any boot after it: the mark is gone, and the default is the old one.
    made.machine.fail("grub-editenv list | grep next_entry=homeport")
    made.machine.fail(f"grep -m1 '^[[:space:]]*linux' /boot/grub/grub.cfg | grep {FATAL['panics']}")
    made.wants(cmdline(GOOD, TRIAL_SECONDS))
    code, said, _ = made.converge()
    assert code == 0, said
    settled(made, GOOD, without=FATAL["panics"])


# The soak has those that wait longest.
AT_ONCE = ("has no network",)


@pytest.mark.parametrize(
    "what",
    [pytest.param(one, marks=() if one in AT_ONCE else pytest.mark.soak) for one in FATAL],
)
def test_the_old_entry_is_back_unattended(
    made: Box, what: str, tell: Callable[[str], None]
) -> None:
    before = made.cmdline()
    made.wants(cmdline(f"{GOOD} {FATAL[what]}", HOPELESS_SECONDS))
    code, said, seconds = made.converge()
    tell(
        f"a command line that {what}: the old entry was back, and the run over, in {seconds:.0f} s"
    )
    assert code == 1, said
    assert "went back to its old command line" in said
    assert [p for p in made.cmdline() if not p.startswith("homeport.trial")] == [
        p for p in before if not p.startswith(("homeport.trial", "panic="))
    ]
    assert seconds < UNATTENDED_SECONDS
    settled(made, GOOD, without=FATAL[what])
    assert made.machine.succeed("systemctl is-system-running") == "running"


def test_never_reports_what_waits(made: Box) -> None:
    boot = made.machine.boot_id
    made.wants(cmdline(f"{GOOD} nosoftlockup", TRIAL_SECONDS))
    code, said, _ = made.converge("--data", "reboot=never")
    assert code == 0, said
    assert "nosoftlockup" in said
    assert made.machine.boot_id == boot
    assert left(made) == []


# The guest's agent is among the first to go; so it shows as well that nobody answers any more, once
# the run has said that it reboots.
DOWN = "on its way down"
# Moments of a change, each with what shows on the node that it has come.
MOMENTS = {
    "before update-grub": "test -e /etc/grub.d/42_homeport",
    "during the first update-grub": "pgrep -x grub-mkconfig",
    "after update-grub, nothing staged": "grep -q homeport-trial /boot/grub/grub.cfg",
    "while it is staged": "test -e /var/lib/homeport/kernel_cmdline.json",
    "staged, before the reboot": "grub-editenv list | grep -q next_entry=homeport",
    DOWN: "systemctl is-system-running | grep -q stopping",
    "the trial boots": "grep -q homeport.trial /proc/cmdline",
    "the trial is up": "grep -q homeport.trial /proc/cmdline && systemctl is-active ssh",
    "during the confirmation": "grep -q homeport.trial /proc/cmdline && pgrep -x grub-mkconfig",
    "after the confirmation": "grep -q homeport.trial /proc/cmdline && "
    "grep -q '^[^#]*{mark}' /etc/default/grub.d/zz-homeport.cfg",
}
SEEDS = range(10)
ORDINARY = (1, 7)


@pytest.mark.parametrize(
    "seed", [pytest.param(n, marks=() if n in ORDINARY else pytest.mark.soak) for n in SEEDS]
)
def test_a_power_cut_in_a_change_leaves_a_machine_that_boots(
    made: Box, seed: int, tell: Callable[[str], None]
) -> None:
    moment, shows = [*MOMENTS.items()][seed]
    mark = f"homeport_test.cut={seed}"
    if seed < 3:  # these have to do with what is installed once
        made.machine.succeed("rm -f /etc/grub.d/42_homeport && update-grub")
    made.wants(cmdline(f"{GOOD} {mark}", TRIAL_SECONDS))
    delay = random.Random(seed).uniform(0, 1.5)
    with made.begin() as run:
        until = time.monotonic() + 900
        if moment == DOWN:
            assert run.stdout is not None
            assert any("reboots, for" in line for line in run.stdout)
        while not _shows(made, shows.format(mark=mark), silent=moment == DOWN):
            assert run.poll() is None, f"over before: {moment}: {run.communicate()[0]}"
            assert time.monotonic() < until, moment
            time.sleep(0.1)
        time.sleep(delay)
        late = " ".join(_also(made, mark))
        made.machine.power_cut()
        run.kill()
    made.machine.start(timeout=120)
    there = "new" if mark in made.cmdline() else "old"
    tell(f"power cut {seed}: {moment}, {delay:.1f} s later ({late}); it booted the {there} one")
    assert GOOD in made.cmdline()
    code, said, _ = made.converge()
    assert code == 0, said
    settled(made, f"{GOOD} {mark}")


def _also(made: Box, mark: str) -> list[str]:
    """The numbers of the moments that show just now."""
    each = [
        f"if {{ {shows.format(mark=mark)}; }} >/dev/null 2>&1; then echo {n}; fi"
        for n, shows in enumerate(MOMENTS.values())
    ]
    try:
        done = made.machine.run("; ".join(each), timeout=4)
    except LabError:
        return ["off"]
    return done.stdout.decode().split()


def _shows(made: Box, command: str, *, silent: bool) -> bool:
    """Whether `command` succeeds on the node; `silent` where nobody answers, as on its way down
    or up."""
    try:
        return made.machine.run(command, timeout=4).returncode == 0
    except LabError:
        return silent


@pytest.mark.soak  # its disk takes minutes to make
def test_where_grub_cannot_clear_its_mark_the_change_is_refused(
    tmp_path: pathlib.Path,
) -> None:
    with box(
        tmp_path, cmdline(GOOD, TRIAL_SECONDS), dataclasses.replace(HARDWARE, root="lvm")
    ) as one:
        before = one.machine.succeed("sha256sum /boot/grub/grub.cfg /boot/grub/grubenv")
        code, said, _ = one.converge()
        assert code == 1, said
        assert "lies on lvm" in said
        assert "nothing was changed" in said
        assert one.machine.succeed("sha256sum /boot/grub/grub.cfg /boot/grub/grubenv") == before
        assert left(one) == []


def test_what_is_dropped_is_gone_again(made: Box) -> None:
    made.wants("")
    code, said, _ = made.converge()
    assert code == 0, said
    assert GOOD not in made.cmdline()
    ours = made.machine.run("ls /etc/default/grub.d/*homeport* /etc/grub.d/*homeport*").stdout
    assert ours == b""
    assert left(made) == []
