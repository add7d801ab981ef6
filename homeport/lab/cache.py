"""What the lab builds once and keeps, outside the clone, keyed by what it was made from.

The root is $XDG_CACHE_HOME/homeport, by default ~/.cache/homeport. Deleting it is always safe
while no lab is up: everything in it is made again.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str], None]

SCRATCH = ".building-"
BUILDS = (f"{SCRATCH}*", f"*/{SCRATCH}*", "build/mmdebstrap.*")
DISK_DAYS = 14
MOUNTS = Path("/proc/mounts")


def quiet(text: str) -> None:
    """A `Progress` that says nothing."""


def root() -> Path:
    """The cache's root directory; created when it is missing."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = base / "homeport"
    path.mkdir(parents=True, exist_ok=True)
    return path


def directory(*parts: str) -> Path:
    """A directory of the cache, created when it is missing."""
    path = root().joinpath(*parts)
    path.mkdir(parents=True, exist_ok=True)
    return path


def key(*ingredients: object) -> str:
    """A short name for `ingredients`: the same for the same, another for anything else.

    Ingredients are JSON values, bytes, or paths, which stand for the contents of the file.
    """
    digest = hashlib.sha256()
    for item in ingredients:
        if isinstance(item, Path):
            data = item.read_bytes()
        elif isinstance(item, bytes):
            data = item
        else:
            data = json.dumps(item, sort_keys=True).encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


@contextmanager
def lock(name: str, progress: Progress = quiet) -> Iterator[None]:
    """Hold the lock `name` against every other process; waits for it, and says so.

    The kernel gives the lock back when its holder dies, however it dies.
    """
    path = directory("locks") / name.replace("/", "-")
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        said = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not said:
                    progress(f"waiting for another run that is making {name}")
                said = True
            # Not a blocking flock: pyinfra makes greenlets of this process's threads, and one that
            # blocks in the kernel would keep the holder from ever going on.
            time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def entry(kind: str, name: str, build: Callable[[Path], None], progress: Progress = quiet) -> Path:
    """The entry `name` of `kind` in the cache; `build(path)` makes it when it is missing.

    `name` holds a `key` of everything that the entry is made from. `build` creates a file or a
    directory at the path that it is given, which is renamed to its place once it is whole: an
    interrupted build leaves no entry behind.
    """
    place = directory(kind) / name
    if place.exists():
        os.utime(place)  # it is in use: see `sweep`
        return place
    with lock(f"{kind}-{name}", progress):
        if place.exists():
            return place
        with scratch(place.parent) as temporary:
            build(temporary / "entry")
            (temporary / "entry").rename(place)
    return place


@contextmanager
def scratch(parent: Path | None = None) -> Iterator[Path]:
    """A temporary directory, on the cache's file system, that is gone afterwards."""
    path = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=parent or root()))
    held = _hold(path)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        _let_go(held)


def _hold(path: Path) -> int | None:
    """The lock on a directory, as a descriptor; None when somebody has it, or it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _let_go(held: int | None) -> None:
    if held is not None:
        fcntl.flock(held, fcntl.LOCK_UN)  # at once: gevent closes a directory only some time later
        os.close(held)


def kept() -> Path:
    """A directory with an empty file for every run that kept its lab, named by process id."""
    return directory("engine", "kept")


def abandoned(owner: str) -> bool:
    """Whether the run with the process id `owner` has ended, and has not kept its lab."""
    return owner.isdigit() and not Path("/proc", owner).exists() and not (kept() / owner).exists()


def sweep() -> None:
    """Take back the room of runs that died and of disks that were not used for `DISK_DAYS`.

    What belongs to a process that is alive, to a lab that was kept, or to a build that goes on,
    stays; so does everything in which something is mounted that cannot be unmounted.
    """
    for path in directory("stages").iterdir():
        if abandoned(path.name.partition("-")[0]):
            _remove(path)
    for path in directory("apt", "machines").iterdir():
        owner = re.match(r"homeport-[a-z]+-(\d+)-", path.name)
        if owner and abandoned(owner[1]):
            _remove(path)
    for path in [one for shape in BUILDS for one in root().glob(shape)]:
        # A new one is held a moment after it was made; mmdebstrap's never is, and ends sooner.
        if _older(path, hours=1) and (held := _hold(path)) is not None:
            _remove(path)
            _let_go(held)
    if any(kept().iterdir()):
        return  # a kept machine's disk lies on one of those
    for path in directory("disks").iterdir():
        if not path.name.startswith(".") and _older(path, hours=24 * DISK_DAYS):
            # Never half a disk in its place. Another start may be at it.
            with scratch(path.parent) as temporary, contextlib.suppress(FileNotFoundError):
                path.rename(temporary / "old")


def _older(path: Path, hours: float) -> bool:
    """Whether `path` was last written or used more than `hours` ago."""
    try:
        return time.time() - path.stat().st_mtime > 3600 * hours
    except OSError:
        return False


def _remove(path: Path) -> None:
    """Remove a directory with all that is in it, but nothing of what is mounted there."""
    for point in _mounted(path):
        subprocess.run(["umount", str(point)], capture_output=True, check=False)
    if not _mounted(path):
        shutil.rmtree(path, ignore_errors=True)


def _mounted(path: Path) -> list[Path]:
    """The mount points at or under `path`, the last mounted first."""
    lines = MOUNTS.read_text().splitlines()
    points = [Path(re.sub(r"\\(\d{3})", _character, line.split()[1])) for line in lines]
    return [point for point in reversed(points) if point.is_relative_to(path.resolve())]


def _character(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))
