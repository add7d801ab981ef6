"""Docker's engine, asked over its socket. Standard library only.

A `docker` command costs some 50 ms of a node's processor (`docker info` three times that: it starts
every plugin), and what is asked here some 2 ms. It is this machine's engine that is asked, whatever
context root's `docker` command has.
"""

import functools
import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from homeport_node.common import CDI_UNIT_FILE, run

SOCKET = "/var/run/docker.sock"
SECONDS = 20  # that an answer may take
# Of systemd's states. One that starts answers once it did.
RUNS = ("active", "activating", "reloading", "refreshing")


class Connection(http.client.HTTPConnection):
    """HTTP to the engine's socket; it waits for `timeout` seconds."""

    def __init__(self, timeout: float = SECONDS) -> None:
        super().__init__("docker", timeout=timeout)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(SOCKET)


class NoAnswer(Exception):
    """The engine does not run, or did not answer; in words."""


@functools.cache
def _state() -> str:
    """What systemd says of the engine; asked once by each program."""
    return run("systemctl", "is-active", "docker.service").out.strip()


def ask(path: str, **query: Any) -> Any:
    """The engine's JSON answer to GET `path`, None where there is no such thing.

    An engine that was stopped is not asked: its socket would start it. What of `query` is no text
    travels as JSON. Raises `NoAnswer`.
    """
    if _state() not in RUNS:
        raise NoAnswer(f"docker.service is {_state() or 'not there'}")
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in query.items()}
    connection = Connection()
    try:
        connection.request("GET", f"{quote(path)}{'?' if texts else ''}{urlencode(texts)}")
        response = connection.getresponse()
        said = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise NoAnswer(f"no answer at {SOCKET}: {error or type(error).__name__}") from error
    finally:
        connection.close()
    if response.status in (200, 404):
        return said if response.status == 200 else None
    raise NoAnswer(str(said.get("message") if isinstance(said, dict) else said))


def name(container: "dict[str, Any]") -> str:
    """How a container is called that was listed: one that others link to has their names too."""
    names = [one.lstrip("/") for one in container.get("Names") or ()]
    return next((one for one in names if "/" not in one), str(container["Id"])[:12])


def cdi_devices() -> "list[str]":
    """The names of NVIDIA's devices that a container can be given by CDI: UUIDs, indexes, "all"."""
    kind = "nvidia.com/gpu="
    lines = [line.strip() for line in run("nvidia-ctk", "cdi", "list").out.splitlines()]
    return sorted(line.removeprefix(kind) for line in lines if line.startswith(kind))


def gpu_way(gpus: "list[str]") -> str:
    """How this node's Docker hands `gpus` (UUIDs) to a container; "" while it does not answer.

    "cdi": Docker has CDI (25 and newer, where it is switched on), and all of them are described, or
    a unit of ours sees to that; "runtime": it knows NVIDIA's runtime; else "hook": what it finds in
    its PATH.
    """
    try:
        info = ask("/info")
    except NoAnswer:
        return ""
    if not isinstance(info, dict) or not info.get("ServerVersion"):
        return ""
    if info.get("CDISpecDirs") and (
        Path(CDI_UNIT_FILE).exists() or set(gpus) <= set(cdi_devices())
    ):
        return "cdi"
    return "runtime" if "nvidia" in (info.get("Runtimes") or {}) else "hook"
