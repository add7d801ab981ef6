"""A live node restarts by itself when it hangs: as far as that shows without hanging it."""

from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


def test_the_kernel_restarts_after_a_panic(host: Any, node: Node) -> None:
    spec = node.lockup_recovery
    if spec is None:
        pytest.skip("this node does not ask for it")
    assert host.check_output("cat /proc/sys/kernel/panic") == str(spec.panic_seconds)
    if spec.on_oops:
        assert host.check_output("cat /proc/sys/kernel/panic_on_oops") == "1"


def test_a_hard_lockup_is_a_panic(host: Any, node: Node) -> None:
    if node.lockup_recovery is None:
        pytest.skip("this node does not ask for it")
    if not host.file("/proc/sys/kernel/hardlockup_panic").exists:
        pytest.skip("this kernel cannot find a hard lock-up")
    assert host.check_output("cat /proc/sys/kernel/hardlockup_panic") == "1"
    if host.check_output("cat /proc/sys/kernel/nmi_watchdog") != "1":
        # A kernel that could do it takes the value that it has; one that cannot takes none.
        taken = host.run("cat /proc/sys/kernel/nmi_watchdog > /proc/sys/kernel/nmi_watchdog")
        assert taken.rc != 0, "kernel.nmi_watchdog is off where it could be on"
        pytest.skip("this machine has no NMI watchdog: its processor counts no events")


def test_systemd_holds_the_watchdog(host: Any, node: Node) -> None:
    spec = node.lockup_recovery
    if spec is None or spec.watchdog_seconds is None:
        pytest.skip("this node asks for no hardware watchdog")
    assert "active" in host.check_output("cat /sys/class/watchdog/watchdog*/state").split()
    assert "/dev/watchdog" in host.check_output("ls -l /proc/1/fd")
