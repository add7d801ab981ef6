"""All facts of a run in one remote command, and what may be made of the answers.

`homeport_node/gather.py` runs them on the node. Its source and the request travel, compressed,
over standard input: an argument is capped at 128 KiB. The answer is framed by a random marker, so
that what a login shell prints around it does no harm. A node without python3 has no answer.
"""

import functools
import inspect
import json
import secrets
import shlex
import time
import zlib
from typing import Any

import paramiko
from pyinfra.connectors.util import CommandOutput, OutputLine

from homeport import observe, shortcuts
from homeport.shortcuts import Shortcut
from homeport_node import gather

# Seconds that one fact may take before it is left to be asked by itself. Ours answer in less than
# one; a node's `docker` or `nvidia-smi` that hangs is cut at 20 s by the fact itself.
SECONDS = 10
# Bytes of output of one fact above which it is left to be asked by itself.
CAP = 1 << 20
# Bytes of the whole answer that the desk takes, and seconds that it waits: for a node that runs
# four facts at a time and has two that hang.
ANSWER_CAP = 1 << 25
DEADLINE = 45.0

BOOT = "python3 -c 'import sys,zlib;exec(zlib.decompress(sys.stdin.buffer.read()))'"

# How pyinfra begins the commands of a connecting user who is not root and needs no password.
SUDO = "sudo -H -n "


@functools.cache
def _source() -> str:
    return inspect.getsource(gather)


def elevation(commands: list[str]) -> str:
    """`SUDO` when every one of `commands` begins with it: then one sudo serves all, else ""."""
    return SUDO if commands and all(c.startswith(f"{SUDO}sh -c ") for c in commands) else ""


# A fact as `homeport_node.gather` runs it, and the shortcut there is for it.
Fact = tuple[dict[str, Any], Shortcut | None]


@functools.lru_cache(16384)
def fact(command: str) -> Fact:
    """How `command` is run on the node: `sh -c` of a Python program as that program, or as the
    module of ours that it is made of."""
    head, _, quoted = command.partition("sh -c ")
    if not head:
        # shlex.split takes milliseconds for each; this undoes shlex.quote, and checks that it did.
        text = quoted[1:-1].replace("'\"'\"'", "'")
        if shlex.quote(text) == quoted:
            program = observe.python_program(text)
            if program is not None:
                return _program_fact(program), None
            return {"shell": command}, shortcuts.shortcut(text)
    return {"shell": command}, None


def _program_fact(text: str) -> dict[str, Any]:
    asked = observe.asked(text)
    if asked is None:
        return {"python": text}
    stem, arguments = asked
    return {"stem": stem, "needed": observe.needed(stem), "arguments": arguments}


def _sources(facts: list[dict[str, Any]]) -> dict[str, str]:
    """The texts of all modules that `facts` need."""
    stems = {stem for one in facts if "stem" in one for stem in (*one["needed"], one["stem"])}
    return {stem: observe.source(stem) for stem in sorted(stems)}


def _facts(commands: list[str]) -> list[Fact]:
    cut = len(elevation(commands))
    return [fact(command[cut:]) for command in commands]


def _batches(facts: list[Fact]) -> list[list[int]]:
    """The places in `facts` of those with a shortcut, those of one process together.

    Units are apart from the rest: systemd may hang, and files do not.
    """
    quick = [(short[0] == "unit", place) for place, (_, short) in enumerate(facts) if short]
    size = shortcuts.AT_ONCE
    return [
        same[begin : begin + size]
        for kind in (False, True)
        for same in [[place for unit, place in quick if unit is kind]]
        for begin in range(0, len(same), size)
    ]


def _program(facts: list[Fact], batch: list[int]) -> str:
    asked = [(short, one["shell"]) for one, short in (facts[place] for place in batch) if short]
    return shortcuts.program(asked)


def request(commands: list[str], marker: str, seconds: float = SECONDS, cap: int = CAP) -> bytes:
    """What `BOOT` reads, as the account that `elevation` says: program and request, compressed.

    Facts with a shortcut come last, many to one process.
    """
    found = _facts(commands)
    facts: list[dict[str, Any]] = [one for one, short in found if short is None]
    facts += [{"python": _program(found, batch), "shells": True} for batch in _batches(found)]
    asked = {"marker": marker, "facts": facts, "seconds": seconds, "cap": cap}
    asked["sources"] = _sources(facts)
    return zlib.compress(f"{_source()}\nmain({json.dumps(asked)!r})\n".encode())


def _lines(name: str, text: str) -> list[OutputLine]:
    """`text` as pyinfra reads a stream: by newline alone, without them."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [OutputLine(name, line) for line in lines]


def _succeeded(value: Any) -> bool:
    """Whether `value` is an answer, and one of a command that succeeded."""
    match value:
        case [0, str(), str()]:
            return True
    return False


def answers(commands: list[str], marker: str, received: bytes) -> dict[str, CommandOutput]:
    """The output of each command that succeeded. Empty when the frame is not whole."""
    _, found, rest = received.partition(marker.encode())
    try:
        length = int(rest[:8], 16) if found else -1
        if length < 0:
            return {}
        # zlib's own checksum finds what is cut short.
        values = json.loads(zlib.decompress(rest[8 : 8 + length]))
    except (ValueError, RecursionError, zlib.error):
        return {}
    facts = _facts(commands)
    batches = _batches(facts)
    first = len(commands) - sum(map(len, batches))
    if not isinstance(values, list) or len(values) != first + len(batches):
        return {}
    plain = [place for place, (_, short) in enumerate(facts) if short is None]
    placed = dict(zip(plain, values[:first], strict=True))
    for batch, value in zip(batches, values[first:], strict=True):
        said = value[1] if _succeeded(value) else ""
        placed |= zip(batch, shortcuts.expanded(said, len(batch)), strict=True)
    return {
        command: CommandOutput(_lines("stdout", value[1]) + _lines("stderr", value[2]))
        for command, value in ((one, placed[place]) for place, one in enumerate(commands))
        if _succeeded(value)
    }


def _left(deadline: float) -> float:
    """Seconds until `deadline`. Raises `TimeoutError` once it is past."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    return left


def _exchange(transport: Any, boot: str, sent: bytes, deadline: float) -> bytes:
    """Send to `boot` over `transport`, and read until it closes. Raises OSError, SSHException."""
    channel = transport.open_session(timeout=_left(deadline))
    try:
        # One stream: stderr, if any, comes before the frame and is not part of it.
        channel.set_combine_stderr(True)
        channel.exec_command(boot)
        while sent:
            channel.settimeout(_left(deadline))
            sent = sent[channel.send(sent) :]
        channel.shutdown_write()
        received = bytearray()
        while True:
            channel.settimeout(_left(deadline))
            chunk = channel.recv(1 << 18)
            if not chunk:
                return bytes(received)
            received += chunk
            if len(received) > ANSWER_CAP:
                raise OSError("the answer is too large")
    finally:
        channel.close()


def ask(transport: Any, commands: list[str], deadline: float = DEADLINE) -> dict[str, Any]:
    """The outputs of those `commands` that succeeded, from one remote command.

    `deadline` is in seconds from now. Nothing is raised: what is not in the answer is to be asked
    by itself, and says then what is wrong.
    """
    if transport is None:  # the connection was closed meanwhile
        return {}
    marker = secrets.token_hex(16)
    boot = elevation(commands) + BOOT
    try:
        sent = request(commands, marker)
        received = _exchange(transport, boot, sent, time.monotonic() + deadline)
    except (OSError, EOFError, paramiko.SSHException):
        return {}
    return answers(commands, marker, received)
