"""The engine's choices: which daemon, and what to type where there is none."""

import subprocess
from pathlib import Path

import pytest

from homeport.lab import LabError
from homeport.lab import engine as module


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("homeport.lab.prerequisites.os.geteuid", lambda: 0)


def test_without_docker_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.lab.engine.shutil.which", lambda tool, path=None: None)
    with pytest.raises(LabError, match="sudo apt-get install docker.io"), module.engine():
        pass


def test_a_daemon_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "homeport.lab.engine.shutil.which", lambda tool, path=None: f"/usr/bin/{tool}"
    )
    monkeypatch.setattr(module, "answers", lambda environment: True)
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.7:2376")
    with pytest.raises(LabError, match="on this machine"), module.engine():
        pass


@pytest.mark.parametrize("host", ["ssh://ann@192.0.2.7", "tcp://192.0.2.7:2376"])
def test_a_context_elsewhere_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    docker(tmp_path, monkeypatch, host)
    words = f"the Docker context far is {host}: .* on this machine"
    with pytest.raises(LabError, match=words), module.engine():
        pass


def test_a_context_here_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    docker(tmp_path, monkeypatch, "unix:///run/docker.sock")
    monkeypatch.setattr(module, "free_pool", lambda: "10.214")
    with module.engine() as found:
        assert not found.private


def docker(directory: Path, monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    """A `docker` in PATH whose context "far" leads to `host`, where a daemon answers."""
    program = directory / "docker"
    program.write_text(f'#!/bin/sh\n[ "$1" != context ] || echo far {host}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.delenv("DOCKER_HOST", raising=False)


def test_a_dead_run_s_containers_are_swept_by_its_own_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    said = tmp_path / "said"
    program = tmp_path / "docker"
    program.write_text(f'#!/bin/sh\necho "$@" >> {said}\n[ "$1" != ps ] || echo "c1 {dead.pid}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    found = module.Engine(environment={}, pool="10.214", private=False, progress=lambda text: None)
    module._sweep(found)
    mine = f"homeport.lab.cache={tmp_path}/homeport"
    assert mine in found.labels
    listed, removed, _ = said.read_text().splitlines()
    assert f"label={mine}" in listed
    assert removed == "rm --force --volumes c1"
