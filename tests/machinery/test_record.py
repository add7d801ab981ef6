"""The record of what a node was asked: private, for one deploy's content, never an answer."""

import json
import os
import time
from pathlib import Path

import pytest

from homeport import record
from homeport.record import Record

KEY = {"inventory": "i.py", "host": "iona", "user": "root", "sudo": False}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    record.content.cache_clear()
    return tmp_path / "cache"


@pytest.fixture
def deploy(tmp_path: Path) -> str:
    (tmp_path / "deploy.py").write_text("one\n")
    return str(tmp_path / "deploy.py")


def test_it_is_kept_for_the_user_alone(deploy: str, cache: Path) -> None:
    os.umask(0o022)
    kept = Record(KEY, deploy)
    assert kept.read() == []
    kept.write(["a", "b"])
    assert Record(KEY, deploy).read() == ["a", "b"]
    assert kept.path.parent == cache / "homeport" / "facts"
    assert kept.path.stat().st_mode & 0o777 == 0o600
    assert kept.path.parent.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in kept.path.parent.iterdir()] == [kept.path.name]


@pytest.mark.parametrize("field", KEY.keys() - {"host"})
def test_every_part_of_the_key_counts(field: str, deploy: str) -> None:
    Record(KEY, deploy).write(["a"])
    assert Record({**KEY, field: "other"}, deploy).read() == []


def test_a_node_without_a_record_borrows_the_newest_of_its_inventory(deploy: str) -> None:
    old, new = (Record({**KEY, "host": name}, deploy) for name in ("old", "new"))
    old.write(["old"])
    new.write(["new"])
    os.utime(old.path, (0, time.time() - 60))
    own = Record({**KEY, "host": "third"}, deploy)
    assert own.read() == ["new"]
    own.touch(["new"])  # it was of use: from now on it has one of its own
    assert own.path.exists()
    new.write(["newer"])
    assert own.read() == ["new"]
    own.path.write_text("{")
    assert own.read() == []


def test_an_edited_deploy_has_no_record(deploy: str) -> None:
    Record(KEY, deploy).write(["a"])
    Path(deploy).write_text("two\n")
    record.content.cache_clear()
    assert Record(KEY, deploy).read() == []
    other = Path(deploy).with_name("other.py")
    other.write_text("two\n")
    Record(KEY, deploy).write(["b"])
    assert Record(KEY, str(other)).read() == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"commands": ["a"]}', "null"])
def test_nonsense_is_no_record(text: str, deploy: str) -> None:
    kept = Record(KEY, deploy)
    kept.write(["a"])
    kept.path.write_text(text)
    assert kept.read() == []


@pytest.mark.parametrize("commands", [[1], "a", None, {"a": "b"}])
def test_what_is_no_list_of_texts_is_not_run(commands: object, deploy: str) -> None:
    kept = Record(KEY, deploy)
    kept.write(["a"])
    value = json.loads(kept.path.read_text())
    kept.path.write_text(json.dumps({**value, "commands": commands}))
    assert kept.read() == []


def test_what_others_may_write_or_led_here_is_not_read(deploy: str) -> None:
    kept = Record(KEY, deploy)
    kept.write(["a"])
    kept.path.chmod(0o620)
    assert kept.read() == []
    kept.path.chmod(0o600)
    assert kept.read() == ["a"]
    moved = kept.path.rename(kept.path.with_name("elsewhere"))
    kept.path.symlink_to(moved)
    assert kept.read() == []


def test_what_no_run_has_used_for_long_is_removed(deploy: str) -> None:
    kept, old = Record(KEY, deploy), Record({**KEY, "host": "old"}, deploy)
    old.write(["a"])
    os.utime(old.path, (0, time.time() - record.UNUSED - 5))
    kept.write(["b"])
    assert not old.path.exists()
    assert kept.read() == ["b"]
