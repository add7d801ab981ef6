"""The stage's parts that need no daemon."""

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from homeport.lab import LabError, cache, stage
from homeport.lab.cache import quiet
from homeport.lab.content import model
from homeport.lab.machine import neighbour
from homeport.lab.sources import Sources, sources

REPOSITORY = "ghcr.io/example/program"
NAME = f"{REPOSITORY}:1"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


class Registry:
    """`Sources` and its engine, as far as `push_images` speaks with them."""

    def __init__(self) -> None:
        self.engine = self
        self.environment: dict[str, str] = {}
        self.images: set[str] = set()
        self.there: set[str] = set()

    def pushed(self, name: str, identity: str) -> bool:
        return name in self.there

    def push(self, tag: str, name: str, identity: str) -> None:
        assert tag in self.images
        self.there.add(name)

    def image_id(self, tag: str) -> str:
        return tag if tag in self.images else ""

    def run(self, verb: str, tag: str) -> None:
        self.images.remove(tag)


def push(
    monkeypatch: pytest.MonkeyPatch, found: Registry, build: Callable[..., None]
) -> Callable[[], None]:
    """What pushes the one program that there is, which `build` builds."""
    program = stage.Program(lambda: "key", build)
    monkeypatch.setattr(stage, "PROGRAMS", {REPOSITORY: program})
    monkeypatch.setattr(stage, "find", lambda *_: [SimpleNamespace(name=NAME)])
    nodes: dict[str, Any] = {"box": None}
    return lambda: stage.push_images(nodes, cast(Sources, found), quiet)


def test_two_first_rehearsals_build_a_program_once(monkeypatch: pytest.MonkeyPatch) -> None:
    found, built = Registry(), []

    def build(directory: Path, tag: str, *_: object) -> None:
        built.append(tag)
        part = directory / "program.part"
        part.touch(exist_ok=False)  # nobody else is at it
        time.sleep(0.2)
        part.unlink()
        found.images.add(tag)

    run = push(monkeypatch, found, build)
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == ["homeport-lab/program:key"]
    assert found.there == {NAME}


def test_a_build_without_an_end_is_the_lab_s_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise subprocess.TimeoutExpired("docker run", 300)

    with pytest.raises(LabError, match="no end within 300 s"):
        push(monkeypatch, Registry(), build)()


def without_a_daemon(
    monkeypatch: pytest.MonkeyPatch, hub_root: Callable[..., Path], *, emulated: bool = True
) -> None:
    """A stage for no machine, as far as `hub_root`."""
    made = SimpleNamespace(keeping=False, network=lambda name: nullcontext(None))
    monkeypatch.setattr(stage, "unbound", lambda inventory: {})
    monkeypatch.setattr(stage, "require_host", lambda: None)
    monkeypatch.setattr("homeport.lab.engine.engine", lambda progress: nullcontext(made))
    monkeypatch.setattr(stage, "emulated", lambda *_: emulated)
    monkeypatch.setattr(stage, "hub_root", hub_root)


@pytest.mark.parametrize("error", [LabError("no boot"), None])
def test_a_stage_that_fails_leaves_the_consoles(
    monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    def hub(*_: object) -> Path:
        (machine,) = cache.directory("stages").iterdir()
        (machine / "box").mkdir()
        (machine / "box" / "console.log").write_text("Kernel panic")
        raise error or KeyboardInterrupt

    without_a_daemon(monkeypatch, hub)
    expected = type(error) if error else KeyboardInterrupt
    with pytest.raises(expected), stage.stage(Path("box.py"), on="machine"):
        pass
    log = cache.directory("failed") / "box-machine.log"
    assert log.exists() == (error is not None)
    assert not log.exists() or "Kernel panic" in log.read_text()
    assert list(cache.directory("stages").iterdir()) == []


@pytest.mark.parametrize(
    ("on", "slow", "size"),
    [
        ("container", True, model.VOCABULARY),
        ("machine", False, model.VOCABULARY),
        ("machine", True, model.EMULATED_VOCABULARY),
    ],
)
def test_an_emulated_machine_gets_models_of_fewer_words(
    monkeypatch: pytest.MonkeyPatch, on: stage.Kind, slow: bool, size: int
) -> None:
    sizes: list[int] = []

    def hub(nodes: object, vocabulary: int, progress: object) -> Path:
        sizes.append(vocabulary)
        raise LabError("enough seen")

    without_a_daemon(monkeypatch, hub, emulated=slow)
    with pytest.raises(LabError, match="enough seen"), stage.stage(Path("box.py"), on=on):
        pass
    assert sizes == [size]


@pytest.mark.parametrize("made", [neighbour, sources])
def test_a_machine_may_have_the_name_of_a_helper(
    monkeypatch: pytest.MonkeyPatch, made: Callable[..., AbstractContextManager[object]]
) -> None:
    named: list[str] = []

    def docker(*words: str, **_: object) -> str:
        named.append(words[words.index("--name") + 1])
        raise LabError("enough seen")

    engine: Any = SimpleNamespace(labels=(), keeping=False, docker=docker, run=lambda *_: None)
    network: Any = SimpleNamespace(name="net", address=lambda: "10.214.1.11")
    monkeypatch.setattr("homeport.lab.images.debian_image", lambda *_: "image")
    with pytest.raises(LabError, match="enough seen"), made(engine, network):
        pass
    assert named not in (["net-neighbour"], ["net-sources"])
