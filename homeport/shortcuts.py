"""Which commands of facts `homeport_node/shortcuts.py` can answer without running them.

A command is recognised by making pyinfra's own text for the arguments that it seems to have: only
one that is the same to the byte counts. What a newer pyinfra asks otherwise is then simply run.
"""

import functools
import inspect
import json
import re
from collections.abc import Callable
from typing import Any

from pyinfra.api import StringCommand, facts
from pyinfra.facts.files import File, FindInFile, Sha1File
from pyinfra.facts.server import Users
from pyinfra.facts.systemd import SystemdEnabled, SystemdStatus

from homeport_node import shortcuts

Shortcut = tuple[str, list[str]]

_PATH = shortcuts.PLAIN.pattern
_STATUS = re.compile(rf"! \(test -e ({_PATH}) ")
_SHA1 = re.compile(rf"test -e ({_PATH}) && \( sha1sum ")
# Literals, ".", ".*" and the two anchors are the same to grep's basic regular expressions and `re`.
_PATTERN = r"\^?(?:[A-Za-z0-9_ /:,@%=.#-]|\.\*)*\$?"
_LINES = re.compile(rf"grep -e (?:'({_PATTERN})'|({_PATH})) ({_PATH}) 2> ")
_UNIT = re.compile(
    r"if command -v systemctl >/dev/null 2>&1; then \( systemctl show --all "
    rf"--property Id --property (\w+) ({_PATH}) \); "
)
# More of them, and `re` may take very long for a line that does not match.
_MOST_STARS = 3

# How many of them one process answers, in the time and with the output that one fact may take.
AT_ONCE = 1000

_END = "\nprint(json.dumps(list(answers(json.loads({asked!r})))))\n"


def _text(command: Any) -> str:
    return command.get_raw_value() if isinstance(command, StringCommand) else str(command)


@functools.cache
def _accounts() -> str:
    return _text(Users().command())


def _guarded(fact: Any, command: Any) -> str:
    """As pyinfra guards the command of a fact that needs a program (`facts._get_fact`)."""
    needs = fact.requires_command()
    return (
        f"if command -v {needs} >/dev/null 2>&1; then ( {_text(command)} ); "
        f"else echo '{facts._MISSING_COMMAND_MARKER}'; fi"
    )


def _unit(found: re.Match[str]) -> tuple[str, Shortcut]:
    name, unit = found[1], found[2]
    fact = SystemdStatus() if name == SystemdStatus.state_key else SystemdEnabled()
    return _guarded(fact, fact.command(services=unit)), ("unit", [fact.state_key, unit])


def _status(found: re.Match[str]) -> tuple[str, Shortcut]:
    path = found[1]
    return _text(File().command(path)), ("status", [path])


def _sha1(found: re.Match[str]) -> tuple[str, Shortcut]:
    path = found[1]
    return _text(Sha1File().command(path)), ("sha1", [path])


def _lines(found: re.Match[str]) -> tuple[str, Shortcut]:
    pattern, path = found[1] or found[2] or "", found[3]
    if pattern.count("*") > _MOST_STARS or "+" in pattern:
        return "", ("", [])
    none = f"__pyinfra_exists_{path}"
    return _text(FindInFile().command(path, pattern)), ("lines", [path, pattern, none])


_KINDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], tuple[str, Shortcut]]], ...] = (
    (_STATUS, _status),
    (_SHA1, _sha1),
    (_LINES, _lines),
    (_UNIT, _unit),
)


def shortcut(text: str) -> Shortcut | None:
    """(kind, arguments) for the shell text of a fact, None when there is no shortcut for it."""
    if text == _accounts():
        return "accounts", []
    for begins, make in _KINDS:
        found = begins.match(text)
        if found is not None:
            whole, said = make(found)
            return said if whole == text else None
    return None


@functools.cache
def _source() -> str:
    return "import json\n" + inspect.getsource(shortcuts)


def program(asked: list[tuple[Shortcut, str]]) -> str:
    """The Python text that prints, as JSON, the answers to `asked`: shortcuts and their texts."""
    values = [[kind, arguments, text] for (kind, arguments), text in asked]
    return _source() + _END.format(asked=json.dumps(values))


def expanded(said: str, count: int) -> list[Any]:
    """The `count` answers that `program` printed; none of them when it was cut short."""
    try:
        values = json.loads(said)
    except (ValueError, RecursionError):
        return [None] * count
    good = isinstance(values, list) and len(values) == count
    return values if good else [None] * count
