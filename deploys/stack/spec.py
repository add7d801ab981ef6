"""What a service of the node's Compose project is: pure data, written by the capabilities."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Literal

from homeport.pins import Gpu, Image
from homeport.spec import Spec, fail, is_inside, is_port
from homeport_node.common import STACK

NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


def _absolute(path: str) -> bool:
    return path.startswith("/") and ".." not in PurePosixPath(path).parts and ":" not in path


@dataclass(frozen=True, kw_only=True, slots=True)
class Port(Spec):
    """A TCP port of a container, published on the node's loopback alone."""

    host: int
    container: int

    def validate(self) -> None:
        for name in ("host", "container"):
            self.require(name, is_port(getattr(self, name)), "must be a port: 1 to 65535")


@dataclass(frozen=True, kw_only=True, slots=True)
class Volume(Spec):
    """A Docker volume, by its exact name, mounted at `path` in the container.

    One of that name that another made is refused, unless `adopt`.
    """

    name: str
    path: str
    adopt: bool = False

    def validate(self) -> None:
        ok = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", self.name) is not None
        self.require("name", ok, "must be a Docker volume's name")
        self.require("path", _absolute(self.path), "must be an absolute path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Bind(Spec):
    """A directory of the node, mounted read-only at `path` in the container."""

    source: str
    path: str

    def validate(self) -> None:
        for name in ("source", "path"):
            self.require(name, _absolute(getattr(self, name)), "must be an absolute path")


@dataclass(frozen=True, kw_only=True, slots=True)
class MountedFile(Spec):
    """A file that the stack writes to the node and mounts read-only at `path`.

    Not for secrets: its content travels in the open.
    """

    name: str
    content: str
    path: str
    mode: str = "644"

    def validate(self) -> None:
        ok = is_inside(self.name) and "/" not in self.name
        self.require("name", ok, "must be a file name")
        self.require("path", _absolute(self.path), "must be an absolute path")
        self.require("mode", re.fullmatch("[0-7]{3}", self.mode) is not None, "must be octal: 644")


@dataclass(frozen=True, kw_only=True, slots=True)
class HealthCheck(Spec):
    """A command in the container that exits 0 when the service works; times in seconds.

    Until it first does, within `start_period`, Docker 25 and newer ask every 5 s by themselves (the
    reference of the Dockerfile's HEALTHCHECK: start interval). Afterwards every `interval`: each
    time is a process in the container, which at 5 s is a few percent of a core around the clock.
    """

    test: tuple[str, ...]
    interval: int = 30
    timeout: int = 10
    retries: int = 3
    start_period: int = 600

    def validate(self) -> None:
        self.require("test", bool(self.test), "must be a command")
        for name in ("interval", "timeout", "retries", "start_period"):
            self.require(name, getattr(self, name) > 0, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial(Spec):
    """A run of the service's image, with its GPUs and environment, before its container is made.

    `command` is the entry point and its arguments. It passes when it ends well within `timeout`
    seconds and at least `count` lines of what it says match `pattern`; else nothing is touched,
    and `cause` and `remedy` say why. A machine that lacks `need` does without.
    """

    command: tuple[str, ...]
    pattern: str
    count: int
    need: str
    cause: str
    remedy: str
    timeout: int = 120

    def validate(self) -> None:
        self.require("command", bool(self.command), "must be a command")
        for name in ("count", "timeout"):
            self.require(name, getattr(self, name) > 0, "must be positive")


@dataclass(frozen=True, kw_only=True, slots=True)
class Service(Spec):
    """One container. `command` and `entrypoint` empty mean the image's own.

    `secrets` are names of files in /etc/homeport/secrets, mounted at /run/secrets/NAME. GPUs are
    reserved by UUID. `reads` are paths of the node that the program reads only when it starts (a
    link to a model): when one leads to another file since, the container is recreated. `trial` is
    run before the container is made. `capability` names the inventory's field in messages.
    `start_timeout`, `stop_grace` are in seconds, `log_size` is in MiB, kept twice.
    """

    name: str
    capability: str
    image: Image
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    volumes: tuple[Volume, ...] = ()
    binds: tuple[Bind, ...] = ()
    files: tuple[MountedFile, ...] = ()
    secrets: tuple[str, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    reads: tuple[str, ...] = ()
    health: HealthCheck | None = None
    restart: Literal["no", "on-failure:3", "unless-stopped"] = "unless-stopped"
    depends_on: tuple[str, ...] = ()
    trial: Trial | None = None
    start_timeout: int = 900
    stop_grace: int = 30
    log_size: int = 10

    def validate(self) -> None:
        self.require(
            "name", NAME.fullmatch(self.name) is not None, "must be lower case: it is a host name"
        )
        for name in ("start_timeout", "stop_grace", "log_size"):
            self.require(name, getattr(self, name) > 0, "must be positive")
        for handle in self.gpus:
            count = sum(other.handle == handle.handle for other in self.gpus)
            self.require("gpus", count == 1, "must name each GPU once")
        names = Counter(file.name for file in self.files)
        self.require("files", not names or max(names.values()) == 1, "must have different names")


@dataclass(frozen=True, kw_only=True, slots=True)
class Stack(Spec):
    """All services of a node, as one Compose project."""

    STEM = "stack"

    project: str
    services: tuple[Service, ...]

    def validate(self) -> None:
        ok = NAME.fullmatch(self.project) is not None
        self.require("project", ok, "must be lower-case letters, digits, - and _ (Compose's rule)")
        names = [service.name for service in self.services]
        self.require("services", len(set(names)) == len(names), "must have different names")
        for service in self.services:
            for other in service.depends_on:
                if other not in names:
                    fail(f"stack.{service.name}.depends_on", other, "must be a service")
        used: dict[int, str] = {}
        for service in self.services:
            for port in service.ports:
                if port.host in used:
                    fail(
                        f"{service.capability}.port",
                        port.host,
                        f"is used twice: {used[port.host]} has it already",
                    )
                used[port.host] = f"{service.capability}.port"

    def path_of_file(self, service: Service, file: MountedFile) -> str:
        """Where the stack keeps a mounted file on the node."""
        return f"{STACK}/files/{service.name}/{file.name}"
