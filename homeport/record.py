"""What a node was asked by the last run: the texts of its facts' commands, never their answers.

One file for each inventory, node, way to reach it, and deploy, in the user's cache directory. A
node that has none yet is asked what another of the same inventory was, so that the first check of
a fleet needs one node to be asked one by one. It
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


# What of a key tells one node of an inventory from another.
NODE = ("host", "address")


def _name(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]


class Record:
    """The record of one node under one deploy. `key` says which, `deploy` is the deploy's file."""

    def __init__(self, key: dict[str, Any], deploy: str) -> None:
        whole = {**key, "deploy": str(Path(deploy).resolve())}
        self.family = _name({name: value for name, value in whole.items() if name not in NODE})
        self.path = directory() / f"{self.family}-{_name(whole)}.json"
        self.content = content(deploy)

    def read(self) -> list[str]:
        """The commands that the last run asked; none when there is no record that counts.

        Without one of its own, those of the node of the same inventory that was asked last.
        """
        if self.path.exists():
            return self._read(self.path)
        with contextlib.suppress(OSError):
            others = self.path.parent.glob(f"{self.family}-*.json")
            return self._read(max(others, key=lambda path: path.stat().st_mtime, default=self.path))
        return []

    def _read(self, path: Path) -> list[str]:
        value = private.read_json(path)
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

    def touch(self, commands: list[str]) -> None:
        """Say that the record, these `commands`, was of use; a borrowed one becomes its own."""
        try:
            os.utime(self.path)
        except FileNotFoundError:
            self.write(commands)
        except OSError:
            pass


def _sweep(path: Path) -> None:
    """Remove what no run has used for long."""
    before = time.time() - UNUSED
    for entry in path.iterdir():
        with contextlib.suppress(OSError):
            if entry.lstat().st_mtime < before:
                entry.unlink()
