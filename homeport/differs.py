"""What is wanted and what is there, in words: what a drift check says beside the commands.

An operation of ours calls `differs` for each thing that is not as wanted, before it yields its
first command: a drift check does not follow it beyond the next look at the node. In a converge
nobody listens, and a generator of words is not even started. No word may hold a secret, or of the
contents of a file that may.

For pyinfra's operations on files the words are made here, of what they asked and what they would
do. No fact is asked for that. A file is told by the beginning of its hash, which whoever reads it
could compare with that of a guess: no secret is put in place with these.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from pyinfra.api import FileUploadCommand
from pyinfra.api.util import get_file_md5, get_file_sha1, get_file_sha256
from pyinfra.facts.files import File, Md5File, Sha1File, Sha256File

from homeport.refuse import Refusal

# The hashes by which pyinfra compares a file, in its order, and how it makes them at the desk.
_HASHES: dict[Any, tuple[str, Callable[[Any], str | None]]] = {
    Sha1File: ("sha1", get_file_sha1),
    Md5File: ("md5", get_file_md5),
    Sha256File: ("sha256", get_file_sha256),
}
_SHORT = 12  # hexadecimal digits of a hash: what a person compares by eye


class Pair(NamedTuple):
    """`wanted` names the thing and says how it ought to be, `there` how it is."""

    wanted: str
    there: str


class Look(NamedTuple):
    """A fact that an operation asked for: its class, its arguments by name, the answer."""

    fact: Any
    arguments: dict[str, Any]
    answer: Any


# Each greenlet has a context of its own, so hosts that are looked at side by side do not mix.
_noted: ContextVar[list[Pair] | None] = ContextVar("noted", default=None)


def differs(pairs: Iterable[Pair]) -> None:
    """Note for the operation that is looked at what is not as wanted there."""
    listening = _noted.get()
    if listening is not None:
        listening += pairs


@contextmanager
def noted() -> Iterator[list[Pair]]:
    """What `differs` is called with in this greenlet while this is open."""
    pairs: list[Pair] = []
    token = _noted.set(pairs)
    try:
        yield pairs
    finally:
        _noted.reset(token)


def listed(names: Iterable[str], otherwise: str = "none") -> str:
    """`names` in one line, in order; `otherwise` when there are none."""
    return ", ".join(sorted(names)) or otherwise


def content(path: str, wanted: str, there: str | None) -> Pair:
    """The words for a file whose sha256 (hex) is `there`, None without a file, and not `wanted`."""
    return Pair(
        f"{path}: sha256 {wanted[:_SHORT]}",
        "no such file" if there is None else f"sha256 {there[:_SHORT]}",
    )


def explain(
    name: str, said: list[Pair], looks: list[Look], commands: list[Any]
) -> tuple[Pair, ...]:
    """The words for an operation called `name`: why it refuses, and what it `said` itself; else
    what can be told of its `looks` at the node and its `commands`."""
    found = [Pair(one.wanted or name, one.cause) for one in commands if isinstance(one, Refusal)]
    found += said
    if commands and not found:
        found = _of_files(looks, commands) or [Pair(name, "not so")]
    return tuple(found)


def _of_files(looks: list[Look], commands: list[Any]) -> list[Pair]:
    """The words for pyinfra's `files.put`, `template`, `directory` and `file`; [] for others."""
    wanted: dict[str, dict[str, str]] = {}
    for command in commands:
        if isinstance(command, FileUploadCommand):
            path, (name, value) = command.dest, _hash(looks, command)
        else:
            path, name, value = _attribute(str(command))
            if not path:
                return []
        wanted.setdefault(path, {})[name] = value
    parents = [path for path in wanted if any(one.startswith(f"{path}/") for one in wanted)]
    return [_pair(looks, path, wanted[path]) for path in wanted if path not in parents]


def _attribute(command: str) -> tuple[str, str, str]:
    """(path, attribute, its value) that a command of pyinfra's gives a path; ("", "", "")."""
    try:
        words = shlex.split(command)
    except ValueError:  # no command of pyinfra's
        return "", "", ""
    match words:
        case ["chmod", mode, path]:
            return path, "mode", mode
        case ["chown", owner, path]:
            return path, "owner", owner
        case ["mkdir", "-p", path]:
            return path, "", "a directory"
        case ["rm", "-f", path]:
            return path, "", "no such file"
    return "", "", ""


def _hash(looks: list[Look], command: FileUploadCommand) -> tuple[str, str]:
    """("sha1", its value) of what would be put, by the hash with which pyinfra compared."""
    asked = [look.fact for look in looks if look.fact in _HASHES and look.answer]
    name, of = _HASHES[asked[0] if asked else Sha1File]
    return name, (of(command.src) or "")[:_SHORT]


def _there(looks: list[Look], path: str) -> dict[str, str]:
    """What the looks at `path` tell; {} where nothing is."""
    found: dict[str, str] = {}
    for look in looks:
        if look.arguments.get("path") != path or not look.answer:
            continue
        if look.fact in _HASHES:
            found[_HASHES[look.fact][0]] = look.answer[:_SHORT]
        elif issubclass(look.fact, File):
            found["mode"] = str(look.answer["mode"])
            found["owner"] = f"{look.answer['user']}:{look.answer['group']}"
            found[""] = f"a {look.fact.type}"
    return found


def _pair(looks: list[Look], path: str, wanted: dict[str, str]) -> Pair:
    """The words for one path: the attributes that differ, all of them where nothing is there."""
    there = _there(looks, path)
    if "owner" in there and ":" not in wanted.get("owner", ":"):
        there["owner"] = there["owner"].split(":")[0]
    unlike = {key: value for key, value in wanted.items() if there.get(key) != value}
    kind = "directory" if "" in wanted else "file"
    nothing = f"no such {kind}"
    if any(look.answer is False and look.arguments.get("path") == path for look in looks):
        nothing = f"no {kind}, but something else"
    seen = {key: there[key] for key in unlike if key in there}
    return Pair(f"{path}: {_listed(unlike)}", _listed(seen) or nothing)


def _listed(attributes: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}".strip() for name, value in attributes.items())
