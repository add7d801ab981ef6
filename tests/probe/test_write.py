"""`probe --write`: whose tables are written, where to, and what stays."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from homeport import cli, options, probe
from homeport.spec import SpecError
from homeport.targets_text import put

NEW = """\
# What the machine is.

[hosts.b]
address = "new"

# Swap the UUIDs.
[hosts.b.gpus]
left = "GPU-2"
"""
OLD = """\
# Of a.
[hosts.a]
address = "a"

# Of b.
[hosts.b]
address = "old"
lacks = {}

# Of the sources.
[sources]
hub = "https://hub"
"""


def test_one_hosts_tables_are_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    assert put(path, "b", NEW) is None
    assert path.read_text() == NEW
    path.write_text(OLD)
    aside = put(path, "b", NEW)
    assert aside == tmp_path / "t.toml.old"
    assert aside.read_text() == OLD
    a, rest = OLD.split("# Of b.")
    sources = rest[rest.index("# Of the") :]
    assert path.read_text() == f"{a}{sources}\n{NEW}"


def test_what_was_put_aside_before_stays(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    for number in ("old", "old2"):
        path.write_text(OLD.replace("old", number))
        assert put(path, "b", NEW) == tmp_path / f"t.toml.{number}"
    path.write_text(OLD)
    assert put(path, "b", NEW) == tmp_path / "t.toml.old"


def test_nothing_is_put_aside_that_nobody_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "t.toml"
    path.write_text("# Shipped.\n[hosts.b]\naddress = ''\n")
    assert put(path, "b", NEW) is None
    assert path.read_text() == NEW


@pytest.mark.parametrize(
    "text", ["hosts = {b = {address = 'b'}, a = {}}", "[hosts", "[[hosts]]\n", "hosts = 1", "\xff"]
)
def test_a_file_that_cannot_be_taken_apart_stays(tmp_path: Path, text: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(SpecError, match=r"t\.toml: holds more than a table \[hosts\.b\]"):
        put(path, "b", NEW)
    assert path.read_text(encoding="latin-1") == text


def run(monkeypatch: pytest.MonkeyPatch, directory: Path, hosts: str, *words: str) -> Result:
    """`probe --inventory` of an inventory with `hosts`; what was asked of the probe is printed."""
    monkeypatch.chdir(directory)
    monkeypatch.setattr(options, "HERE", directory)
    monkeypatch.setattr(options, "ROOT", directory)
    monkeypatch.setattr(probe, "probe", lambda host, **asked: f"{asked}\n")
    nodes = ", ".join(f"{one}=Node(name={one!r})" for one in hosts.split())
    head = "from deploys.node import Node\nfrom homeport.inventory import inventory\n"
    (directory / "v.py").write_text(f"{head}hosts = inventory(__file__, {nodes})\n")
    return CliRunner().invoke(cli.main, ["probe", "h", "--inventory", "v.py", *words])


def test_the_host_is_the_inventorys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "'name': 'iona'" in run(monkeypatch, tmp_path, "iona").stdout
    two = run(monkeypatch, tmp_path, "iona kea")
    assert two.exit_code == 1
    assert "--name: '' must be a host of v.py: iona, kea" in two.stderr
    assert "'name': 'kea'" in run(monkeypatch, tmp_path, "iona kea", "--name", "kea").stdout


def test_the_key_is_named_for_every_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert f"'key': '{tmp_path}/k'" in run(monkeypatch, tmp_path, "n", "--key", "k").stdout
    for same in ("home/.ssh/k", "~/.ssh/k"):
        assert "'key': '~/.ssh/k'" in run(monkeypatch, tmp_path, "n", "--key", same).stdout
