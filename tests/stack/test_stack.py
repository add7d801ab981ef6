"""Cases: the Compose file of a stack, and what a node lacks or has too much."""

import dataclasses
import hashlib
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from deploys.stack import Bind, HealthCheck, MountedFile, Port, Service, Stack, Volume, operations
from deploys.stack.compose import content_hash, file_label, render
from deploys.stack.difference import Difference, difference, stray_files, unit_steps
from deploys.stack.facts import arguments
from homeport.pins import Gpu, Image
from homeport.spec import SpecError
from homeport_node import stack as aboard
from homeport_node import stack_actions
from homeport_node.common import Ran

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
        "restarts": 0,
        "hash": f"hash-{name}",
        "image": f"id-{name}",
        "stale": [],
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
    "port taken": (
        observed(taken={"3000": "python3 (pid 9)"}),
        Difference(
            refused=(
                "port 3000, wanted by open_webui, is taken by python3 (pid 9)",
                "stop that, or give open_webui.port another number",
            )
        ),
    ),
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
    assert engine["volumes"] == ["/srv/models:/models:ro"]
    device = engine["deploy"]["resources"]["reservations"]["devices"][0]
    assert device["device_ids"] == ["GPU-1", "GPU-2"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert "gpus" not in engine
    assert ui["volumes"][0] == "ui-data:/data"
    assert ui["labels"] == {file_label(FILE.path): content_hash(FILE.content)}
    assert document["volumes"] == {"ui-data": {"name": "ui-data"}}
    assert document["secrets"] == {"engine.key": {"file": "/etc/homeport/secrets/engine.key"}}
    # Compose 1 knows neither.
    assert "name" not in document
    assert "start_interval" not in text


def test_every_port_is_on_loopback() -> None:
    services = yaml.safe_load(render(STACK))["services"].values()
    assert all(port.startswith("127.0.0.1:") for one in services for port in one["ports"])


def test_a_changed_file_is_another_configuration() -> None:
    other = dataclasses.replace(FILE, content="other")
    changed = Stack(project="iona", services=(ENGINE, dataclasses.replace(UI, files=(other,))))
    assert render(changed) != render(STACK)


def service(**changes: Any) -> Service:
    return dataclasses.replace(UI, **changes)


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
}


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, []),
        ({"UnitFileState": "disabled"}, ["enable"]),
        ({"ActiveState": "failed"}, ["start"]),
        ({"NeedDaemonReload": "yes"}, ["daemon-reload"]),
        ({"docker_knows": False}, ["daemon-reload"]),
        (
            {"LoadState": "not-found", "UnitFileState": "", "ActiveState": "inactive"},
            ["daemon-reload", "enable", "start"],
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
        (operations.fetch, MISSING | NO_DOCKER, []),
        (operations.converge, {}, []),
        (operations.converge, MISSING, ["pull", "up"]),
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
    assert asked["services"]["ui"]["files"] == {STACK.path_of_file(UI, FILE): FILE.path}
    assert arguments(None) == {"project": "", "services": {}}


def test_times_of_docker() -> None:
    assert aboard.seconds("1970-01-01T00:00:01.500000000Z") == 1.5
    assert aboard.seconds("1970-01-01T00:01:00Z") == 60
    assert aboard.seconds("never") == 0


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


def test_a_model_behind_the_same_link_counts_as_changed(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text("model")
    link.symlink_to("file")
    os.utime(file, (100, 100))
    os.utime(link, (100, 100), follow_symlinks=False)
    assert not aboard.changed_since(str(link), 200)
    os.utime(file, (300, 300))
    assert aboard.changed_since(str(link), 200)
    os.utime(file, (100, 100))
    os.utime(link, (300, 300), follow_symlinks=False)
    assert aboard.changed_since(str(link), 200)
    file.unlink()
    assert aboard.changed_since(str(link), 400)
