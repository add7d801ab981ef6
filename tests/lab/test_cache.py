"""The cache: keyed by content, never half an entry, one builder at a time."""

import threading
import time
from pathlib import Path

import pytest

from homeport.lab import cache


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_root_follows_the_environment(tmp_path: Path) -> None:
    assert cache.root() == tmp_path / "homeport"


def test_key_tells_contents_apart(tmp_path: Path) -> None:
    file = tmp_path / "recipe"
    file.write_text("one")
    first = cache.key("trixie", ("a", "b"), file)
    assert first == cache.key("trixie", ("a", "b"), file)
    file.write_text("two")
    assert first != cache.key("trixie", ("a", "b"), file)
    assert cache.key("ab", "c") != cache.key("a", "bc")


def test_entry_is_built_once() -> None:
    built = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_text("whole")

    first = cache.entry("images", "x", build)
    assert cache.entry("images", "x", build) == first
    assert first.read_text() == "whole"
    assert len(built) == 1


def test_failed_build_leaves_nothing() -> None:
    def build(path: Path) -> None:
        path.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("images", "x", build)
    assert list(cache.directory("images").iterdir()) == []


def test_two_builders_make_one_entry() -> None:
    built: list[Path] = []
    said: list[str] = []

    def build(path: Path) -> None:
        built.append(path)
        time.sleep(0.05)
        path.mkdir()

    def one() -> None:
        cache.entry("images", "x", build, said.append)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1
    assert any("waiting" in text for text in said)
