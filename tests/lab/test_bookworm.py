"""Iona on Debian 12, built by pyinfra's own command line: Docker 20.10 and Compose 1 this time."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.lab.rehearse import containers, homeport, pending, pyinfra, secrets
from homeport.lab.stage import Stage, stage
from homeport.leaks import find_leaks

pytestmark = pytest.mark.container


@pytest.fixture(scope="module")
def bookworm() -> Iterator[Stage]:
    with stage(Path("inventory/iona.py"), release="bookworm") as on:
        made = homeport(on, "lock", str(on.inventory))
        assert made.returncode == 0, made.stderr
        yield on


def test_pyinfra_alone_builds_it_and_prints_no_secret(bookworm: Stage) -> None:
    """The first run is the one in which secrets are made and everything is uploaded."""
    done = pyinfra(bookworm, "-y", "-vvv", "--diff")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    known = secrets(bookworm)
    assert len(known) >= 3
    assert find_leaks(known, {"pyinfra -y -vvv --diff": said}) == []
    planted = f"{said} --api-key {known['llama_server.api_key']}"
    assert find_leaks(known, {"a planted leak": planted}) != []


def test_it_is_verified(bookworm: Stage) -> None:
    to = bookworm.directory / "verify.json"
    done = homeport(bookworm, "verify", str(bookworm.inventory), "--json", str(to))
    assert done.returncode == 0, done.stderr
    assert json.loads(to.read_text())["ok"]


def test_a_second_run_changes_nothing(bookworm: Stage) -> None:
    before = containers(bookworm)
    assert pending(bookworm) == []
    done = pyinfra(bookworm, "-y", "--json")
    assert done.returncode == 0, done.stderr
    assert containers(bookworm) == before
