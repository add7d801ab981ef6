"""What the lab builds once and keeps, outside the clone, keyed by what it was made from.

The root is $XDG_CACHE_HOME/homeport, by default ~/.cache/homeport. Deleting it is always safe
while no lab is up: everything in it is made again.
"""

import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Progress = Callable[[str], None]


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
    path = Path(tempfile.mkdtemp(prefix=".building-", dir=parent or root()))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
