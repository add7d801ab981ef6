"""The text files that a capability owns on a node: what differs, in words, and putting it right.

`wanted` and `found` are {path: text}: what the inventory asks for, and what is there of all paths
that the capability may ever write.
"""

import hashlib
from collections.abc import Generator, Iterator, Mapping
from io import StringIO
from typing import Any

from pyinfra.operations import files

from homeport.differs import Pair, content


def changes(
    wanted: Mapping[str, str], found: Mapping[str, str]
) -> tuple[dict[str, str], list[str]]:
    """({path: text} to write, paths to remove)."""
    write = {path: text for path, text in wanted.items() if found.get(path) != text}
    return write, [path for path in found if path not in wanted]


def words(wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Pair]:
    """What differs, for `homeport.differs.differs`."""
    yield from otherwise(wanted, found)
    yield from no_longer(changes(wanted, found)[1])


def otherwise(wanted: Mapping[str, str], found: Mapping[str, str]) -> Iterator[Pair]:
    """The words for those of `wanted` that are not there, or are something else."""
    for path, text in changes(wanted, found)[0].items():
        there = found.get(path)
        yield content(path, sha256(text), None if there is None else sha256(there))


def no_longer(paths: list[str]) -> Iterator[Pair]:
    """The words for files of ours that go."""
    for path in sorted(paths):
        yield Pair(f"{path}: no such file", "a file of ours")


def put(path: str, text: str, mode: str = "644") -> Generator[Any, None, None]:
    """Commands for an operation to yield: the file at `path` is root's, and is `text`."""
    yield from files.put._inner(src=StringIO(text), dest=path, user="root", mode=mode)


def sha256(text: str) -> str:
    """The sha256 of `text` as it lies in a file, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
