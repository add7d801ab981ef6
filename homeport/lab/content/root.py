"""A Debian root for a lab image: made, trimmed, joined with files of ours, and imported.

Everything that goes into an image gets one owner and one time, so that the same contents are the
same layer.
"""

import hashlib
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import IO

from homeport.lab import LabError
from homeport.lab.bootstrap import debian_root

# Python's byte code names the time of its source: it must be the same in every layer. 2026-01-01.
EPOCH = 1767225600

# Nothing that runs in a container reads these.
TRIMMED = (
    "dev/*",
    "boot/*",
    "usr/share/doc/*",
    "usr/share/man/*",
    "usr/share/info/*",
    "usr/share/locale/*",
    "usr/share/bash-completion/*",
    "usr/share/lintian/*",
    "usr/share/perl/*",
    "usr/lib/*/perl/*",
    "usr/lib/*/gconv/*",
    "usr/lib/udev/*",
    "usr/libexec/*/ggml/test-*",
    "usr/lib/python3*/pydoc_data/*",
    "var/cache/*",
    "var/lib/apt/*",
    "var/lib/dpkg/info/*.symbols",
    "var/log/*",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tree:
    """Files to add to an image: what lies under `source` appears under `at` ("app/backend").

    `unwanted` are glob patterns on paths relative to `source`; `*` crosses slashes.
    """

    source: Path
    at: str
    unwanted: tuple[str, ...] = ()


def run(command: list[str], env: Mapping[str, str] | None = None) -> None:
    """Run `command`. Raises `LabError` with its last words."""
    try:
        done = subprocess.run(command, env=env, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise LabError(f"there is no {command[0]} here") from error
    if done.returncode != 0:
        words = (done.stderr + done.stdout).decode(errors="replace").strip()[-2000:]
        raise LabError(f"`{' '.join(command)[:300]}` failed ({done.returncode}): {words}")


def lean_root(tar: Path, *, release: str, packages: Iterable[str], stale: bool = False) -> Path:
    """A tar of Debian `release` with little more than `packages`, written to `tar`.

    `stale` accepts a Release file past its date: a stored mirror of unstable has one. The packages'
    signatures are still checked.
    """
    options = [f"--dpkgopt=path-exclude=/usr/share/{path}/*" for path in ("doc", "man", "locale")]
    if stale:
        options.append('--aptopt=Acquire::Check-Valid-Until "false"')
    return debian_root(
        tar,
        release=release,
        variant="essential",
        packages=packages,
        options=options,
        env={"SOURCE_DATE_EPOCH": str(EPOCH)},
    )


def matches(path: str, patterns: Iterable[str]) -> bool:
    """Whether `path` (relative, no leading "./") matches one of the globs."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def import_image(
    tag: str,
    *,
    tars: Iterable[Path],
    trees: Iterable[Tree],
    links: Mapping[str, str],
    changes: Iterable[str],
    env: Mapping[str, str] | None = None,
) -> None:
    """Make the image `tag`, of one layer, from tars, trees and symbolic links.

    `changes` are Dockerfile instructions (ENV, CMD, …). `env` is the environment of the docker
    client, with DOCKER_HOST. Raises `LabError`.
    """
    command = ["docker", "import"]
    for change in changes:
        command += ["--change", change]
    with subprocess.Popen(
        [*command, "-", tag],
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as docker:
        assert docker.stdin is not None
        assert docker.stdout is not None
        try:
            write_layer(docker.stdin, tars, trees, links)
            docker.stdin.close()
        except BrokenPipeError:
            pass  # docker gave up: its own words follow
        words = docker.stdout.read().decode(errors="replace").strip()
    if docker.returncode != 0:
        raise LabError(f"`docker import` of {tag} failed ({docker.returncode}): {words[-2000:]}")


def write_layer(
    out: IO[bytes], tars: Iterable[Path], trees: Iterable[Tree], links: Mapping[str, str]
) -> None:
    with tarfile.open(fileobj=out, mode="w|", format=tarfile.GNU_FORMAT) as layer:
        for tar in tars:
            with tarfile.open(tar) as source:
                for member in source:
                    member.name = member.name.removeprefix("./")
                    if member.name and not matches(member.name, TRIMMED):
                        member.mtime = EPOCH
                        layer.addfile(
                            member, source.extractfile(member) if member.isreg() else None
                        )
        for tree in trees:
            _add_tree(layer, tree)
        for name, target in sorted(links.items()):
            link = tarfile.TarInfo(name)
            link.type, link.linkname, link.mtime = tarfile.SYMTYPE, target, EPOCH
            layer.addfile(link)


def _add_tree(layer: tarfile.TarFile, tree: Tree) -> None:
    for path in sorted(tree.source.rglob("*")):
        relative = path.relative_to(tree.source).as_posix()
        if matches(relative, tree.unwanted):
            continue
        member = layer.gettarinfo(path, f"{tree.at}/{relative}")
        member.uid = member.gid = 0
        member.uname = member.gname = "root"
        member.mtime = EPOCH
        if member.isreg():
            with path.open("rb") as contents:
                layer.addfile(member, contents)
        elif not member.islnk():
            layer.addfile(member)


def key_of(*recipe: Path | str) -> str:
    """A short digest of the recipe: of the files' bytes and of the texts."""
    digest = hashlib.sha256()
    for part in recipe:
        digest.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        digest.update(b"\0")
    return digest.hexdigest()[:16]
