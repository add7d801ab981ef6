"""The lock beside an inventory: which digest, commit, size and sha256 a name stood for.

`inventory/iona.lock` is JSON, written by `bin/homeport lock inventory/iona.py` alone:

    {"version": 1,
     "images": {"ghcr.io/…:tag": "sha256:…"},
     "repos": {"owner/name@main": {"commit": "40 hex digits", "patterns": ["*.gguf"],
               "files": [{"path": "x.gguf", "size": 123, "sha256": "64 hex digits"}]}}}

Sizes are in bytes. Converging without a lock works, and says so.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from homeport.spec import SpecError

VERSION = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedFile:
    """One file of a repository at a commit; `size` in bytes."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class LockedRepo:
    """A repository's files at `commit`: those that matched `patterns` when the lock was made."""

    commit: str
    patterns: tuple[str, ...]
    files: tuple[LockedFile, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lock:
    """Everything pinned for one inventory; `path` is None when there is no lock."""

    path: Path | None = None
    images: dict[str, str] = field(default_factory=dict)
    repos: dict[str, LockedRepo] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text, the same for the same pins."""
        value = {
            "version": VERSION,
            "images": dict(sorted(self.images.items())),
            "repos": {key: asdict(repo) for key, repo in sorted(self.repos.items())},
        }
        return json.dumps(value, indent=2) + "\n"


def read_lock(path: Path, inventory: Path | None = None) -> Lock:
    """The lock of `inventory` at `path`, or an empty one when there is no such file.

    Raises `SpecError` when the file is not a lock that this version writes.
    """
    if not path.exists():
        return Lock()
    remedy = f"make it anew with `bin/homeport lock {inventory or path.with_suffix('.py')}`"
    try:
        value = json.loads(path.read_text())
        if value["version"] != VERSION:
            raise SpecError(f"{path}: version: {value['version']!r} is not {VERSION}: {remedy}")
        repos = {
            key: LockedRepo(
                commit=repo["commit"],
                patterns=tuple(repo["patterns"]),
                files=tuple(LockedFile(**file) for file in repo["files"]),
            )
            for key, repo in value["repos"].items()
        }
        return Lock(path=path, images=dict(value["images"]), repos=repos)
    except (ValueError, KeyError, TypeError) as error:
        raise SpecError(f"{path}: is not a lock ({error!r}): {remedy}") from error
