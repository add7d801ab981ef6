"""Drift: what a converge would do now, and the commands, without doing any of it.

pyinfra's API is driven through its prepare phase only: facts are read, and each operation's
generator is asked for its commands, which are never run. `State.check_for_changes` is set here,
so PYINFRA_YES, with which pyinfra's own `--dry` calls everything clean, has no say.

A host that cannot be reached or read is said to be unknown, and does not hide the others.
"""

import ast
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from pyinfra.api.connect import disconnect_all
from pyinfra.api.host import Host
from pyinfra.api.state import State, StateOperationHostData, StateOperationMeta, StateStage
from pyinfra.context import ctx_config, ctx_host
from pyinfra_cli.util import exec_file

from homeport import connector
from homeport.differs import Pair
from homeport.inventory import NotExercised
from homeport.pending import command_texts, pending, plain
from homeport.refuse import Refusal
from homeport.result import Failure
from homeport.run import begin, connect, failure

# Seconds after which a fact that hangs makes the host unknown. Ours end by themselves in 20.
FACT_TIMEOUT = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One operation that would run, and its commands.

    `words` are the commands for people: programs of ours by name, no line breaks. `more`: the
    operation would look at the node again after these, and may then do more. `differs` says what
    is wanted and what is there.
    """

    capability: str
    operation: str
    commands: tuple[str, ...]
    words: tuple[str, ...]
    more: bool
    differs: tuple[Pair, ...] = ()


@dataclass(kw_only=True, slots=True)
class HostDrift:
    """What was found on one host; with a `failure`, what was found until then."""

    name: str
    operations: int = 0
    differences: list[Difference] = field(default_factory=list)
    failure: Failure | None = None
    not_exercised: tuple[NotExercised, ...] = ()

    @property
    def state(self) -> str:
        if self.failure is not None:
            return "unknown"
        return "drift" if self.differences else "clean"


@dataclass(kw_only=True, slots=True)
class DriftResult:
    """A whole check; `seconds` is wall time including connecting."""

    hosts: list[HostDrift]
    seconds: float = 0.0

    @property
    def status(self) -> int:
        """The exit status: 1 when any host is unknown, else 2 when any differs, else 0."""
        states = {host.state for host in self.hosts}
        if "unknown" in states or not states:
            return 1
        return 2 if "drift" in states else 0


def stems(deploy: Path) -> dict[int, str]:
    """{line: stem} of the lines `stem.apply(…)` of a deploy such as `full.py`."""
    found = {}
    for node in ast.parse(deploy.read_text()).body:
        call = node.value if isinstance(node, ast.Expr) else None
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute):
            name = call.func.value
            if isinstance(name, ast.Name) and node.end_lineno is not None:
                found.update(dict.fromkeys(range(node.lineno, node.end_lineno + 1), name.id))
    return found


def _each(state: State, hosts: list[Host], work: Callable[[Host], None]) -> dict[Host, Exception]:
    """Do `work` for all `hosts` at once; what it raised, by host."""
    raised: dict[Host, Exception] = {}

    def one(host: Host) -> None:
        try:
            with ctx_config.use(state.config.copy()), ctx_host.use(host):
                work(host)
        except Exception as error:  # noqa: BLE001  # one host must not hide the others
            raised[host] = error

    try:
        for greenlet in [state.pool.spawn(one, host) for host in hosts]:
            greenlet.join()
    except BaseException:
        # Ctrl-C. Those that wait on a node hold the pool, which disconnecting needs.
        state.pool.kill(timeout=1)
        raise
    return raised


def _name(meta: StateOperationMeta, operation: StateOperationHostData) -> str:
    """What the operation is called on its host: the hosts share one `meta`, with all its names."""
    own = operation.global_arguments["name"]
    names = [name for name in meta.names if own and f" | {name}".endswith(f" | {own}")]
    return ", ".join(sorted(names or meta.names))


def _look(state: State, host: Host, lines: dict[int, str], found: HostDrift) -> None:
    """Note in `found` what the operations of `host` would do, and what the desk cannot know."""
    for op_hash in host.op_hash_order:
        operation = state.ops[host].get(op_hash)
        if operation is None or not operation.operation_meta.will_change:
            continue
        meta = state.get_op_meta(op_hash)
        name = _name(meta, operation)
        commands, more, differs = pending(host, name, operation.command_generator)
        if not commands:  # what was not so a moment ago is
            continue
        causes = [one.cause for one in commands if isinstance(one, Refusal) and one.at_desk]
        if causes:
            found.failure = Failure(operation=name, words=tuple(map(plain, causes)))
            continue
        texts = [command_texts(command) for command in commands]
        found.differences.append(
            Difference(
                capability=lines.get(meta.op_order[1], "") if len(meta.op_order) > 1 else "",
                operation=name,
                commands=tuple(text for text, _ in texts),
                words=tuple(words for _, words in texts),
                more=more,
                differs=differs,
            )
        )


def _prepare(state: State, deploy: Path, found: dict[Host, HostDrift]) -> dict[Host, Exception]:
    state.set_stage(StateStage.Prepare)
    state.current_deploy_filename = str(deploy)
    lines = stems(deploy)

    def work(host: Host) -> None:
        exec_file(str(deploy))
        _look(state, host, lines, found[host])

    return _each(state, list(state.active_hosts), work)


def _words(error: Exception) -> tuple[str, ...]:
    """What was raised, and the line of a deploy in which it was."""
    cause: Exception = getattr(error, "exception", error)  # pyinfra wraps what a deploy raises
    frames = traceback.extract_tb(cause.__traceback__)[-1:]
    lines = [f"{frame.filename}:{frame.lineno}" for frame in frames]
    raised = "".join(traceback.format_exception_only(cause)).splitlines()
    return tuple(map(plain, [*raised, *lines]))


def drift(path: Path, deploy: Path, *, limit: tuple[str, ...] = ()) -> DriftResult:
    """Compare the hosts of the inventory at `path`, or those in `limit`, with `deploy`.

    Changes nothing. Raises `SpecError` for wrong input; what goes wrong on a host is in the result.
    """
    began = time.monotonic()
    state, words = begin(path, limit, check_for_changes=True)
    # A fact that fails ends its own host's part. Else, as long as another host is left, pyinfra
    # goes on with what a fact is by default, and asks a node that hangs again and again.
    state.config.FAIL_PERCENT = 0
    hosts = list(state.limit_hosts)
    found = {
        host: HostDrift(name=host.name, not_exercised=host.data.get("not_exercised") or ())
        for host in hosts
    }
    connector.fact_timeout = FACT_TIMEOUT
    try:
        state.failed_hosts |= connect(state)
        raised = _prepare(state, deploy, found)
    finally:
        connector.fact_timeout = None
        disconnect_all(state)
    for host, result in found.items():
        result.operations = len(host.op_hash_order)
        if host in raised and host not in state.failed_hosts:
            result.failure = Failure(operation="reading the node", words=_words(raised[host]))
        elif host in state.failed_hosts:
            result.failure = failure(state, host, words.lines)
    return DriftResult(hosts=list(found.values()), seconds=round(time.monotonic() - began, 2))
