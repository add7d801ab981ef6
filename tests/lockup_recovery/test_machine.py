"""A kernel that panics restarts by itself, and a machine that freezes is restarted."""

import json
import shlex
from collections.abc import Callable, Iterator

import pytest

from homeport.lab import desk
from tests.lab.box import Box, box

pytestmark = pytest.mark.machine

SECONDS = 30
RESTARTS = "Rebooting in 10 seconds"  # kernel/panic.c
FIELDS = f", lockup_recovery=LockupRecovery(watchdog_seconds={SECONDS}, watchdog_module='i6300esb')"
# Tasks that no other gets the processors from: nothing answers any more, process 1 included. Linux
# 6.12 keeps a twentieth of each processor for ordinary tasks ("fair server", kernel/sched/debug.c),
# which is enough for process 1 to feed the watchdog for ever.
FREEZE = (
    "for cpu in /sys/kernel/debug/sched/fair_server/*; do echo 0 > $cpu/runtime; done; "
    "sysctl -qw kernel.sched_rt_runtime_us=-1; for cpu in $(seq 0 $(($(nproc) - 1))); do "
    "taskset -c $cpu chrt -f 99 sh -c 'while :; do :; done' & done; wait"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    with box(tmp_path_factory.mktemp("box"), FIELDS) as one:
        code, said, _ = one.converge()
        assert code == 0, said
        yield one


def lost(one: Box, command: str) -> str:
    """Do in a second what the machine does not answer to; the id of the boot that it ends."""
    before = one.machine.boot_id
    one.machine.succeed(f"systemd-run --on-active=1 sh -c {shlex.quote(command)}")
    return before


def test_a_sysctl_changed_at_run_time_is_drift(made: Box) -> None:
    made.machine.succeed("sysctl -qw kernel.panic=0")
    to = made.stage.directory / "drift.json"
    done = desk.homeport(
        made.stage, "drift", str(made.stage.inventory), "--json", str(to), quiet=True
    )
    assert done.returncode == 2, done.stderr
    assert "kernel.panic" in json.dumps(json.loads(to.read_text()))
    code, said, _ = made.converge()
    assert code == 0, said
    assert made.machine.succeed("sysctl -n kernel.panic") == "10"


def test_a_panic_restarts_the_machine(made: Box, tell: Callable[[str], None]) -> None:
    before = lost(made, "echo c > /proc/sysrq-trigger")
    made.machine.wait_for_another_boot(before, timeout=60)
    # By the kernel itself, not by the watchdog that is armed too.
    assert RESTARTS in made.machine.console(3000)
    tell("sysrq-c: the kernel panicked and restarted by itself")


def test_a_frozen_machine_is_reset_by_its_watchdog(made: Box, tell: Callable[[str], None]) -> None:
    panics = made.machine.console(3000).count(RESTARTS)
    before = lost(made, FREEZE)
    made.machine.wait_for_another_boot(before, timeout=90)
    assert made.machine.console(3000).count(RESTARTS) == panics
    tell(f"frozen: the watchdog of {SECONDS} s reset the machine")
    code, said, _ = made.converge()
    assert code == 0, said
    assert "0 of" in said.splitlines()[-1], said
