"""Debian's own driver on a lab machine: found, installed, built for the kernel there, held.

Nothing loads it: a container has its host's kernel, and there is no GPU. But its packages are the
real ones, dkms builds the module, and the real library says that the driver is not loaded. By name
only (`bin/homeport test soak`): the build takes minutes.
"""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from deploys.nvidia.packages import NON_FREE
from homeport.lab import desk
from homeport.lab.stage import Stage, stage

pytestmark = pytest.mark.soak

INVENTORY = """\
from deploys.node import Node
from deploys.nvidia import Nvidia
from homeport.inventory import inventory

hosts = inventory(__file__, driver=Node(name="driver", nvidia=Nvidia()))
"""
NOT_LOADED = "the driver does not answer: Driver Not Loaded"
ASK = (
    "/opt/homeport/current/bin/python -c 'import json; from homeport_node import nvidia; "
    "o = nvidia.observe(); "
    "print(json.dumps([o, nvidia.reboot_reasons(o), nvidia.reboot_refusals(o)]))'"
)


def converge(on: Stage) -> None:
    """As far as it goes without a GPU: to the library that finds no module."""
    done = desk.homeport(on, "converge", str(on.inventory))
    said = done.stdout + done.stderr
    assert NOT_LOADED in said, said[-3000:]


def asked(on: Stage) -> tuple[dict[str, Any], list[str], list[str]]:
    observed, reasons, refusals = json.loads(on.machine.succeed(ASK))
    return observed, reasons, refusals


def test_debians_driver(tmp_path: Path) -> None:
    path = tmp_path / "inventory/driver.py"
    path.parent.mkdir()
    path.write_text(INVENTORY)
    with stage(path) as on:
        text = on.targets.read_text()
        on.targets.write_text(re.sub(r'"nvidia_driver" = "[^"]*",? ?', "", text))
        machine = on.machine
        install = "DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends install"
        machine.succeed(f"apt-get -qq update && {install} linux-image-amd64", timeout=600)
        converge(on)
        archives = machine.succeed("apt-cache policy nvidia-smi")
        assert any(f"/{part} " in archives for part in NON_FREE)
        held = machine.succeed("apt-mark showhold").split()
        assert {"nvidia-kernel-dkms", "libcuda1", "libnvidia-ml1", "nvidia-smi"} <= set(held)
        assert "dkms" not in held
        observed, reasons, refusals = asked(on)
        version = observed["versions"]["library"]
        assert observed["versions"] == {"loaded": "", "library": version, "next": version}
        assert re.fullmatch(r"\d{3}\.\d+(\.\d+)?", version)
        assert (observed["mismatch"], reasons, refusals) == (False, [], [])
        # What an upgrade of the kernel without its headers leaves.
        machine.succeed("rm /lib/modules/*/updates/dkms/nvidia-current.ko*")
        assert f"{observed['next_kernel']}, is missing" in asked(on)[2][0]
        machine.succeed("apt-mark unhold nvidia-smi")
        converge(on)
        assert "nvidia-smi" in machine.succeed("apt-mark showhold").split()
        # Dropped: nothing of ours stays, and the packages may be upgraded again.
        none = dataclasses.replace(on, inventory=path.with_name("none.py"))
        none.inventory.write_text(INVENTORY.replace(", nvidia=Nvidia()", ""))
        desk.converge(none, quiet=True)
        assert machine.succeed("apt-mark showhold") == ""
        machine.fail("test -e /etc/apt/sources.list.d/homeport-nvidia.sources")
