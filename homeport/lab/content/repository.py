"""Repositories for the lab's Hub, laid out at the desk; see `hub` for what lies where."""

import shutil
from pathlib import Path

from homeport.lab.content.hub import commit_of


def write_repo(root: Path, repo: str, files: dict[str, Path], revision: str = "main") -> str:
    """Lay out `files` (path in the repository: file) as `revision` of `repo`; its commit id.

    What the revision held before stays under its commit id, as on the real Hub, so that a lock made
    earlier still finds it. Files are linked where the file system allows, else copied.
    """
    base = root / repo
    place, part = base / revision, base / f".{revision}.part"
    shutil.rmtree(part, ignore_errors=True)
    for name, source in files.items():
        target = part / name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            target.hardlink_to(source)
        except OSError:
            shutil.copyfile(source, target)
    if place.exists():
        if commit_of(place) == commit_of(part):
            shutil.rmtree(part)
            return commit_of(place)
        old = base / commit_of(place)
        if old.exists():
            shutil.rmtree(place)
        else:
            place.rename(old)
    part.rename(place)
    return commit_of(place)
