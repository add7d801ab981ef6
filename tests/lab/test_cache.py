"""The cache: keyed by content, never half an entry, one builder at a time."""

import os
import subprocess
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


def planted(*parts: str, days: float = 0) -> Path:
    """A directory of the cache with a file in it, last used `days` ago."""
    path = cache.directory(*parts)
    (path / "file").write_text("content")
    when = time.time() - 86400 * days
    os.utime(path, (when, when))
    return path


@pytest.fixture
def dead() -> str:
    """The id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        pass
    return str(process.pid)


def test_what_dead_runs_left_is_swept(dead: str) -> None:
    gone = [
        planted("stages", f"{dead}-1"),
        planted("apt", "machines", f"homeport-lab-{dead}-1-iona"),
        planted(".building-a", days=1),
        planted("images", ".building-b", days=1),
        planted("build", "mmdebstrap.c", days=1),
        planted("disks", "plain-trixie-0123", days=15),
    ]
    cache.sweep()
    assert [path for path in gone if path.exists()] == []
    assert list((cache.root() / "disks").iterdir()) == []


def test_what_is_in_use_is_not_swept(dead: str) -> None:
    (cache.kept() / dead).touch()
    with cache.scratch() as held:
        os.utime(held, (1, 1))
        stay = [
            held,
            planted("stages", f"{dead}-1"),
            planted("apt", "machines", f"homeport-lab-{dead}-1-iona"),
            planted("stages", f"{os.getpid()}-1"),
            planted("apt", "machines", f"homeport-lab-{os.getpid()}-1-iona"),
            planted("apt", "machines", "somebody-else"),
            planted("images", ".building-new"),
            planted("build", "open-webui-site-0123", days=1),
            planted("disks", "plain-trixie-0123", days=15),  # a kept machine's may lie on it
        ]
        cache.sweep()
        assert [path for path in stay if not path.exists()] == []


def test_a_disk_that_is_used_stays() -> None:
    planted("disks", "plain-trixie-0123", days=15)
    used = cache.entry("disks", "plain-trixie-0123", lambda path: path.mkdir())
    recent = planted("disks", "lvm-trixie-0123", days=13)
    cache.sweep()
    assert (used / "file").exists()
    assert recent.exists()


def test_nothing_is_removed_under_a_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of /proc/mounts' lines one is under the first directory, whose name has a space."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "a place"))
    mounted, free = planted("images", ".building-a", days=1), planted(".building-b", days=1)
    mounts = tmp_path / "mounts"
    point = str(mounted / "dev").replace(" ", "\\040")
    mounts.write_text(f"proc /proc proc rw 0 0\nudev {point} devtmpfs rw 0 0\n")
    monkeypatch.setattr(cache, "MOUNTS", mounts)
    asked: list[list[str]] = []
    monkeypatch.setattr("homeport.lab.cache.subprocess.run", lambda words, **_: asked.append(words))
    cache.sweep()
    assert asked == [["umount", str(mounted / "dev")]]
    assert (mounted / "file").exists()
    assert not free.exists()
    mounts.write_text("proc /proc proc rw 0 0\n")
    cache.sweep()
    assert not mounted.exists()
