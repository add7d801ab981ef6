"""What a node was asked by the last run: the texts of its facts' commands, never their answers.

One file for each inventory, node, way to reach it, and deploy, in the user's cache directory. It
holds for one state of the deploys: after an edit it counts for nothing and is written anew. What
is in it will be run on a node, so a file that another account may write is not read.
"""

import contextlib
import functools
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from homeport import private

ROOT = Path(__file__).resolve().parent.parent
# What the texts of commands are made from.
SOURCES = ("deploys/**/*.py", "homeport/*.py", "homeport_node/*.py")
# Seconds after which a record that no run has used is removed: lab machines come and go.
UNUSED = 30 * 24 * 3600


def directory() -> Path:
    """Where the records are: made for the user alone when it is missing."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = cache / "homeport" / "facts"
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path


@functools.cache
def content(deploy: str) -> str:
    """A hash of everything that the commands' texts are made from."""
    digest = hashlib.sha256()
    paths = [path for pattern in SOURCES for path in sorted(ROOT.glob(pattern))]
    for path in [Path(deploy).resolve(), *paths]:
        digest.update(f"{path}\n".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


class Record:
    """The record of one node under one deploy. `key` says which, `deploy` is the deploy's file."""

    def __init__(self, key: dict[str, Any], deploy: str) -> None:
        whole = json.dumps({**key, "deploy": str(Path(deploy).resolve())}, sort_keys=True)
        name = hashlib.sha256(whole.encode()).hexdigest()[:32]
        self.path = directory() / f"{name}.json"
        self.content = content(deploy)

    def read(self) -> list[str]:
        """The commands that the last run asked; none when there is no record that counts."""
        value = private.read_json(self.path)
        if not isinstance(value, dict) or value.get("content") != self.content:
            return []
        commands = value.get("commands")
        if not isinstance(commands, list) or not all(isinstance(c, str) for c in commands):
            return []
        return commands

    def write(self, commands: list[str]) -> None:
        """Keep `commands` for the next run, atomically; a disk that is full loses a record only."""
        with contextlib.suppress(OSError):
            _sweep(self.path.parent)
            private.write_json({"content": self.content, "commands": commands}, self.path)

    def touch(self) -> None:
        """Say that the record was of use."""
        with contextlib.suppress(OSError):
            os.utime(self.path)


def _sweep(path: Path) -> None:
    """Remove what no run has used for long."""
    before = time.time() - UNUSED
    for entry in path.iterdir():
        with contextlib.suppress(OSError):
            if entry.lstat().st_mtime < before:
                entry.unlink()
