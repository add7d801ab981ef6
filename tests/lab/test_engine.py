"""The engine's choices: which daemon, which addresses, what is missing and what to type."""

import ipaddress
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
        ('[{"dst": "0.0.0.0/1"}, {"dst": "10.0.0.0/8", "dev": "tun0"}]', "10.214"),
    ],
)
def test_pool_is_free(monkeypatch: pytest.MonkeyPatch, text: str, pool: str) -> None:
    routes(monkeypatch, text)
    assert module.free_pool() == pool


def test_no_pool_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, '[{"dst": "192.0.2.0/24"}, {"dst": "10.128.0.0/9", "dev": "tun0"}]')
    with pytest.raises(LabError, match=r"no free network .*: 10\.128\.0\.0/9 on tun0$"):
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


def test_a_machine_has_the_same_address_of_ipv6_after_a_power_cut() -> None:
    subnet = ipaddress.IPv4Network("10.214.7.0/24")
    plain = module.Network(name="n", subnet=subnet)
    assert plain.at("10.214.7.12") == ["--network", "n", "--ip", "10.214.7.12"]
    both = module.Network(name="n", subnet=subnet, by_ipv6=ipaddress.IPv6Network("fd68::/64"))
    assert both.at("10.214.7.12")[4:] == ["--ip6", "fd68::c"]
