"""NVIDIA's container toolkit: its repository, its packages, what it describes. Standard library
only."""

import os
import re
from pathlib import Path
from typing import Any

from homeport_node import apt_key, docker_engine
from homeport_node.common import CDI_UNIT, dropins, own_files, read, run, show_units

KEYRING = "/usr/share/keyrings/homeport-nvidia-container-toolkit.gpg"
# Where Docker, Podman and the toolkit look for descriptions; the second is emptied at each boot.
DESCRIPTIONS = (Path("/etc/cdi"), Path("/var/run/cdi"))
DEVICE = re.compile(r"""["']?path["']?:\s*["']?(/dev/nvidia[^"'\s,]+)""")
# CUDA's memory; nothing makes its node at boot but who asks for it.
UVM = "/dev/nvidia-uvm"
HOST_PATH = re.compile(r"""["']?hostPath["']?:\s*["']?(/[^"'\s,]+)""")


def held(packages: "list[str]") -> "list[str]":
    """Those of `packages` that dpkg holds."""
    shown = run("dpkg-query", "-W", "-f", "${db:Status-Want}\t${Package}\n", *packages).out
    pairs = [line.split("\t") for line in shown.splitlines()]
    return sorted(pair[1] for pair in pairs if pair[0] == "hold")


def link_of(device: str) -> str:
    """The link in /dev/char by which systemd knows a device node; the node itself without one."""
    try:
        number = Path(device).stat().st_rdev
    except OSError:
        return device
    return f"/dev/char/{os.major(number)}:{os.minor(number)}"


def descriptions() -> "list[str]":
    """The texts that describe NVIDIA's GPUs; where two describe one, the later counts."""
    texts = [read(path) or "" for folder in DESCRIPTIONS for path in sorted(folder.glob("*"))]
    return [text for text in texts if "nvidia.com/gpu" in text]


def uvm() -> bool:
    """Whether a container is given what CUDA needs besides its GPU."""
    return any(UVM in DEVICE.findall(text) for text in descriptions()[-1:])


def gone() -> "list[str]":
    """Files of this machine that a description names, and that are not there (any more): a
    container that is given such a device does not start. And links in /dev/char: without them
    Debian 12's runc leaves a device to be taken at the next `systemctl daemon-reload`."""
    paths = set()
    for text in descriptions():
        paths |= {*HOST_PATH.findall(text), *map(link_of, DEVICE.findall(text))}
    return sorted(path for path in paths if not Path(path).exists())


def unit_state() -> "dict[str, Any]":
    """{"enabled": True, "active": True, "stale": False, "dropins": []}; stale: not as on the
    disk."""
    values = show_units(CDI_UNIT).get(CDI_UNIT, {})
    return {
        "dropins": dropins(values) if values else [],
        "enabled": values.get("UnitFileState") == "enabled",
        "active": values.get("ActiveState") == "active",
        "stale": values.get("NeedDaemonReload") == "yes",
    }


def describe(gpus: "list[str]") -> "str | None":
    """Have the toolkit describe this machine's GPUs anew; all of `gpus` must be among them."""
    ran = run("systemctl", "restart", CDI_UNIT, timeout=120)
    if not ran.ok:
        said = run("journalctl", "--no-pager", "-o", "cat", "-n", "5", "-u", CDI_UNIT).out.strip()
        return f"nvidia-ctk cannot describe the GPUs: {said or ran.err.strip()}"
    lacking = sorted(set(gpus) - set(docker_engine.cdi_devices()))
    if lacking:
        return (
            f"nvidia-ctk describes no {', '.join(lacking)}: see `nvidia-smi -L`, and put the UUIDs "
            "that `bin/homeport probe` prints into the targets file"
        )
    if not uvm():
        return (
            f"nvidia-ctk describes no {UVM}, and CUDA needs it: `modprobe nvidia-uvm` on the node "
            "says why there is none"
        )
    missing = gone()
    return f"the description names what is not there: {', '.join(missing)}" if missing else None


def observe(
    repository: str, packages: "list[str]", files: "list[str]", own_list: str
) -> "dict[str, Any]":
    """Everything about the toolkit; `files` are ours, see `deploys.nvidia_containers.facts`."""
    return {
        "key": apt_key.kept(KEYRING),
        "keyring": Path(KEYRING).exists(),
        "files": own_files(files),
        "other_lists": apt_key.other_lists(repository, own_list),
        "held": held(packages),
        "unit": unit_state(),
        "devices": docker_engine.cdi_devices(),
        "uvm": uvm(),
        "gone": gone(),
    }
