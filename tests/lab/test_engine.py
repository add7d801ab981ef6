"""The engine's choices: which daemon, which addresses, what is missing and what to type."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from homeport.lab import LabError
from homeport.lab import engine as module
from homeport.lab.prerequisites import LabUnavailable, install_lab_packages


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("homeport.lab.engine.os.geteuid", lambda: 0)


def routes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def answer(*_: Any, **__: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 0, stdout=text, stderr="")

    monkeypatch.setattr("homeport.lab.engine.subprocess.run", answer)


@pytest.mark.parametrize(
    ("text", "pool"),
    [
        ("[]", "10.214"),
        ('[{"dst": "default"}, {"dst": "192.168.1.0/24"}]', "10.214"),
        ('[{"dst": "10.214.3.0/24"}, {"dst": "10.215.0.9"}]', "10.216"),
    ],
)
def test_pool_is_free(monkeypatch: pytest.MonkeyPatch, text: str, pool: str) -> None:
    routes(monkeypatch, text)
    assert module.free_pool() == pool


def test_no_pool_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, '[{"dst": "10.0.0.0/8"}]')
    with pytest.raises(LabError, match="no free network"):
        module.free_pool()


def test_pools_avoid_the_nodes_own_networks() -> None:
    assert not {"10.213", "10.42"} & set(module.POOLS)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.lab.engine.shutil.which", lambda tool, path=None: None)
    monkeypatch.setattr(module, "_debian_version", lambda: 13)
    missing = module.missing_packages()
    assert missing[:2] == ("docker.io", "docker-cli")
    assert {"mmdebstrap", "iproute2", "iptables"} <= set(missing)
    assert "sudo apt-get install docker.io docker-cli" in module.install_command()
    monkeypatch.setattr(module, "_debian_version", lambda: 12)
    assert "docker-cli" not in module.missing_packages()


def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "homeport.lab.engine.shutil.which", lambda tool, path=None: f"/usr/bin/{tool}"
    )
    assert module.missing_packages() == ()


def test_without_docker_says_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.lab.engine.shutil.which", lambda tool, path=None: None)
    with pytest.raises(LabError, match="sudo apt-get install docker.io"), module.engine():
        pass


def test_without_root_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_answers", lambda environment: True)  # the group docker's user
    monkeypatch.setattr("homeport.lab.engine.os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="as root only: run this with sudo"), module.engine():
        pass
    with pytest.raises(LabUnavailable, match="as root only: run this with sudo"):
        install_lab_packages()


def test_a_daemon_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "homeport.lab.engine.shutil.which", lambda tool, path=None: f"/usr/bin/{tool}"
    )
    monkeypatch.setattr(module, "_answers", lambda environment: True)
    monkeypatch.setenv("DOCKER_HOST", "tcp://192.0.2.7:2376")
    with pytest.raises(LabError, match="on this machine"), module.engine():
        pass
