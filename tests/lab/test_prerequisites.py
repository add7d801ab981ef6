"""What the lab needs of this machine: what is missing, and what to type."""

import pytest

from homeport.lab import LabError, prerequisites
from homeport.lab import engine as engines
from homeport.lab.engine import engine


def test_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeport.lab.prerequisites.shutil.which", lambda tool, path=None: None)
    monkeypatch.setattr(prerequisites, "_debian_version", lambda: 13)
    missing = prerequisites.missing_packages()
    assert missing[:2] == ("docker.io", "docker-cli")
    assert {"mmdebstrap", "iproute2", "iptables"} <= set(missing)
    assert "sudo apt-get install docker.io docker-cli" in prerequisites.install_command()
    monkeypatch.setattr(prerequisites, "_debian_version", lambda: 12)
    assert "docker-cli" not in prerequisites.missing_packages()


def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "homeport.lab.prerequisites.shutil.which", lambda tool, path=None: f"/usr/bin/{tool}"
    )
    assert prerequisites.missing_packages() == ()


def test_without_root_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "answers", lambda environment: True)  # the group docker's user
    monkeypatch.setattr("homeport.lab.prerequisites.os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="as root only: run this with sudo"), engine():
        pass
    with pytest.raises(prerequisites.LabUnavailable, match="as root only: run this with sudo"):
        prerequisites.install_lab_packages()
