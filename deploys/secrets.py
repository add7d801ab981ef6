"""Secrets: one file each under /etc/homeport/secrets, 0600, owned by root.

What a capability needs (an API key, a session key, a first password) is made on the node from the
kernel's randomness when it is missing, and never overwritten. A secret can also be given at the
desk, in the inventory, by naming where it is:

    secrets_given={"llama_server.api_key": from_command("pass show iona/api-key")}

It is then uploaded by SFTP to a directory that only the connecting user can enter, and moved into
place. Its value is in no command, no argument list, no output and no diff. Whether the node holds
the same value is found out with a proof that reveals nothing (`homeport_node/secrets.py`).

A source in the environment that is not set leaves the secret on the node as it is, and is refused
only when there is none: the variable is needed to place or change a secret, not on every run. A
command that fails is always refused; a drift check says then that it could not tell.

How it fails: an entry in the directory that is not a regular file is refused, not removed.
How to undo it: files stay when the inventory no longer wants them, because to lose the key of
Open WebUI is to lose every session and stored token. `rm /etc/homeport/secrets/NAME` makes the
next converge place a new one, and the services that read it are recreated.

Programs get secrets as files (Compose mounts them at /run/secrets/NAME): an environment variable
shows in `docker inspect`, an argument in `ps`.
"""

import functools
import io
import os
import re
import secrets as randomness
import shlex
import subprocess
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any

from pyinfra import host
from pyinfra.api import FileUploadCommand, StringCommand, deploy, operation

from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.observe import NodeFact, act
from homeport.refuse import refuse
from homeport.spec import Spec, fail
from homeport_node import secrets as aboard

NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
COMMAND_TIMEOUT = 120  # seconds: time to type a passphrase


@dataclass(frozen=True, kw_only=True, slots=True)
class Secret(Spec):
    """A secret that a capability needs; `bytes` of randomness when it is made on the node.

    One that is not `made` belongs to somebody else, such as a token of the Hub: it is there when
    it is given at the desk, and otherwise not.
    """

    STEM = "secret"

    name: str
    bytes: int = 32
    made: bool = True

    def validate(self) -> None:
        ok = NAME.fullmatch(self.name) is not None
        self.require("name", ok, "must be like llama_server.api_key: it names a file on the node")
        # 16 bytes are the least that nobody guesses; OpenSSL and Open WebUI's bcrypt (72 bytes
        # of password) are content with up to 54, which make 72 characters.
        self.require("bytes", 16 <= self.bytes <= 54, "must be 16 to 54 bytes of randomness")


@dataclass(frozen=True, kw_only=True, slots=True)
class SecretSource(Spec):
    """Where the desk finds a secret: the environment, or a command's output. Holds no value."""

    STEM = "secret_source"

    environment: str = ""
    command: str = ""

    def validate(self) -> None:
        one = bool(self.environment) != bool(self.command)
        self.require("environment", one, "must be given, or else a command: exactly one of them")

    @property
    def words(self) -> str:
        return f"${self.environment}" if self.environment else f"`{self.command}`"


def from_env(name: str) -> SecretSource:
    """The secret is in the environment variable `name` of whoever runs the converge."""
    return SecretSource(environment=name)


def from_command(command: str) -> SecretSource:
    """The secret is what `command` (`pass show …`) prints at the desk; no shell is involved."""
    return SecretSource(command=command)


@dataclass(frozen=True, kw_only=True, slots=True)
class Secrets(Spec):
    """All secrets of a node: those its capabilities want, and where given ones come from."""

    STEM = "secrets_given"

    wanted: tuple[Secret, ...]
    given: dict[str, SecretSource] = field(default_factory=dict)

    def validate(self) -> None:
        names = [secret.name for secret in self.wanted]
        self.require("wanted", len(set(names)) == len(names), "must name each secret once")
        for name in self.given:
            if name not in names:
                known = ", ".join(sorted(names)) or "none"
                fail(f"{self.STEM}.{name}", name, f"must be a secret that this node has: {known}")


class SecretsState(NodeFact):
    """{"directories": {"/etc/homeport/secrets": "mode 700, owner 0:0", …},
    "files": {"llama_server.api_key": {"mode": "600", …}}, …}"""

    stem = "secrets"


@dataclass(frozen=True, slots=True)
class Value:
    """What a source gave: a value, or the reason why there is none. Shown as neither."""

    value: str = ""
    problem: str = ""

    def __repr__(self) -> str:
        return "Value(…)"


@functools.cache
def evaluate(source: SecretSource) -> Value:
    """Ask the desk for the value, once per run. Both fields empty: the variable is not set."""
    if source.environment:
        text = os.environ.get(source.environment, "")
        if not text:
            return Value()
    else:
        try:
            done = subprocess.run(
                shlex.split(source.command), capture_output=True, timeout=COMMAND_TIMEOUT
            )
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            return Value(problem=f"{source.words} did not run: {error.__class__.__name__}")
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            return Value(problem=f"{source.words} failed: {''.join(last) or done.returncode}")
        text = done.stdout.decode(errors="replace")
    text = text.rstrip("\r\n")
    if not text or "\n" in text or "\0" in text:
        return Value(problem=f"{source.words} must give one line that is not empty")
    return Value(value=text)


@dataclass(frozen=True, slots=True)
class Difference:
    """What the node's secrets lack: names to make and to place; `problems` are messages.

    `untidy` says that a mode, an owner or a left-over of an interrupted run must be put right.
    """

    untidy: bool = False
    make: tuple[str, ...] = ()
    place: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self != Difference()


def difference(spec: Secrets, values: dict[str, Value], same: set[str], seen: Any) -> Difference:
    """What to do, from the observed state; `same` are given secrets that the node holds already."""
    files = seen.get("files", {})
    untidy = any(directory_words(seen)) or bool(seen.get("leftovers"))
    make, place, problems = [], [], []
    for secret in spec.wanted:
        name = secret.name
        state = files.get(name)
        present = bool(state and state["size"])
        if state and (state["mode"], state["uid"], state["gid"]) != ("600", 0, 0):
            untidy = True
        if state and not state["regular"]:
            untidy = True
        value = values.get(name)
        if value is None:
            if not present and secret.made:
                make.append(name)
        elif value.problem:
            problems.append(f"secret {name}: {value.problem}")
        elif value.value and name not in same:
            place.append(name)
        elif not value.value and not present:
            words = spec.given[name].words
            problems.append(f"secret {name}: {words} is not set, and the node has no such secret")
    return Difference(untidy, tuple(make), tuple(place), tuple(problems))


def directory_words(seen: Any) -> Iterator[Pair]:
    """What differs of the directories, which are root's."""
    for path, mode in aboard.DIRECTORIES.items():
        wanted = f"mode {mode:o}, owner 0:0"
        there = seen.get("directories", {}).get(path)
        if there != wanted:
            yield Pair(f"{path}: {wanted}", there or "no such directory")


def words(spec: Secrets, todo: Difference, seen: Any) -> Iterator[Pair]:
    """What differs: modes, owners, names and paths."""
    yield from directory_words(seen)
    for path in seen.get("leftovers", ()):
        yield Pair(f"{path}: no such file", "left by a run that was interrupted")
    for secret in spec.wanted:
        what, state = f"secret {secret.name}: ", seen.get("files", {}).get(secret.name)
        if state and state["mode"] != "600":
            yield Pair(f"{what}mode 600", f"mode {state['mode']}")
        if state and (state["uid"], state["gid"]) != (0, 0):
            yield Pair(f"{what}owner 0:0", f"owner {state['uid']}:{state['gid']}")
        if state and not state["regular"]:
            yield Pair(f"{what}a regular file", "something else")
        there = "no such file" if not state else "" if state["size"] else "an empty file"
        if secret.name in todo.make:
            yield Pair(f"{what}made on the node", there)
        if secret.name in todo.place:
            yield Pair(f"{what}as given at the desk", there or "another value")


def _observe(spec: Secrets, values: dict[str, Value]) -> tuple[Any, set[str]]:
    private = aboard.private_key()
    given = sorted(name for name, value in values.items() if value.value)
    seen = host.get_fact(
        SecretsState,
        names=[secret.name for secret in spec.wanted],
        given=given,
        # A new key every time, so a command that no run has asked before: only where it is needed.
        peer=aboard.public_key(private) if given else "",
    )
    proofs = seen.get("proofs", {})
    same = {
        name
        for name in given
        if name in proofs
        and proofs[name] == aboard.prove(private, seen["public"], name, values[name].value.encode())
    }
    return seen, same


def _place(name: str, value: str) -> Iterator[StringCommand | FileUploadCommand]:
    # As the connecting user, not through sudo: SFTP writes as that user, and only that user and
    # root can enter the directory, whatever mode the file itself gets.
    directory = f"{aboard.UPLOADS}{randomness.token_hex(8)}"
    yield StringCommand("mkdir", "-m", "0700", directory, _sudo=False)
    yield FileUploadCommand(io.StringIO(value), f"{directory}/value", _sudo=False)
    yield act("secrets", "take", name=name, upload=f"{directory}/value")


@operation()
def ensure(spec: Secrets) -> Generator[Any, None, None]:
    """Every secret is there, whole, and readable by root alone; given ones have the given value."""
    values = {name: evaluate(source) for name, source in spec.given.items()}
    seen, same = _observe(spec, values)
    todo = difference(spec, values, same, seen)
    if todo.problems:
        yield refuse(
            "; ".join(todo.problems),
            "set it, or take it out of secrets_given",
            at_desk=any(value.problem for value in values.values()),
        )
        return
    differs(words(spec, todo, seen))
    if todo.untidy:
        yield act("secrets", "tidy", names=[secret.name for secret in spec.wanted])
    if todo.make:
        sizes = {secret.name: secret.bytes for secret in spec.wanted if secret.name in todo.make}
        yield act("secrets", "make", wanted=sizes)
    for name in todo.place:
        yield from _place(name, values[name].value)
    if not todo:
        host.noop("secrets are in place")


@deploy("Secrets")
def apply(spec: Secrets | None) -> None:
    """Make or place what is wanted. With None nothing is done: secrets are data and stay."""
    if spec is not None:
        ensure(name="Make or place the node's secrets", spec=spec)


CAPABILITY = Capability(
    summary="API keys, session keys and first passwords: made on the node or given at the desk, "
    "files for root alone, never overwritten",
    proof="container",
)
