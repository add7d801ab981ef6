"""Packages: names, what is missing, when the lists are fetched."""

import shlex

import pytest

from homeport.apt import (
    LISTS_MAX_AGE,
    LOCK_WAIT,
    LOCK_WAIT_VARIABLE,
    install_command,
    is_package_name,
    packages,
)
from homeport.spec import SpecError
from homeport_node.apt import installed_versions
from tests.operations import Words, yielded

FRESH = {"installed": {"curl": "8.14"}, "lists_age": 60.0}


def test_nothing_is_done_when_all_are_installed() -> None:
    assert install_command(["curl"], FRESH) is None


def test_nothing_is_done_for_old_lists_alone() -> None:
    old = {"installed": {"curl": "8.14"}, "lists_age": LISTS_MAX_AGE * 30}
    assert install_command(["curl"], old) is None


@pytest.mark.parametrize(
    ("age", "fetched"), [(None, True), (LISTS_MAX_AGE + 1, True), (60.0, False)]
)
def test_lists_are_fetched_when_absent_or_older_than_a_day(
    age: float | None, fetched: bool
) -> None:
    command = install_command(["jq"], {"installed": {}, "lists_age": age})
    assert command is not None
    assert ("\nrefresh || stop\n" in command) is fetched


@pytest.mark.parametrize(
    ("version", "done"),
    [("8.14", False), ("8.15", True), ("8.13", True), ("8.*", False), ("7.*", True)],
)
def test_a_package_in_a_version(version: str, done: bool) -> None:
    command = install_command([f"curl={version}"], FRESH)
    assert (command is not None) is done
    if command:
        package = shlex.quote(f"curl={version}")
        assert f" --allow-downgrades --allow-change-held-packages {package}" in command
    assert "--allow" not in (install_command(["jq"], FRESH) or "--allow")


def test_only_the_missing_are_installed_and_the_wait_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(LOCK_WAIT_VARIABLE, raising=False)
    command = install_command(["jq", "curl", "tree"], FRESH)
    assert command is not None
    assert "get install jq tree ||" in command
    assert f"DPkg::Lock::Timeout={LOCK_WAIT} " in command
    monkeypatch.setenv(LOCK_WAIT_VARIABLE, "7")
    assert "DPkg::Lock::Timeout=7 " in (install_command(["jq"], FRESH) or "")


def test_a_wait_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(LOCK_WAIT_VARIABLE, "2 min")
    with pytest.raises(SpecError, match="HOMEPORT_APT_WAIT: .* must be a number of seconds"):
        install_command(["jq"], FRESH)


@pytest.mark.parametrize("age", [None, 60.0])
def test_no_package_is_removed(age: float | None) -> None:
    command = install_command(["chrony"], {"installed": {}, "lists_age": age})
    assert command is not None
    runs = [line for line in command.replace("\\\n", "").splitlines() if "apt-get " in line]
    assert runs
    assert all("-o APT::Get::Remove=false " in line for line in runs)
    # The only one that may is a simulation, which names what stands in the way.
    allowed = [line for line in command.splitlines() if "Remove=true" in line]
    assert len(allowed) == 1
    assert "get -s " in allowed[0]


def test_a_node_without_python_gets_everything() -> None:
    command = install_command(["python3"], {})
    assert command is not None
    assert "get install python3 " in command


def test_a_half_installed_package_is_not_installed() -> None:
    shown = "ii \tcurl\t8.14\niU \ttree\t2.2\nrc \tjq\t1.7\nhi \theld\t1\nhU \tcut\t1\n"
    assert installed_versions(shown) == {"curl": "8.14", "held": "1"}


@pytest.mark.parametrize("name", ["python3-venv", "libstdc++6", "docker.io", "jq"])
def test_package_names(name: str) -> None:
    assert is_package_name(name)


@pytest.mark.parametrize("name", ["", "-y", "jq;reboot", "JQ", "a b", "$(id)", "jq\n", "x"])
def test_what_is_no_package_name(name: str) -> None:
    assert not is_package_name(name)


def test_the_operation() -> None:
    assert yielded(packages, FRESH, wanted=["curl"]) == []
    assert yielded(packages, FRESH, wanted=["jq", "curl"]) == [install_command(["jq"], FRESH)]


# What drift says --------------------------------------------------------------------------------

WORDS: list[Words] = [
    (packages, [FRESH], {"wanted": ["curl"]}, []),
    (packages, [FRESH], {"wanted": ["jq", "curl", "bc"]}, [("packages: bc, jq", "not installed")]),
]
