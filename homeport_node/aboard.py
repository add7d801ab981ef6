"""Aboard: what is installed under /opt/homeport, and the seal that says it is whole."""

import contextlib
import hashlib
import os
import stat
import sys
from pathlib import Path
from typing import Any

from homeport_node.common import read

SEAL = "sealed"


def fingerprint(directory: str | Path) -> str:
    """A hash over the path, size, modification time, mode and owner of every file under
    `directory`, and over mode and owner of the folders, with the one that `directory` is in.

    It finds what was removed, added, truncated or edited since, or opened to others, and costs one
    stat per file. Compiled bytecode is left out, because running a program adds it, and so is the
    seal itself.
    """
    digest = hashlib.sha256()
    root = str(directory)
    digest.update(_access(os.stat(f"{root}/..")))  # noqa: PTH116
    for folder, folders, names in os.walk(root):
        digest.update(_access(os.lstat(folder)))
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            path = f"{folder}/{name}"[len(root) + 1 :]
            if path != SEAL:
                status = os.lstat(f"{root}/{path}")
                digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
                digest.update(_access(status))
    return digest.hexdigest()


def _access(status: os.stat_result) -> bytes:
    return f"{stat.S_IMODE(status.st_mode):o}\0{status.st_uid}\n".encode()


def _whole(version: Path) -> bool:
    try:
        return read(version / SEAL) == fingerprint(version)
    except OSError:
        return False


def observe(root: str = "/opt/homeport") -> dict[str, Any]:
    """{"python": "3.13", "current": "0.1.0-py3.13-…", "versions": {"0.1.0-…": true}}.

    `versions` says of each installed version whether it is whole: sealed at the end of its
    installation and not changed since. `current` is the link's own text, or null.
    """
    current = Path(root) / "current"
    link: str | None = None
    with contextlib.suppress(OSError):
        link = str(current.readlink())
    try:
        entries = sorted(Path(root).iterdir())
    except OSError:
        entries = []
    versions = {
        entry.name: _whole(entry) for entry in entries if entry.is_dir() and not entry.is_symlink()
    }
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"python": python, "current": link, "versions": versions}


def seal(arguments: list[str]) -> int:
    """Mark the version that this very program is installed in as whole."""
    version = Path(sys.prefix)
    temporary = version / f"{SEAL}.new"
    temporary.unlink(missing_ok=True)
    text = fingerprint(version)
    temporary.write_text(text)
    temporary.replace(version / SEAL)
    return 0


VERBS = {"seal": seal}
