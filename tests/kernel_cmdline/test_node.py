"""The command line of a live node: in force, the default, and nothing on trial."""

import shlex
from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


def test_the_parameters_are_in_force_and_the_default(host: Any, node: Node) -> None:
    if node.kernel_cmdline is None:
        pytest.skip("this node has no parameters of ours")
    in_force = host.check_output("cat /proc/cmdline").split()
    if host.file("/etc/kernel/proxmox-boot-uuids").exists:
        default = host.check_output("head -n1 /etc/kernel/cmdline").split()
    else:
        menu = host.check_output("cat /boot/grub/grub.cfg").splitlines()
        default = next(line.split() for line in menu if line.split()[:1] == ["linux"])
    for text in node.kernel_cmdline.texts:
        assert text in in_force
        assert text in default


def test_nothing_is_left_on_trial(host: Any) -> None:
    names = ("/boot/grub/homeport-trial.cfg", "/boot/homeport-trial.img")
    for name in (*names, "/etc/systemd/system/homeport-trial.timer"):
        assert not host.file(name).exists
    block = host.run("grub-editenv list 2>/dev/null").stdout
    assert "next_entry=homeport-trial" not in block
    armed = "for fd in /proc/[0-9]*/fd/9; do readlink $fd; done 2>/dev/null"
    assert "sysrq-trigger" not in host.run(f"sh -c {shlex.quote(armed)}").stdout
