"""What an operation would do next: its commands and the words for them, and nothing is run."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from pyinfra.api import FileUploadCommand, FunctionCommand, StringCommand

from homeport.differs import Look, Pair, explain, noted
from homeport.observe import Act

# A password in an address, such as a package index's.
CREDENTIALS = re.compile(r"(://[^/@:\s]*):[^/@\s]+@")
# What a terminal takes for a command, such as a colour, and what else it does not show.
SEQUENCE = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
LONGEST = 400  # characters of what is wanted, or there: some of it is the node's own words


class _LooksAgain(BaseException):
    """An operation asks for a fact after a command that was not run: the answer would mislead."""


def masked(text: str) -> str:
    """`text` without passwords in addresses."""
    return CREDENTIALS.sub(r"\1:*MASKED*@", text)


def plain(text: str) -> str:
    """`text` on one line that can be read, without passwords and control characters."""
    return CONTROL.sub(" ", masked(SEQUENCE.sub("", text)))


def command_texts(command: Any) -> tuple[str, str]:
    """(the exact command with secrets masked, the same for people) of what an operation yields."""
    if isinstance(command, FileUploadCommand):
        text = f"upload {command.dest}"  # what is in it may be a secret
        return text, text
    if isinstance(command, FunctionCommand):  # it runs here, not on the node
        text = f"({(command.function.__doc__ or repr(command)).splitlines()[0]})"
        return text, text
    text = masked(str(command) if isinstance(command, StringCommand) else repr(command))
    if isinstance(command, Act):
        return text, plain(f"homeport-node {command.words}")
    lines = text.strip().splitlines() or [""]
    return text, plain(lines[0]) + (f" … ({len(lines)} lines)" if len(lines) > 1 else "")


class Pending(NamedTuple):
    """What an operation would do next, whether it would then look again, and why."""

    commands: list[Any]
    more: bool
    differs: tuple[Pair, ...]


def _one_line(text: str) -> str:
    """`text` in plain words, cut short."""
    line = plain(text)
    return line if len(line) <= LONGEST else f"{line[:LONGEST]}…"


def pending(host: Any, name: str, generate: Callable[[], Iterator[Any]]) -> Pending:
    """What the operation called `name`, whose commands `generate` makes, would do next."""
    found: list[Any] = []
    looks: list[Look] = []
    get_fact = host.get_fact

    def look(fact: Any, *args: Any, **kwargs: Any) -> Any:
        if found:
            raise _LooksAgain
        looks.append(Look(fact, kwargs, get_fact(fact, *args, **kwargs)))
        return looks[-1].answer

    more = False
    host.get_fact = look
    try:
        with noted() as said:
            for command in generate():
                found.append(command)
    except _LooksAgain:
        more = True
    finally:
        host.get_fact = get_fact
    pairs = explain(name, said, looks, found)
    return Pending(found, more, tuple(Pair(*map(_one_line, pair)) for pair in pairs))
