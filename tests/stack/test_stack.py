"""Cases: the Compose file of a stack, and what a node lacks or has too much."""

import dataclasses
import fcntl
import hashlib
import inspect
import json
import os
import re
import socketserver
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import yaml

from deploys.stack import (
    Bind,
    HealthCheck,
    MountedFile,
    Port,
    Service,
    Stack,
    Trial,
    Volume,
    deploy,
    operations,
)
from deploys.stack.compose import Way, content_hash, file_label, render
from deploys.stack.difference import Difference, difference, stray_files, unit_steps
from deploys.stack.facts import arguments
from homeport.pins import Gpu, Image
from homeport.report import PROGRESS
from homeport.spec import SpecError
from homeport_node import docker_engine, stack_actions
from homeport_node import stack as aboard
from homeport_node.common import STACK as DIRECTORY
from homeport_node.common import Ran
from tests.operations import THEIRS, Words, not_ours, yielded

FILE = MountedFile(name="start.sh", content="echo $HOME\n", path="/x/start.sh")
ENGINE = Service(
    name="engine",
    capability="llama_server",
    image=Image(name="ghcr.io/a/engine:1", digest="sha256:" + "0" * 64),
    command=("--key", "$5"),
    ports=(Port(host=8080, container=80),),
    binds=(Bind(source="/srv/models", path="/models"),),
    secrets=("engine.key",),
    gpus=(Gpu(handle="left", uuid="GPU-1"), Gpu(handle="right", uuid="GPU-2")),
    reads=("/srv/models/m",),
    health=HealthCheck(test=("true",)),
)
UI = Service(
    name="ui",
    capability="open_webui",
    image=Image(name="ghcr.io/a/ui:1"),
    volumes=(Volume(name="ui-data", path="/data"),),
    files=(FILE,),
    depends_on=("engine",),
    ports=(Port(host=3000, container=80),),
)
STACK = Stack(project="iona", services=(ENGINE, UI))


def running(name: str, **changes: Any) -> dict[str, Any]:
    state = {
        "id": name,
        "status": "running",
        "health": "healthy",
        "exit_code": 0,
        "hash": f"hash-{name}",
        "image": f"id-{name}",
        "stale": [],
        "by_hand": [],
    }
    return {**state, **changes}


def observed(**changes: Any) -> dict[str, Any]:
    state: dict[str, Any] = {
        "docker": "26.1.5",
        "docker_error": "",
        "compose": "docker compose",
        "compose_file": hashlib.sha256(render(STACK).encode()).hexdigest(),
        "files": [STACK.path_of_file(UI, FILE)],
        "hashes": {"engine": "hash-engine", "ui": "hash-ui"},
        "images": {ENGINE.image.reference: "id-engine", UI.image.reference: "id-ui"},
        "services": {"engine": running("engine"), "ui": running("ui", health="")},
        "extra": [],
        "taken": {},
        "foreign": [],
        "volumes": {"ui-data": {"ours": True, "users": []}},
        "gpu_way": "cdi",
    }
    return {**state, **changes}


def with_engine(**changes: Any) -> dict[str, Any]:
    services = {"engine": running("engine", **changes), "ui": running("ui")}
    return observed(services=services)


GHOST = {"id": "1", "name": "iona/ghost"}
CASES: dict[str, tuple[dict[str, Any], Difference]] = {
    "as wanted": (observed(), Difference()),
    "absent": (
        observed(services={"ui": running("ui")}),
        Difference(up={"engine": "has no container"}),
    ),
    "other configuration": (
        with_engine(hash="old"),
        Difference(up={"engine": "has another configuration"}),
    ),
    "stopped": (
        with_engine(status="exited", exit_code=137),
        Difference(up={"engine": "does not run (exited, exit status 137)"}),
    ),
    "image moved": (
        with_engine(image="id-old"),
        Difference(recreate={"engine": "runs another image than its name stands for now"}),
    ),
    "file replaced": (
        with_engine(stale=["/srv/models/m"]),
        Difference(recreate={"engine": "started before /srv/models/m changed"}),
    ),
    "changed by hand": (
        with_engine(by_hand=["the restart policy no", "the networks bridge"]),
        Difference(
            recreate={"engine": "was given the restart policy no, the networks bridge by hand"}
        ),
    ),
    "changed by hand and stopped": (
        with_engine(by_hand=["the restart policy no"], status="exited"),
        Difference(recreate={"engine": "was given the restart policy no by hand"}),
    ),
    # Compose makes it anew for that.
    "changed by hand and another configuration": (
        with_engine(by_hand=["the restart policy no"], hash="old"),
        Difference(up={"engine": "has another configuration"}),
    ),
    "unhealthy": (with_engine(health="unhealthy"), Difference(recreate={"engine": "is unhealthy"})),
    "crash loop": (
        with_engine(status="restarting", health="unhealthy"),
        Difference(recreate={"engine": "is unhealthy"}),
    ),
    "paused": (with_engine(status="paused"), Difference(recreate={"engine": "is paused"})),
    "starting": (with_engine(health="starting"), Difference(waiting=("engine",))),
    "image missing": (
        observed(images={ENGINE.image.reference: "id-engine", UI.image.reference: ""}),
        Difference(
            pull=(UI.image.reference,),
            recreate={"ui": "runs another image than its name stands for now"},
        ),
    ),
    "orphan": (observed(extra=[GHOST]), Difference(extra=(GHOST,))),
    "file not yet written": (
        observed(compose_file=""),
        Difference(up={"compose.yaml": "is not the wanted one"}),
    ),
    "a run was cut off, and Compose goes on": (
        observed(busy=True),
        Difference(up={"compose.yaml": "is being carried out by a run whose connection broke"}),
    ),
    "port taken": (
        observed(taken={"3000": "python3 (pid 9)"}),
        Difference(
            refused=(
                "port 3000, wanted by open_webui, is taken by python3 (pid 9)",
                "stop that, or give open_webui.port another number",
            )
        ),
    ),
    "container of somebody else": (
        observed(foreign=[{"name": "iona-web-1", "directory": "/home/x"}]),
        Difference(
            refused=(
                "the container iona-web-1 belongs to another Compose project that is called iona "
                "too, made in /home/x",
                "give the node or that project another name, or take that project down",
            )
        ),
    ),
    "volume of somebody else": (
        observed(volumes={"ui-data": {"ours": False, "users": []}}),
        Difference(
            refused=(
                "there is a volume ui-data that Homeport did not make",
                "give open_webui.volume another name; or, to go on with its data, "
                "open_webui.adopt=True (first see there what it needs)",
            )
        ),
    ),
    "volume in use by somebody else": (
        observed(volumes={"ui-data": {"ours": True, "users": ["theirs"]}}),
        Difference(
            refused=(
                "the volume ui-data is in use by theirs",
                "stop that, or give open_webui.volume another name",
            )
        ),
    ),
    "volume not there yet": (observed(volumes={}), Difference()),
    "no Docker": (
        {},
        Difference(
            refused=(
                "Docker does not answer: there is no docker command",
                "systemctl status docker",
            )
        ),
    ),
    "no Compose": (
        observed(compose=""),
        Difference(
            refused=("this node has no Docker Compose", "apt-get install docker-compose"),
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_difference(name: str) -> None:
    state, wanted = CASES[name]
    assert difference(STACK, state) == wanted


def test_a_volume_of_somebody_else_is_adopted_on_request() -> None:
    adopting = dataclasses.replace(UI, volumes=(Volume(name="ui-data", path="/data", adopt=True),))
    stack = Stack(project="iona", services=(ENGINE, adopting))
    assert render(stack) == render(STACK)
    free = observed(volumes={"ui-data": {"ours": False, "users": []}})
    assert difference(stack, free).refused is None
    used = observed(volumes={"ui-data": {"ours": False, "users": ["theirs"]}})
    assert difference(stack, used).refused is not None


def test_only_no_difference_is_false() -> None:
    assert not Difference()
    assert Difference(waiting=("engine",))


def test_compose_file() -> None:
    text = render(STACK)
    assert text == render(STACK)
    assert text.startswith("# Managed by Homeport (stack). Changes are replaced by the next")
    assert "\n# Project: iona\n" in text
    document = yaml.safe_load(text)
    engine, ui = document["services"]["engine"], document["services"]["ui"]
    assert engine["command"] == ["--key", "$$5"]
    assert engine["image"] == "ghcr.io/a/engine@sha256:" + "0" * 64
    assert engine["ports"] == ["127.0.0.1:8080:80"]
    assert engine["volumes"] == ["/srv/models:/models:ro", "/srv/models/m:/homeport/reads/0:ro"]
    assert engine["security_opt"] == ui["security_opt"] == ["no-new-privileges:true"]
    assert ui["volumes"][0] == "ui-data:/data"
    assert ui["labels"] == {
        "homeport.project": "iona",
        file_label(FILE.path): content_hash(FILE.content),
    }
    assert document["volumes"] == {"ui-data": {"name": "ui-data"}}
    assert document["secrets"] == {"engine.key": {"file": "/etc/homeport/secrets/engine.key"}}
    # Compose 1 knows neither; Docker 25 takes 5 s for the second.
    assert "name" not in document
    assert "start_interval" not in text


CDI = ["nvidia.com/gpu=GPU-1", "nvidia.com/gpu=GPU-2"]


@pytest.mark.parametrize(
    ("way", "driver", "names"), [("cdi", "cdi", CDI), ("hook", "nvidia", ["GPU-1", "GPU-2"])]
)
def test_gpus_are_reserved(way: Way, driver: str, names: list[str]) -> None:
    engine = yaml.safe_load(render(STACK, way))["services"]["engine"]
    (device,) = engine["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": driver, "device_ids": names, "capabilities": ["gpu"]}
    assert not {"gpus", "devices", "runtime"} & engine.keys()


def test_without_cdi_the_runtime_is_told() -> None:
    services = yaml.safe_load(render(STACK, "runtime"))["services"]
    assert services["engine"]["runtime"] == "nvidia"
    assert services["engine"]["environment"]["NVIDIA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert "deploy" not in services["engine"]
    assert "runtime" not in services["ui"]
    assert render(STACK, "runtime") != render(STACK, "hook")


def test_a_docker_that_hands_gpus_over_otherwise_gets_another_file() -> None:
    other = observed(gpu_way="runtime")
    assert difference(STACK, other).up == {"compose.yaml": "is not the wanted one"}
    text = hashlib.sha256(render(STACK, "runtime").encode()).hexdigest()
    assert not difference(STACK, {**other, "compose_file": text})
    # Nobody knows: Docker is not there yet.
    assert not difference(STACK, observed(gpu_way=""))


INFO = {"ServerVersion": "26.1.5", "CDISpecDirs": ["/etc/cdi"], "Runtimes": {"runc": {}}}


@pytest.mark.parametrize(
    ("info", "listed", "way"),
    [
        (INFO, "nvidia.com/gpu=GPU-1\nnvidia.com/gpu=all\n", "cdi"),
        (INFO, "nvidia.com/gpu=GPU-2\n", "hook"),
        (INFO, "", "hook"),
        ({**INFO, "CDISpecDirs": []}, "nvidia.com/gpu=GPU-1\n", "hook"),
        ({**INFO, "CDISpecDirs": None, "Runtimes": {"runc": {}, "nvidia": {}}}, "", "runtime"),
        ({**INFO, "Runtimes": {"nvidia": {}}}, "nvidia.com/gpu=GPU-1\n", "cdi"),
        ({"ServerVersion": "", "ServerErrors": ["no socket"]}, "nvidia.com/gpu=GPU-1\n", ""),
        (None, "", ""),
    ],
)
def test_how_docker_hands_gpus_over(
    monkeypatch: pytest.MonkeyPatch, info: Any, listed: str, way: str
) -> None:
    monkeypatch.setattr(docker_engine, "run", lambda *command: Ran(0, listed, ""))
    monkeypatch.setattr(docker_engine, "ask", lambda path: info)
    monkeypatch.setattr(docker_engine, "CDI_UNIT_FILE", "/no/such/file")
    assert docker_engine.gpu_way(["GPU-1"]) == way
    # A unit of ours sees to it that they are described.
    monkeypatch.setattr(docker_engine, "CDI_UNIT_FILE", "/")
    able = isinstance(info, dict) and info.get("CDISpecDirs") and info["ServerVersion"]
    assert docker_engine.gpu_way(["GPU-1"]) == ("cdi" if able else way)


@pytest.mark.parametrize(
    ("text", "way"),
    [
        ("driver: cdi", "cdi"),
        ("runtime: nvidia", "runtime"),
        ("driver: nvidia", "hook"),
        ("", ""),
    ],
)
def test_while_docker_does_not_answer_the_file_tells_how_gpus_are_handed_over(
    monkeypatch: pytest.MonkeyPatch, text: str, way: str
) -> None:
    monkeypatch.setattr(docker_engine, "_state", lambda: "inactive")
    monkeypatch.setattr(aboard, "read", lambda path: text)
    monkeypatch.setattr(aboard, "sha256_file", lambda path: "")
    engine = {**arguments(STACK)["services"]["engine"], "volumes": [], "ports": []}
    assert aboard.observe("iona", {"engine": engine})["gpu_way"] == way
    assert aboard.observe("iona", {"engine": {**engine, "gpus": []}})["gpu_way"] == ""


BROKEN = {"message": "input/output error"}


class _Engine(socketserver.StreamRequestHandler):
    """Docker's engine: answers GET by path and query, and keeps what it was asked."""

    said: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[str]] = []

    def handle(self) -> None:
        path = self.rfile.readline().decode().split()[1]
        while self.rfile.readline().strip():
            pass
        self.asked.append(path)
        found = self.said.get(path)
        status = "404 Not Found" if found is None else "200 OK"
        if found == BROKEN:
            status = "500 Internal Server Error"
        self.wfile.write(f"HTTP/1.1 {status}\r\nConnection: close\r\n\r\n".encode())
        self.wfile.write(json.dumps({"message": "no such"} if found is None else found).encode())


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Engine]]:
    """An engine behind the socket, which is asked nothing yet and has no answers."""
    path = str(tmp_path / "docker.sock")
    monkeypatch.setattr(docker_engine, "SOCKET", path)
    monkeypatch.setattr(docker_engine, "_state", lambda: "active")
    monkeypatch.setattr(_Engine, "said", {})
    monkeypatch.setattr(_Engine, "asked", [])
    with socketserver.UnixStreamServer(path, _Engine) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield _Engine
        server.shutdown()


def test_the_engine_is_asked_over_its_socket(engine: type[_Engine]) -> None:
    reference = "ghcr.io/a/b@sha256:0"
    engine.said |= {
        "/images/ghcr.io/a/b%40sha256%3A0/json": {"Id": "id-b"},
        "/containers/json?all=1&filters=%7B%22publish%22%3A+%5B%2280%2Ftcp%22%5D%7D": [],
    }
    assert docker_engine.ask(f"/images/{reference}/json") == {"Id": "id-b"}
    assert docker_engine.ask("/containers/json", all="1", filters={"publish": ["80/tcp"]}) == []
    assert docker_engine.ask("/volumes/none") is None
    engine.said["/info"] = BROKEN
    with pytest.raises(docker_engine.NoAnswer, match="input/output error"):
        docker_engine.ask("/info")


@pytest.mark.parametrize("state", ["inactive", "failed", "unknown", ""])
def test_an_engine_that_was_stopped_is_not_asked(
    engine: type[_Engine], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Its socket would start it, and a drift check changes nothing."""
    engine.said |= {"/version": {"Version": "26"}}
    monkeypatch.setattr(docker_engine, "_state", lambda: state)
    monkeypatch.setattr(aboard, "run", lambda *command, **_: Ran(command[0] != "systemctl", "", ""))
    with pytest.raises(docker_engine.NoAnswer, match=f"docker.service is {state or 'not there'}"):
        docker_engine.ask("/version")
    seen = aboard.observe("iona", arguments(STACK)["services"])
    assert (seen["docker"], seen["docker_error"]) == (
        "",
        f"docker.service is {state or 'not there'}",
    )
    assert engine.asked == []


def test_an_engine_that_tells_half_tells_nothing(engine: type[_Engine]) -> None:
    """Else containers that cannot be listed would be taken for such as are not there."""
    engine.said |= {"/version": {"Version": "26"}, "/containers/json?all=1": BROKEN}
    seen = aboard.observe("iona", arguments(STACK)["services"])
    assert (seen["docker"], seen["docker_error"]) == ("", "input/output error")
    assert "input/output error" in (difference(STACK, seen).refused or ("",))[0]


def test_an_engine_without_a_socket_has_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "_state", lambda: "active")
    monkeypatch.setattr(docker_engine, "SOCKET", "/no/such/socket")
    with pytest.raises(docker_engine.NoAnswer, match="/no/such/socket"):
        docker_engine.ask("/version")
    assert docker_engine.gpu_way(["GPU-1"]) == ""


def test_how_a_container_is_called() -> None:
    assert docker_engine.name({"Id": "1" * 64, "Names": ["/other/db", "/db"]}) == "db"
    assert docker_engine.name({"Id": "1" * 64, "Names": []}) == "1" * 12


HASHED = Ran(0, "ui 1f\nengine 2e\n", "")
REFUSED = Ran(15, "", "services.ui must be a mapping\n")


@pytest.mark.parametrize(
    ("plugin", "command", "ran", "problem"),
    [
        (True, ["no such"], HASHED, ""),
        (False, ["docker-compose"], HASHED, ""),
        (False, ["docker", "compose"], HASHED, ""),  # its plugin is where nobody looks
        (True, ["docker-compose"], REFUSED, "services.ui must be a mapping"),
        (False, [], HASHED, ""),
    ],
)
def test_compose_says_what_the_file_on_disk_wants(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plugin: bool,
    command: list[str],
    ran: Ran,
    problem: str,
) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    if plugin:
        (tmp_path / "docker-compose").touch(mode=0o755)
    monkeypatch.setattr(aboard, "COMPOSE_FILE", str(tmp_path / "compose.yaml"))
    monkeypatch.setattr(aboard, "PLUGINS", ("/nowhere", str(tmp_path)))
    monkeypatch.setattr(aboard, "compose_command", lambda: command)
    asked = []

    def run(*words: str, timeout: float) -> Ran:
        asked.append(words[: words.index("-p")])
        return ran

    monkeypatch.setattr(aboard, "run", run)
    found = aboard._hashes("iona")
    known = bool(asked) and ran.ok
    assert found == {
        "compose": "docker compose" if plugin else " ".join(command),
        "hashes": {"ui": "1f", "engine": "2e"} if known else {},
        "hash_error": problem,
    }
    program = (str(tmp_path / "docker-compose"),) if plugin else tuple(command)
    assert asked == ([program] if program else [])
    monkeypatch.setattr(aboard, "COMPOSE_FILE", "/no/such/file")
    assert aboard._hashes("iona")["hashes"] == {}


def test_every_port_is_on_loopback() -> None:
    services = yaml.safe_load(render(STACK))["services"].values()
    assert all(port.startswith("127.0.0.1:") for one in services for port in one["ports"])


def test_a_changed_file_is_another_configuration() -> None:
    other = dataclasses.replace(FILE, content="other")
    changed = Stack(project="iona", services=(ENGINE, dataclasses.replace(UI, files=(other,))))
    assert render(changed) != render(STACK)


def service(**changes: Any) -> Service:
    return dataclasses.replace(UI, **changes)


def trial(**changes: Any) -> Trial:
    given: dict[str, Any] = {
        "command": ("/app/engine", "--list"),
        "pattern": r"^ *CUDA\d+:",
        "count": 2,
        "need": "cuda",
        "cause": "no CUDA",
        "remedy": "a newer driver",
    }
    return Trial(**{**given, **changes})


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Port(host=0, container=1), "port.host"),
        (lambda: Port(host=1, container=70000), "port.container"),
        (lambda: Volume(name="../x", path="/x"), "volume.name"),
        (lambda: Volume(name="x", path="x"), "volume.path"),
        (lambda: Bind(source="x", path="/x"), "bind.source"),
        (lambda: Bind(source="/x", path="/../x"), "bind.path"),
        (lambda: MountedFile(name="../x", content="", path="/x"), "mounted_file.name"),
        (lambda: MountedFile(name="x", content="", path="x"), "mounted_file.path"),
        (lambda: MountedFile(name="x", content="", path="/x", mode="9"), "mounted_file.mode"),
        (lambda: HealthCheck(test=()), "health_check.test"),
        (lambda: trial(command=()), "trial.command"),
        (lambda: trial(count=0), "trial.count"),
        (lambda: trial(timeout=0), "trial.timeout"),
        (lambda: HealthCheck(test=("x",), interval=0), "health_check.interval"),
        (lambda: service(name="UI"), "service.name"),
        (lambda: service(start_timeout=0), "service.start_timeout"),
        (lambda: service(gpus=(Gpu(handle="a"), Gpu(handle="a"))), "service.gpus"),
        (lambda: service(files=(FILE, FILE)), "service.files"),
        (lambda: service(restart="always"), "service.restart"),
        (lambda: Stack(project="Iona", services=()), "stack.project"),
        (lambda: Stack(project="iona", services=(UI, UI)), "stack.services"),
        (lambda: Stack(project="iona", services=(UI,)), "stack.ui.depends_on"),
        (
            lambda: Stack(project="iona", services=(ENGINE, service(ports=ENGINE.ports))),
            "open_webui.port: 8080 is used twice: llama_server.port has it already",
        ),
    ],
)
def test_wrong_input_names_the_field(make: Any, field: str) -> None:
    with pytest.raises(SpecError, match=field):
        make()


def test_stray_files() -> None:
    path = STACK.path_of_file(UI, FILE)
    assert stray_files(STACK, {"files": [path]}) == []
    assert stray_files(STACK, {"files": [path, "/old"]}) == ["/old"]
    assert stray_files(None, {"files": [path]}) == [path]


GOOD_UNIT = {
    "LoadState": "loaded",
    "UnitFileState": "enabled",
    "ActiveState": "active",
    "NeedDaemonReload": "no",
    "docker_knows": True,
    "dropins": [],
}


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, []),
        ({"UnitFileState": "disabled"}, ["enable"]),
        # Starting is for another step, after the services are up.
        ({"ActiveState": "failed"}, []),
        ({"NeedDaemonReload": "yes"}, ["daemon-reload"]),
        ({"docker_knows": False}, ["daemon-reload"]),
        (
            {"LoadState": "not-found", "UnitFileState": "", "ActiveState": "inactive"},
            ["daemon-reload", "enable"],
        ),
    ],
)
def test_unit_steps(changes: dict[str, Any], steps: list[str]) -> None:
    assert unit_steps({**GOOD_UNIT, **changes}) == steps


MISSING = {"images": {ENGINE.image.reference: "", UI.image.reference: "id-ui"}}
STARTING = {"services": {"engine": running("engine", health="starting"), "ui": running("ui")}}
STOPPED = {"services": {"engine": running("engine", status="exited"), "ui": running("ui")}}
NO_DOCKER = {"docker": ""}


@pytest.mark.parametrize(
    ("operation", "found", "commands"),
    [
        (operations.fetch, {}, []),
        (operations.fetch, MISSING, ["fetch"]),
        # What forbids the services is said before anything is downloaded.
        (operations.fetch, MISSING | {"taken": {"8080": "x"}}, ["exit 1"]),
        (operations.fetch, {"foreign": [{"name": "x", "directory": "y"}]}, ["exit 1"]),
        (operations.fetch, NO_DOCKER, ["exit 1"]),
        (operations.provide, {}, []),
        (operations.provide, MISSING, ["pull"]),
        (operations.provide, STOPPED, []),
        # No file is written for services that would be refused.
        (operations.provide, {"taken": {"8080": "x"}}, ["exit 1"]),
        (operations.provide, NO_DOCKER, ["exit 1"]),
        (operations.enabled, {"unit": {}}, ["systemctl daemon-reload", "systemctl enable home"]),
        (operations.active, {"unit": {}}, ["systemctl start home"]),
        (operations.converge, {}, []),
        (operations.converge, MISSING, ["up"]),
        (operations.converge, STOPPED, ["up"]),
        (operations.converge, {"extra": [GHOST]}, ["remove_containers"]),
        # What only has to be waited for is not started again.
        (operations.converge, STARTING, []),
        (operations.converge, NO_DOCKER, ["exit 1"]),
        (operations.ready, {}, []),
        (operations.ready, STARTING, ["wait"]),
        # It was started a moment ago: `wait` tells whether it crashes, and shows its log.
        (operations.ready, STOPPED, ["wait"]),
        (operations.ready, NO_DOCKER, ["exit 1"]),
    ],
)
def test_operations(
    monkeypatch: pytest.MonkeyPatch, operation: Any, found: dict[str, Any], commands: list[str]
) -> None:
    noops: list[str] = []
    fake = SimpleNamespace(get_fact=lambda fact, **_: observed(**found), noop=noops.append)
    monkeypatch.setattr(operations, "host", fake)
    yielded = [str(command) for command in operation._inner(stack=STACK)]
    assert len(yielded) == len(commands)
    for command, word in zip(yielded, commands, strict=True):
        assert word in command if " " in word else f"_module.{word}(**_arguments)" in command
    assert bool(noops) is not bool(commands)


SEEN_BARE = [
    (operations.fetch, ["Docker does not answer"]),
    (operations.provide, ["Docker does not answer"]),
    (operations.enabled, ["daemon-reload", "enable"]),
    (operations.active, ["start"]),
    (operations.tidy, []),
]


@pytest.mark.parametrize(("operation", "words"), SEEN_BARE)
def test_a_node_without_python3_can_be_looked_at(
    monkeypatch: pytest.MonkeyPatch, operation: Any, words: list[str]
) -> None:
    """Before the first run, as `pyinfra --dry` does: the fact is its default then."""
    fake = SimpleNamespace(get_fact=lambda fact, **_: {}, noop=print)
    monkeypatch.setattr(operations, "host", fake)
    commands = [str(command) for command in operation._inner(stack=STACK)]
    assert len(commands) == len(words)
    assert all(word in command for word, command in zip(words, commands, strict=True))


def test_fetching_ahead_cannot_fail_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, ...]] = []

    def refuse(*command: str) -> Ran:
        ran.append(command)
        return Ran(1, "", "Unit homeport-fetch.service was already loaded")

    monkeypatch.setattr(stack_actions, "run", refuse)
    assert stack_actions.fetch(["a", "b"]) is None
    (command,) = ran
    assert command[0] == "systemd-run"
    assert command[-2:] == ("a", "b")


def test_what_the_fact_is_asked() -> None:
    asked = arguments(STACK)
    assert asked["services"]["engine"]["secrets"] == ["engine.key"]
    assert asked["services"]["ui"]["volumes"] == ["ui-data"]
    assert asked["services"]["ui"]["files"] == {STACK.path_of_file(UI, FILE): FILE.path}
    assert arguments(None) == {"project": "", "services": {}}


def test_secrets_are_masked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stack_actions, "SECRETS", str(tmp_path))
    (tmp_path / "key").write_text("s3cret/+value")
    said = stack_actions.words("a s3cret/+value b\nczNjcmV0Lyt2YWx1ZQ== s3cret%2F%2Bvalue")
    assert "s3cret" not in said
    assert "czNj" not in said
    assert said.count("********") == 3


def test_progress_is_not_repeated() -> None:
    said = " Container iona-x-1  Created\n Network iona_default  Creating\nthe cause"
    assert stack_actions.words(said) == "the cause"


def stale(tmp_path: Path, wanted: dict[str, Any]) -> list[str]:
    """What is stale in a container that sees `tmp_path`/root as its root."""
    process = tmp_path / "42"
    process.mkdir(exist_ok=True)
    if not (process / "root").exists():
        (process / "root").symlink_to(tmp_path / "root")
    everything: dict[str, Any] = {"files": {}, "secrets": [], "reads": []}
    return aboard.stale({**everything, **wanted}, 42, str(tmp_path))


def test_a_model_behind_the_same_link_counts_as_changed(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("model")
    link.symlink_to("file")
    inside = tmp_path / f"root{aboard.READS}/0"
    inside.parent.mkdir(parents=True)
    inside.hardlink_to(file)  # as a mount does, it keeps the file
    reads = {"reads": [str(link)]}
    assert stale(tmp_path, reads) == []
    # Neither a clock that was put right nor a link that is written otherwise is a change.
    os.utime(file, (2**33, 2**33))
    link.unlink()
    link.symlink_to(file)
    assert stale(tmp_path, reads) == []
    new = tmp_path / "new"
    new.write_text("model")
    new.replace(file)
    assert stale(tmp_path, reads) == [str(link)]
    file.unlink()
    assert stale(tmp_path, reads) == [str(link)]


def test_a_file_with_another_content_counts_as_changed(tmp_path: Path) -> None:
    file, inside = tmp_path / "file", tmp_path / "root/x"
    inside.parent.mkdir()
    for path in (file, inside):
        path.write_text("one")
    os.utime(file, (2**33, 2**33))
    files = {"files": {str(file): "/x"}}
    assert stale(tmp_path, files) == []
    file.write_text("two")
    assert stale(tmp_path, files) == [str(file)]


def labelled(name: str, **labels: str) -> dict[str, Any]:
    """A container as `docker inspect` shows it."""
    named = {f"com.docker.compose.{key}": value for key, value in labels.items()}
    return {
        "Id": f"id-{name}",
        "Name": f"/{name}",
        "Created": "2026",
        "Config": {"Labels": named},
        "State": {"Status": "exited", "ExitCode": 0, "StartedAt": ""},
        "HostConfig": {},
        "RestartCount": 0,
        "Image": "",
        "Mounts": [{"Name": "ui-data"}],
    }


@pytest.mark.parametrize(
    ("host", "networks", "words"),
    [
        ({}, {"iona_default": {}}, []),
        (
            {"RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
            None,
            ["the restart policy no"],
        ),
        ({"RestartPolicy": {"Name": ""}}, None, ["the restart policy no"]),
        (
            {"RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}},
            None,
            ["the restart policy on-failure:3"],
        ),
        ({"Memory": 1 << 29, "MemorySwap": -1}, None, ["a limit of its own (Memory)"]),
        ({"NanoCpus": 1, "PidsLimit": 9}, None, ["a limit of its own (NanoCpus, PidsLimit)"]),
        ({"Memory": 0, "PidsLimit": None, "CpusetCpus": ""}, None, []),
        ({}, {}, ["the networks none"]),
        ({}, {"iona_default": {}, "bridge": {}}, ["the networks bridge, iona_default"]),
    ],
)
def test_what_was_changed_by_hand(
    host: dict[str, Any], networks: dict[str, Any] | None, words: list[str]
) -> None:
    policy = {"Name": "unless-stopped", "MaximumRetryCount": 0}
    container = {
        "HostConfig": {"RestartPolicy": policy, **host},
        "NetworkSettings": {"Networks": {"iona_default": {}} if networks is None else networks},
    }
    asked = arguments(STACK)["services"]["engine"]
    assert aboard.by_hand(container, asked) == words


def test_what_others_made_is_told_apart(engine: type[_Engine]) -> None:
    ours = labelled("a", **{"project": "old", "service": "ui", "project.working_dir": DIRECTORY})
    copy = labelled("b", **{"project": "iona", "service": "ui", "project.working_dir": "/tmp"})
    copy["Config"]["Labels"]["homeport.project"] = "iona"
    theirs = labelled("c", **{"project": "iona", "service": "ui", "project.working_dir": "/home"})
    assert [aboard.ours(one["Config"]["Labels"]) for one in (ours, copy, theirs)] == [
        True,
        True,
        False,
    ]
    runs = {"Names": ["/a theirs"], "Id": "x", "Labels": {}, "State": "running"}
    uses = {**runs, "Mounts": [{"Name": "ui-data"}], "Ports": []}
    stopped = {**uses, "Names": ["/old"], "State": "exited"}
    paused = {**uses, "Names": ["/paused"], "State": "paused"}
    once = {**labelled("d", project="iona", oneoff="True")["Config"], "Id": "id-d"}

    def there(*ours: dict[str, Any]) -> None:
        listed = [{**runs, "Id": one["Id"], **one["Config"]} for one in ours]
        engine.said.clear()
        engine.said |= {f"/containers/{one['Id']}/json": one for one in ours}
        engine.said |= {
            "/version": {"Version": "26"},
            "/containers/json?all=1": [*listed, {**runs, **once}, uses, stopped, paused, runs],
            "/volumes/ui-data": {"Name": "ui-data", "Labels": None},
        }

    asked = {"image": "x", "ports": [], "files": {}, "secrets": [], "reads": []}
    asked |= {"restart": "no", "network": "iona_default", "volumes": ["ui-data"]}
    there(ours, copy, theirs)
    seen = aboard.observe("iona", {"ui": asked})
    assert seen["foreign"] == [{"name": "c", "directory": "/home"}]
    assert seen["services"]["ui"]["id"] == "id-b"
    assert [one["id"] for one in seen["extra"]] == ["id-a"]
    assert (seen["docker"], seen["images"]) == ("26", {"x": ""})
    # Unlabelled, but held by a container of ours: of this node under its old name, say.
    assert seen["volumes"] == {"ui-data": {"ours": True, "users": ["a theirs", "paused"]}}
    there(theirs)
    seen = aboard.observe("iona", {"ui": asked})
    assert seen["services"] == {}
    assert seen["volumes"]["ui-data"]["ours"] is False


def test_who_holds_a_port_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aboard, "_owner", lambda inode: "docker-proxy (pid 7)")
    monkeypatch.setattr(aboard, "_listeners", lambda ports: dict.fromkeys(ports, "1"))
    held = {"PublicPort": 80, "Type": "tcp"}
    listed = [
        {"Id": "1", "Names": ["/dns"], "Ports": [{"PublicPort": 80, "Type": "udp"}]},
        {"Id": "2", "Names": ["/web"], "Ports": [{"PrivatePort": 80, "Type": "tcp"}, held]},
    ]
    assert aboard._taken({80, 81}, listed) == {
        "80": "docker-proxy (pid 7), which serves the container web",
        "81": "docker-proxy (pid 7)",
    }


LISTED = "Available devices:\n  CUDA0: RTX (11264 MiB, 9 MiB free)\n  CUDA1: RTX (1 MiB)\n"


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (Ran(0, LISTED, ""), None),
        (Ran(0, "", LISTED), None),
        (Ran(0, "Available devices:\n  (none)\n", "CUDA driver version is insufficient"), "0 of 2"),
        (Ran(0, LISTED.rsplit("  CUDA1", 1)[0], ""), "1 of 2"),
        (Ran(1, LISTED, "out of memory"), "out of memory"),
        (Ran(124, "", "docker: no answer within 120 s"), "no answer within"),
        (Ran(125, "", "could not select device driver"), "systemctl restart docker"),
    ],
)
@pytest.mark.parametrize(
    ("way", "options"),
    [
        ("hook", ("--gpus", 'driver=nvidia,"device=GPU-1,GPU-2"')),
        ("cdi", ("--device", CDI[0], "--device", CDI[1])),
        ("runtime", ("--runtime", "nvidia", "--env", "NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2")),
    ],
)
def test_a_trial(
    monkeypatch: pytest.MonkeyPatch,
    said: Ran,
    words: str | None,
    way: str,
    options: tuple[str, ...],
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(*command: str, timeout: float = 0) -> Ran:
        ran.append(command)
        if command[0] == "nvidia-smi":
            return Ran(0, "470.1\n470.1\n", "")
        return said if command[1] == "run" else Ran(0, "", "")

    monkeypatch.setattr(stack_actions, "run", run)
    arguments: dict[str, Any] = {
        "image": "a/b@sha256:0",
        "gpus": ["GPU-1", "GPU-2"],
        "way": way,
        "environment": {"A": "b"},
    }
    problem = stack_actions.attempt(**arguments, trial=dataclasses.asdict(trial()))
    command = next(one for one in ran if one[:2] == ("docker", "run"))
    assert any(command[at : at + len(options)] == options for at in range(len(command)))
    assert command[-4:] == ("--entrypoint", "/app/engine", "a/b@sha256:0", "--list")
    assert "A=b" in command
    if words is None:
        assert problem is None
    else:
        assert problem is not None
        assert words in problem
        assert "driver is 470.1." in problem
        # Nothing is left of one that had to be given up.
        assert ran.count(("docker", "rm", "--force", "homeport-trial")) == 1 + (said.status == 124)


@pytest.mark.parametrize(
    ("changes", "lacks", "tried"),
    [
        (STOPPED, (), True),
        ({"compose_file": "another"}, (), True),
        ({"images": {ENGINE.image.reference: "newer", UI.image.reference: "id-ui"}}, (), True),
        (MISSING, (), True),
        (STOPPED, ("cuda",), False),
        # Its trial came before the file was written.
        ({"hashes": {"engine": "new", "ui": "hash-ui"}}, (), False),
        # Another service is made: the engine is not touched.
        ({"services": {"engine": running("engine")}}, (), False),
        ({}, (), False),
    ],
)
def test_what_was_not_tried_yet_is_tried(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], lacks: tuple[str, ...], tried: bool
) -> None:
    stack = Stack(project="iona", services=(dataclasses.replace(ENGINE, trial=trial()), UI))
    assert render(stack) == render(STACK)
    fake = SimpleNamespace(get_fact=lambda fact, **_: observed(**changes), noop=lambda words: None)
    monkeypatch.setattr(operations, "host", fake)
    yielded = [str(command) for command in operations.provide._inner(stack=stack, lacks=lacks)]
    assert sum("_module.attempt(" in one for one in yielded) == tried


def test_a_project_of_somebody_else_is_not_taken_down(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = observed(project="iona", foreign=[{"name": "theirs", "directory": "/x"}])
    monkeypatch.setattr(operations, "host", SimpleNamespace(get_fact=lambda fact, **_: seen))
    (command,) = operations.remove._inner()
    assert "theirs" in str(command)
    assert str(command).endswith("exit 1")


@pytest.mark.parametrize("theirs", [False, True])
def test_a_docker_that_was_stopped_is_started_to_take_its_containers_away(
    monkeypatch: pytest.MonkeyPatch, theirs: bool
) -> None:
    """Their file is the only sign of them, and goes."""
    unit = {**GOOD_UNIT, "docker_there": True}
    stopped = observed(project="iona", docker="", unit=unit)
    foreign = [{"name": "theirs", "directory": "/x"}] if theirs else []
    runs = {**observed(project="iona", unit=unit), "foreign": foreign}
    looks = [stopped, runs]
    monkeypatch.setattr(
        operations, "host", SimpleNamespace(get_fact=lambda fact, **_: looks.pop(0))
    )
    start, *rest = map(str, operations.remove._inner())
    assert start == "systemctl start docker.service"
    assert any("down(" in one for one in rest) is not theirs
    assert rest[-1] == f"rm -rf {DIRECTORY}" or theirs
    looks[:] = [observed(project="iona", docker="", unit=GOOD_UNIT)]  # no Docker is installed
    commands = [*map(str, operations.remove._inner())]
    assert commands[-1] == f"rm -rf {DIRECTORY}"
    assert not any("docker.service" in one and "start" in one for one in commands[:1])


def test_systemd_reads_units_anew_before_containers_start() -> None:
    order = [name for name in inspect.getsource(deploy.apply).split() if "operations." in name]
    names = [word.split("operations.")[1].split("(")[0] for word in order]
    assert names.index("enabled") < names.index("converge") < names.index("active")


def test_no_file_is_written_before_the_services_have_what_they_need() -> None:
    body = inspect.getsource(deploy.apply)
    places = [body.index(step) for step in (".provide(", "_write_files(", ".converge(")]
    assert places == sorted(places)


def test_where_the_stack_stands_in_the_whole() -> None:
    text = Path(deploy.__file__).parents[1].joinpath("full.py").read_text()
    calls = re.findall(r"^(\w+\.\w+)\(", text, re.MULTILINE)
    # What may install a package, and so have systemd read its units anew, is before containers.
    for stem in ("base", "docker", "aboard", "caddy", "hotspot"):
        assert calls.index(f"{stem}.apply") < calls.index("stack.apply")
    # What forbids the services is found before anything large is downloaded.
    for early in ("llama_server.apply", "stack.fetch"):
        assert calls.index("docker.apply") < calls.index(early) < calls.index("hf_models.apply")
    assert calls.index("llama_server.apply") < calls.index("stack.fetch")


def test_compose_keeps_the_lock_when_its_run_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock = str(tmp_path / "lock")
    monkeypatch.setattr(stack_actions, "STACK_LOCK", lock)
    monkeypatch.setattr(aboard, "STACK_LOCK", lock)
    assert not aboard._busy()
    with stack_actions._alone() as keep:
        left = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(keep,))
        assert aboard._busy()
    assert aboard._busy()
    monkeypatch.setattr(stack_actions, "_alone", partial(stack_actions._alone, 0))
    for problem in (
        stack_actions.up("iona", []),
        stack_actions.down("iona"),
        stack_actions.remove_containers(["x"]),
    ):
        assert "somebody else changes the stack" in (problem or "")
    left.communicate()
    with open(lock, "rb") as another:  # who only looks
        fcntl.flock(another, fcntl.LOCK_SH)
        assert not aboard._busy()


def test_a_service_without_a_container_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    fake = SimpleNamespace(monotonic=lambda: float(next(clock)), sleep=lambda seconds: None)
    monkeypatch.setattr(stack_actions, "time", fake)
    monkeypatch.setattr(stack_actions, "run", lambda *words, **_: Ran(0, "", ""))
    said = stack_actions.wait("iona", {"ui": 1800}) or ""
    assert said.startswith("ui is not ready after 40 s: absent")


class _Daemon(socketserver.StreamRequestHandler):
    """Answers one request for an image as Docker does."""

    said: ClassVar[list[dict[str, Any]]] = []

    def handle(self) -> None:
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for event in self.said:
            self.wfile.write(json.dumps(event).encode() + b"\r\n")


def downloading(layer: str, current: int, total: int) -> dict[str, Any]:
    detail = {"current": current, "total": total}
    return {"status": "Downloading", "progressDetail": detail, "id": layer}


@pytest.mark.parametrize("breaks", [False, True])
def test_a_pull_tells_how_far_it_is(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    breaks: bool,
) -> None:
    path = str(tmp_path / "docker.sock")
    said: list[dict[str, Any]] = [
        {"status": "Pulling from a/b", "id": "1"},
        downloading("x", 10, 100),
        downloading("y", 10, 100),
        downloading("y", 11, 100),
        {"status": "Download complete", "progressDetail": {}, "id": "x"},
        {"error": "unauthorized"} if breaks else {"status": "Status: Downloaded newer image"},
    ]
    monkeypatch.setattr(_Daemon, "said", said)
    monkeypatch.setattr(docker_engine, "SOCKET", path)
    ran: list[tuple[str, ...]] = []

    def run(*command: str, timeout: float) -> Ran:
        ran.append(command)
        return Ran(1, "", "denied") if breaks else Ran(0, "", "")

    monkeypatch.setattr(stack_actions, "run", run)
    with socketserver.UnixStreamServer(path, _Daemon) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        problem = stack_actions.pull(["ghcr.io/a/b@sha256:0"])
    assert ran == [("docker", "pull", "--quiet", "ghcr.io/a/b@sha256:0")]
    assert (problem is not None and "denied" in problem) is breaks
    lines = [line.removeprefix(PROGRESS) for line in capsys.readouterr().out.splitlines()]
    told = [json.loads(line) for line in lines]
    assert {one["what"] for one in told} == {"ghcr.io/a/b"}
    shares = [(one["done"], one["total"]) for one in told]
    # 20 and 21 of 200 are 10 % as well: that was told.
    assert shares == [(10, 100), (111, 200)]


def test_a_pull_without_dockers_api_is_a_pull(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "SOCKET", "/nowhere")
    monkeypatch.setattr(stack_actions, "run", lambda *words, **_: Ran(0, "", ""))
    assert stack_actions.pull(["a"]) is None


# What drift says --------------------------------------------------------------------------------

ON = {"stack": STACK}
ENGINE_IMAGE = f"image {ENGINE.image.reference}"
UNIT = "homeport-stack.service"
TRIED = Stack(project="iona", services=(dataclasses.replace(ENGINE, trial=trial()), UI))
WORDS: list[Words] = [
    (
        operations.compose_file,
        [observed()],
        ON,
        [
            (
                "/etc/homeport/stack/compose.yaml: sha1 "
                f"{hashlib.sha1(render(STACK).encode()).hexdigest()[:12]}, owner root:root, "
                "mode 644",
                "no such file",
            )
        ],
    ),
    (operations.fetch, [observed(**MISSING)], ON, [(ENGINE_IMAGE, "not on the node")]),
    (
        operations.fetch,
        [observed(**NO_DOCKER)],
        ON,
        [("its name", "Docker does not answer: there is no docker command")],
    ),
    (
        operations.provide,
        [observed(**MISSING)],
        {"stack": TRIED},
        [
            (ENGINE_IMAGE, "not on the node"),
            ("service engine: tried as wanted", "not tried yet"),
        ],
    ),
    (
        operations.converge,
        [observed(**STOPPED, extra=[GHOST])],
        ON,
        [
            (
                "service engine: as the inventory says",
                "container engine does not run (exited, exit status 0)",
            ),
            ("no container of iona/ghost", "container 1"),
        ],
    ),
    (
        operations.converge,
        [observed(services={"engine": running("engine", stale=["/srv/models/m"])})],
        ON,
        [
            ("service ui: as the inventory says", "has no container"),
            (
                "service engine: as the inventory says",
                "container engine started before /srv/models/m changed",
            ),
        ],
    ),
    (
        operations.converge,
        [observed(compose_file="another")],
        ON,
        [("/etc/homeport/stack/compose.yaml: as the inventory says", "is not the wanted one")],
    ),
    (
        operations.converge,
        [observed(**NO_DOCKER)],
        ON,
        [("its name", "Docker does not answer: there is no docker command")],
    ),
    # What only has to be waited for is told once.
    (operations.converge, [observed(**STARTING)], ON, []),
    (operations.ready, [observed(**STARTING)], ON, [("service engine: healthy", "starting")]),
    (
        operations.ready,
        [observed(**MISSING)],
        ON,
        [
            (ENGINE_IMAGE, "not on the node"),
            (
                "service engine: as the inventory says",
                "container engine runs another image than its name stands for now",
            ),
        ],
    ),
    (
        operations.enabled,
        [{"unit": {**GOOD_UNIT, "UnitFileState": "disabled", "NeedDaemonReload": "yes"}}],
        ON,
        [
            (f"{UNIT}: loaded as on the disk", "an older one is loaded"),
            (f"{UNIT}: enabled", "disabled"),
        ],
    ),
    (
        operations.enabled,
        [{"unit": {**GOOD_UNIT, "LoadState": "masked", "docker_knows": False}}],
        ON,
        [
            (f"{UNIT}: loaded as on the disk", "masked"),
            (f"docker.service: with {operations.DROPIN}", "systemd has not read that"),
        ],
    ),
    (operations.enabled, [{"unit": {**GOOD_UNIT, "dropins": [THEIRS]}}], ON, [not_ours(UNIT)]),
    (
        operations.active,
        [{"unit": {**GOOD_UNIT, "ActiveState": "failed"}}],
        ON,
        [(f"{UNIT}: active", "failed")],
    ),
    (
        operations.tidy,
        [{"files": [f"{DIRECTORY}/files/stray"]}],
        ON,
        [(f"{DIRECTORY}/files/stray: no such file", "a file that no service mounts")],
    ),
    (
        operations.remove,
        [observed(project="iona", unit=GOOD_UNIT)],
        {},
        [
            (f"{UNIT}: no such unit", "loaded"),
            ("no Compose project iona", "its file is there"),
            (f"{DIRECTORY}: no such directory", "there are files of ours"),
        ],
    ),
]


def test_an_operation_says_what_differs_when_it_does_something_and_only_then() -> None:
    for found in ({}, MISSING, STARTING, STOPPED, {"extra": [GHOST]}):
        for operation in (
            operations.fetch,
            operations.provide,
            operations.converge,
            operations.ready,
        ):
            yielded(operation, observed(**found), stack=STACK)
