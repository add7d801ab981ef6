"""Aboard: (spec, observed) to the commands; the wheel; the seal."""

import base64
import hashlib
import io
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from deploys import aboard
from deploys.aboard import Aboard, Difference, difference, pip_conf
from homeport import __version__, wheel
from homeport.spec import SpecError
from homeport.targets import Sources
from homeport_node import aboard as node
from homeport_node.cli import main
from tests.operations import Words, is_refusal, yielded

NEW, OLD = "0.1.0-py3.13-bbbb", "0.1.0-py3.13-aaaa"


def installed() -> str:
    """The version that this working tree makes on Python 3.13."""
    return aboard.version_name("0.1.0", "3.13", wheel.build(), wheel.REQUIREMENTS.read_text())


@pytest.mark.parametrize(
    ("current", "versions", "expected"),
    [
        (NEW, {NEW: True}, (False, False, ())),
        (None, {}, (True, True, ())),
        (OLD, {OLD: True}, (True, True, (OLD,))),
        (NEW, {NEW: False}, (True, False, ())),  # interrupted, or changed since
        (OLD, {OLD: True, NEW: True}, (False, True, (OLD,))),  # stopped before the switch
        (NEW, {NEW: True, OLD: True}, (False, False, (OLD,))),  # stopped before the removal
    ],
)
def test_difference(current: str | None, versions: dict[str, bool], expected: Any) -> None:
    found = difference(NEW, {"current": current, "versions": versions})
    install, switch, remove = expected
    assert found == Difference(version=NEW, install=install, switch=switch, remove=remove)
    assert bool(found) == (current != NEW or versions != {NEW: True})


def test_nothing_is_done_when_the_version_is_installed() -> None:
    version = installed()
    observed = {"python": "3.13", "current": version, "versions": {version: True}}
    assert yielded(aboard.install, observed, prefix="0.1.0", sources=Sources()) == []


def test_the_seal_comes_last_and_the_switch_after_it() -> None:
    observed = {"python": "3.13", "current": OLD, "versions": {OLD: True}}
    done = yielded(aboard.install, observed, prefix="0.1.0", sources=Sources())
    steps = ["rm -rf /opt", "venv", "FileUpload", "FileUpload", "pip install", "seal", "mv -T", OLD]
    assert len(done) == len(steps)
    for step, command in zip(steps, done, strict=True):
        assert step in command
    assert "--require-hashes" in done[4]


@pytest.mark.parametrize("observed", [{}, {"python": "3.9", "current": None, "versions": {}}])
def test_a_node_without_a_fitting_python_is_refused(observed: dict[str, Any]) -> None:
    done = yielded(aboard.install, observed, prefix="0.1.0", sources=Sources())
    assert len(done) == 1
    assert is_refusal(done[0])
    assert "3.10 is the oldest that does" in done[0]


def test_removal() -> None:
    done = yielded(aboard.remove, {"python": "3.13", "current": OLD, "versions": {OLD: True}})
    assert "rm -rf /opt/homeport" in done[0]
    assert yielded(aboard.remove, {"python": "3.13", "current": None, "versions": {}}) == []


@pytest.mark.parametrize("version", ["", "../x", "v 1", "a/b"])
def test_a_version_that_is_no_directory_name_is_refused(version: str) -> None:
    with pytest.raises(SpecError, match=r"aboard\.version: .* must be digits"):
        Aboard(version=version)


def test_pip_conf() -> None:
    assert pip_conf(Sources()) == ""
    given = pip_conf(Sources(pypi="https://user:s3same@index.example/simple"))
    assert "index-url = https://user:s3same@index.example/simple\n" in given
    assert "trusted-host" not in given
    assert "trusted-host = index.example\n" in pip_conf(Sources(pypi="http://index.example:80/s"))


def test_an_index_password_is_in_no_command() -> None:
    observed: dict[str, Any] = {"python": "3.13", "current": None, "versions": {}}
    sources = Sources(pypi="https://user:s3same@index.example/simple")
    done = yielded(aboard.install, observed, prefix="0.1.0", sources=sources)
    assert "s3same" not in "".join(done)
    assert any("install -m 600 /dev/null" in command for command in done)


def test_the_wheel_is_the_same_bytes_every_time_and_names_every_module() -> None:
    made = wheel.build()
    assert made == wheel.build()
    with zipfile.ZipFile(io.BytesIO(made.data)) as archive:
        names = set(archive.namelist())
        record = archive.read(f"homeport_node-{__version__}.dist-info/RECORD").decode()
        rows = [line.split(",") for line in record.splitlines()]
        for name, digest, size in rows[:-1]:
            data = archive.read(name)
            hashed = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            assert (digest, size) == (f"sha256={hashed}", str(len(data)))
    assert {row[0] for row in rows} == names
    modules = {f"homeport_node/{path.name}" for path in wheel.PACKAGE.glob("*.py")}
    assert modules <= names


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_requirements_are_decided_for_the_nodes_python(python: str) -> None:
    lines = wheel.requirements(python).splitlines()
    names = [line.split("==")[0] for line in lines]
    assert len(set(names)) == len(names)
    assert ("tomli" in names) == (python == "3.10")
    assert "huggingface-hub" in names
    assert not {"colorama", "httpx2-jsfetch"} & set(names)
    assert all(line.count("--hash=sha256:") >= 1 for line in lines)


def test_requirements_name_no_index() -> None:
    text = wheel.REQUIREMENTS.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "index" not in text


def test_the_seal_finds_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = tmp_path / "0.1.0-x"
    (version / "lib").mkdir(parents=True)
    (version / "lib" / "a.py").write_text("a")
    (tmp_path / "current").symlink_to("0.1.0-x")
    assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": False}
    monkeypatch.setattr(sys, "prefix", str(version))
    assert main(["aboard", "seal"]) == 0
    sealed = {"current": "0.1.0-x", "versions": {"0.1.0-x": True}}
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert node.observe(str(tmp_path)) == {"python": python, **sealed}
    (version / "lib" / "__pycache__").mkdir()
    (version / "lib" / "__pycache__" / "a.pyc").write_text("compiled")
    assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": True}
    for opened in (tmp_path, version, version / "lib", version / "lib" / "a.py"):
        mode = opened.stat().st_mode
        opened.chmod(mode | 0o002)
        assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": False}, opened
        opened.chmod(mode)
    assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": True}
    (version / "lib" / "b.py").write_text("b")
    assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": False}
    (version / "lib" / "b.py").unlink()
    os.truncate(version / "lib" / "a.py", 0)
    assert node.observe(str(tmp_path))["versions"] == {"0.1.0-x": False}


def test_observe_on_a_bare_node(tmp_path: Path) -> None:
    observed = node.observe(str(tmp_path / "none"))
    assert (observed["current"], observed["versions"]) == (None, {})


@pytest.mark.parametrize("arguments", [[], ["aboard"], ["aboard", "nope"], ["nope", "seal"]])
def test_a_wrong_command_line_is_answered_with_what_is_known(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert "aboard seal" in capsys.readouterr().err


# What drift says --------------------------------------------------------------------------------

HERE = {"prefix": "0.1.0", "sources": Sources()}
WORDS: list[Words] = [
    (
        aboard.install,
        [{"python": "3.13", "current": OLD, "versions": {OLD: True, installed(): False}}],
        HERE,
        [
            (f"/opt/homeport/{installed()}: whole, as installed", "changed since"),
            (f"/opt/homeport/current: leads to {installed()}", f"leads to {OLD}"),
            (f"/opt/homeport/{OLD}: no such directory", "another version"),
        ],
    ),
    (
        aboard.install,
        [{"python": "3.13", "current": None, "versions": {}}],
        HERE,
        [
            (f"/opt/homeport/{installed()}: whole, as installed", "no such version"),
            (f"/opt/homeport/current: leads to {installed()}", "no such link"),
        ],
    ),
    (
        aboard.remove,
        [{"python": "3.13", "current": OLD, "versions": {OLD: True}}],
        {},
        [("/opt/homeport: no such directory", f"versions: {OLD}")],
    ),
]
