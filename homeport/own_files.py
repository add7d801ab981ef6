"""The text files that a capability owns on a node: what differs, in words, and putting it right.

`wanted` is {path: text}, what the inventory asks for; `modes` are those that are not 644. `found`
is {path: what `homeport_node.common.describe_file` says} of all paths that the capability may ever
write, where there is something. All of them are root's, and none is a link.
"""

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping
from io import StringIO
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.facts.files import Directory, File
from pyinfra.operations import files

from homeport.differs import Pair, content, differs, listed
from homeport.refuse import refuse

MODE = "644"
NO_MODES: Mapping[str, str] = {}
Found = Mapping[str, Mapping[str, Any]]


def as_put(text: str, mode: str = MODE) -> dict[str, Any]:
    """What `homeport_node.common.describe_file` says of a file that `put` has written."""
    return {"mode": mode, "uid": 0, "gid": 0, "sha256": sha256(text), "link": None}


def changes(
    wanted: Mapping[str, str], found: Found, modes: Mapping[str, str] = NO_MODES
) -> tuple[dict[str, str], list[str]]:
    """({path: text} to write, paths to remove)."""
    write = {
        path: text
        for path, text in wanted.items()
        if found.get(path) != as_put(text, modes.get(path, MODE))
    }
    return write, [path for path in found if path not in wanted]


def words(
    wanted: Mapping[str, str], found: Found, modes: Mapping[str, str] = NO_MODES
) -> Iterator[Pair]:
    """What differs, for `homeport.differs.differs`."""
    yield from otherwise(wanted, found, modes)
    yield from no_longer(changes(wanted, found)[1])


def otherwise(
    wanted: Mapping[str, str], found: Found, modes: Mapping[str, str] = NO_MODES
) -> Iterator[Pair]:
    """The words for those of `wanted` that are not there, or are something else."""
    for path, text in changes(wanted, found, modes)[0].items():
        yield _unlike(path, as_put(text, modes.get(path, MODE)), found.get(path))


def _unlike(path: str, wanted: Mapping[str, Any], there: Mapping[str, Any] | None) -> Pair:
    if there is None:
        return content(path, wanted["sha256"], None)
    if there["sha256"] is None:
        what = f"a link to {there['link']}" if there["link"] else "something else"
        return Pair(f"{path}: a file", what)

    def shown(one: Mapping[str, Any]) -> dict[str, str]:
        owner = f"{one['uid']}:{one['gid']}"
        return {"sha256": one["sha256"][:12], "mode": one["mode"], "owner": owner}

    both = shown(wanted), shown(there)
    unlike = [name for name in both[0] if both[0][name] != both[1][name]]
    texts = [", ".join(f"{name} {one[name]}" for name in unlike) for one in both]
    return Pair(f"{path}: {texts[0]}", texts[1])


def no_longer(paths: list[str]) -> Iterator[Pair]:
    """The words for files of ours that go."""
    for path in sorted(paths):
        yield Pair(f"{path}: no such file", "a file of ours")


def put(path: str, text: str, mode: str = MODE) -> Generator[Any, None, None]:
    """Commands for an operation to yield: the file at `path` is root's, and is `text`."""
    if host.get_fact(Directory, path=path):
        yield refuse(f"{path}: is a directory", "move it away", wanted=f"{path}: a file")
        return
    steps = [*files.put._inner(src=StringIO(text), dest=path, user="root", group="root", mode=mode)]
    if host.get_fact(File, path=path) is False:
        # A link, mostly: pyinfra would write what it leads to, and leave it.
        yield StringCommand("unlink", path)
    yield from steps


def foreign_dropins(unit: str, paths: Iterable[str]) -> list[StringCommand]:
    """What an operation yields last where `paths` are drop-ins of a unit of ours: none is."""
    names = listed(paths, "")
    words = refuse(
        f"{unit} is Homeport's, and {names} changes what it does",
        "move that away, `systemctl daemon-reload`, then converge again",
        wanted=f"{unit}: as Homeport wrote it",
    )
    return [words] if names else []


@operation()
def write(path: str, text: str, mode: str = MODE) -> Generator[Any, None, None]:
    """The file at `path` is root's, and is `text`."""
    if host.get_fact(File, path=path) is False:
        differs([Pair(f"{path}: a file", "a link, or something else")])
    yield from put(path, text, mode)


def sha256(text: str) -> str:
    """The sha256 of `text` as it lies in a file, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()
