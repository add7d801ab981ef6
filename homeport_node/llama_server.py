"""Whether this node can give GPUs to a container: the cards, and Docker's way to hand them over."""

import os
import re
from pathlib import Path
from typing import Any

from homeport_node import docker_engine
from homeport_node.common import read, run

HOOK = "nvidia-container-runtime-hook"
UUID = re.compile(r"UUID: ((?:GPU|MIG)-[0-9a-fA-F-]+)")


def _daemon_path() -> str:
    """The PATH of the running dockerd, "" when none runs."""
    for directory in Path("/proc").glob("[0-9]*"):
        if (read(directory / "comm") or "").strip() == "dockerd":
            environment = (read(directory / "environ") or "").split("\0")
            paths = [item[5:] for item in environment if item.startswith("PATH=")]
            return (paths or [os.defpath])[0]
    return ""


def _hook(path: str) -> str:
    for directory in path.split(":"):
        candidate = f"{directory}/{HOOK}"
        if directory and os.access(candidate, os.X_OK):
            return candidate
    return ""


def observe(gpus: "list[str]") -> "dict[str, Any]":
    """The GPUs that the driver lists, and what Docker would use to pass `gpus` (UUIDs) on."""
    listed = run("nvidia-smi", "-L", timeout=60)
    path = _daemon_path()
    hook = _hook(path)
    return {
        "gpus": UUID.findall(listed.out) if listed.ok else [],
        "driver_words": (listed.err or listed.out).strip()[-300:] if not listed.ok else "",
        "hook": hook,
        "way": docker_engine.gpu_way(gpus),
    }
