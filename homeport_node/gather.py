"""Many facts in one remote command: runs what it is given and sends back what was said.

The desk sends this file's text and a request over standard input (`homeport/prefetch.py`), so it
imports nothing but the standard library. Facts only read, so they run side by side. A fact is a
shell command; a Python program; or a module of `homeport_node`, whose `observe` is called. The
latter two run in a fork, which saves the start of an interpreter (40 ms of processor time); a
module is loaded before that, once for all that need it. What a program starts finds what Python
makes of its environment, unless `shells` says that it stands for shells. Each fact has a time limit
of its own and a cap on its output: one that hangs or talks too much is left out of the answer, and
the desk asks for it the ordinary way. Nothing is written to the node's disk.
"""

import contextlib

# Not all of it is used here: what the programs import is imported once, before they are forked.
import hashlib  # noqa: F401
import json
import os
import pathlib
import selectors
import signal
import subprocess  # noqa: F401
import sys
import time
import traceback
import types
import zlib
from dataclasses import dataclass, field
from typing import IO, Any


@dataclass
class Running:
    """A fact on its way: its process, and what it has said so far on stdout and stderr."""

    number: int
    pid: int
    deadline: float
    said: "list[bytearray]" = field(default_factory=lambda: [bytearray(), bytearray()])
    open: int = 2


PACKAGE = "homeport_node"


def _module(name: str, source: str) -> None:
    """Load the module `homeport_node.<name>` from its text, unless it is there."""
    whole = f"{PACKAGE}.{name}" if name else PACKAGE
    if whole in sys.modules:
        return
    module = sys.modules[whole] = types.ModuleType(whole)
    try:
        exec(compile(source, whole, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[whole]
        raise
    if name:
        setattr(sys.modules[PACKAGE], name, module)
    else:
        module.__path__ = []


def _load(fact: "dict[str, Any]", sources: "dict[str, str]") -> None:
    """Load the module of `fact`, if it is one; a module that cannot be loaded fails its facts, as
    they are run."""
    if "stem" in fact:
        with contextlib.suppress(Exception):
            _module("", "")
            for name in (*fact["needed"], fact["stem"]):
                _module(name, sources[name])


def _run(fact: "dict[str, Any]") -> None:
    """Run a fact that is no shell command, and print what it says."""
    if "stem" in fact:
        module = sys.modules[f"{PACKAGE}.{fact['stem']}"]
        print(json.dumps(module.observe(**fact["arguments"])))
    else:
        exec(compile(fact["python"], "<stdin>", "exec"), {"__name__": "__main__"})


def _exit_status(fact: "dict[str, Any]") -> int:
    """Run `fact` as `python3 -` would."""
    try:
        _run(fact)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return (end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:  # noqa: BLE001  # whatever it is, python3 would print it and exit 1
        traceback.print_exc()
        return 1
    return 0


def _as_without_python() -> None:
    """Undo for what is started from here what the start of Python changed for it.

    Python ignores two signals, and in the C locale it sets LC_CTYPE to one of UTF-8 (PEP 538):
    tools would quote names, match bytes and say things in other ways than for a shell. Raises
    OSError where the kernel does not tell how this process was started.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    begun = pathlib.Path("/proc/self/environ").read_bytes().split(b"\0")
    given = dict(entry.partition(b"=")[::2] for entry in begun).get(b"LC_CTYPE")
    os.environb.pop(b"LC_CTYPE", None)
    if given is not None:
        os.environb[b"LC_CTYPE"] = given


def _child(fact: "dict[str, Any]", out: int, err: int) -> None:
    """What a forked process does. Never returns."""
    status = 127
    try:
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for source, number in ((null, 0), (out, 1), (err, 2)):
            os.dup2(source, number)
        if "shell" in fact or fact.get("shells"):
            _as_without_python()
        if "shell" in fact:
            os.execv("/bin/sh", ["sh", "-c", fact["shell"]])
        sys.stdin, sys.stdout, sys.stderr = os.fdopen(0), os.fdopen(1, "w"), os.fdopen(2, "w")
        status = _exit_status(fact)
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def _start(number: int, fact: "dict[str, Any]", seconds: float, selector: Any) -> Running:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(fact, out_write, err_write)
    os.close(out_write)
    os.close(err_write)
    running = Running(number, pid, time.monotonic() + seconds)
    selector.register(out_read, selectors.EVENT_READ, (running, 0))
    selector.register(err_read, selectors.EVENT_READ, (running, 1))
    return running


def _status(running: Running) -> "int | None":
    """The exit status of one that has closed its streams; None when it does not end then."""
    until = min(running.deadline, time.monotonic() + 1)
    while time.monotonic() < until:
        pid, status = os.waitpid(running.pid, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    return None


def _answer(running: Running) -> "list[Any] | None":
    try:
        status = _status(running)
        texts = [bytes(said).decode() for said in running.said]
    except (ChildProcessError, UnicodeDecodeError):
        return None
    return None if status is None else [status, *texts]


def _give_up(running: Running, selector: Any) -> None:
    """Stop listening to one, and end it."""
    for key in list(selector.get_map().values()):
        if key.data[0] is running:
            selector.unregister(key.fd)
            os.close(key.fd)
    # Fails for a command that went through sudo: it is root's. It then outlives the connection,
    # as it does under plain ssh.
    with contextlib.suppress(OSError):
        os.killpg(running.pid, signal.SIGKILL)


def gather(
    facts: "list[dict[str, Any]]",
    seconds: float,
    cap: int,
    at_once: int,
    sources: "dict[str, str] | None" = None,
) -> "list[list[Any] | None]":
    """[exit status, stdout, stderr] of each of `facts`, or None. `sources` are modules by name.

    None: it ran longer than `seconds`, printed more than `cap` bytes, or not in UTF-8.
    """
    answers: list[list[Any] | None] = [None] * len(facts)
    waiting = list(enumerate(facts))[::-1]
    running: list[Running] = []
    with selectors.DefaultSelector() as selector:
        while waiting or running:
            while waiting and len(running) < at_once:
                number, fact = waiting.pop()
                _load(fact, sources or {})
                running.append(_start(number, fact, seconds, selector))
            first = min(one.deadline for one in running)
            for key, _ in selector.select(max(0.0, first - time.monotonic())):
                one, stream = key.data
                chunk = os.read(key.fd, 65536)
                one.said[stream] += chunk
                if not chunk:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    one.open -= 1
            for one in list(running):
                late = time.monotonic() >= one.deadline
                if one.open == 0:
                    answers[one.number] = _answer(one)
                elif late or sum(map(len, one.said)) > cap:
                    _give_up(one, selector)
                else:
                    continue
                running.remove(one)
    return answers


def frame(marker: str, answers: "list[Any]") -> bytes:
    """`answers` as bytes that are found again whatever else the connection carries."""
    body = zlib.compress(json.dumps(answers).encode(), 1)
    return marker.encode() + b"%08x" % len(body) + body


def main(request: str, out: "IO[bytes] | None" = None) -> None:
    """Answer `request`: {"marker": "…", "facts": [{"shell": "…"}, {"python": "…"},
    {"python": "…", "shells": true}, {"stem": "base", "needed": ["common"], "arguments": {}}],
    "sources": {"common": "…", "base": "…"}, "seconds": 10, "cap": 1048576}."""
    asked = json.loads(request)
    at_once = max(8, 4 * (os.cpu_count() or 1))
    answers = gather(asked["facts"], asked["seconds"], asked["cap"], at_once, asked.get("sources"))
    stream = out or sys.stdout.buffer
    stream.write(frame(asked["marker"], answers))
    stream.flush()
