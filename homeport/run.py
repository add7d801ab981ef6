"""Drives pyinfra over an inventory and a deploy, and says what happened as data.

One run per process: pyinfra keeps its state in module globals. The names imported from
`pyinfra_cli` are private to pyinfra; `tests/machinery/test_run.py` fails loudly when an upgrade
moves them, and pyproject.toml pins the version exactly.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import gevent
import pyinfra
from pyinfra.api.config import Config
from pyinfra.api.connect import disconnect_all
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host
from pyinfra.api.inventory import Inventory
from pyinfra.api.operations import run_ops
from pyinfra.api.state import BaseStateCallback, State, StateStage
from pyinfra.context import ctx_config, ctx_host, ctx_inventory, ctx_state
from pyinfra_cli.inventory import make_inventory
from pyinfra_cli.util import load_deploy_file

from homeport import connector, quicker, waiting
from homeport.faults import in_one_line
from homeport.inventory import NO_HOSTS
from homeport.pending import plain
from homeport.reach import check_passphrase, way_to, why_not
from homeport.result import Change, Failure, HostResult, Progress, RunResult
from homeport.spec import SpecError
from homeport.targets import Target


class Words(logging.Handler):
    """Keeps what pyinfra would have printed about failures, by host where it says one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class _Unreached(BaseStateCallback):
    """Keeps why a host could not be connected to, where the words for a lost one are."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: BaseException) -> None:
        if isinstance(host.connector, connector.HomeportConnector):
            way = way_to(host.data.dict())
            host.connector.lost = why_not(way, error.__context__ or error, "its targets file")


class _Events(BaseStateCallback):
    """Turns pyinfra's callbacks into `Progress` and measures each operation."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.total = total
        self.done = 0
        self.running: dict[str, str] = {}
        self.started: dict[str, float] = {}
        self.seconds: dict[tuple[str, str], float] = {}

    def operation_start(self, state: State, op_hash: str) -> None:  # type: ignore[override]
        self.started[op_hash] = time.monotonic()
        name = ", ".join(state.get_op_meta(op_hash).names)
        for host in state.inventory.get_active_hosts():
            if op_hash in state.ops[host]:
                self.running[host.name] = name
                self.progress.step(host.name, name, self.done, self.total)
        self.done += 1

    def operation_host_success(  # type: ignore[override]
        self, state: State, host: Host, op_hash: str, retry_count: int = 0
    ) -> None:
        self.seconds[host.name, op_hash] = time.monotonic() - self.started.get(op_hash, 0)


def load(path: Path, limit: tuple[str, ...] = (), data: dict[str, str] | None = None) -> Inventory:
    """The pyinfra inventory at `path`; `data` goes before what its hosts have.

    Raises `SpecError` for wrong input.
    """
    if not ctx_state.isset():  # pyinfra notes in its state which file it is executing
        ctx_state.set(State())
    with in_one_line(path):
        inventory: Inventory = make_inventory(str(path), data or None, str(Path.cwd()))
    if len(inventory) == 0:
        raise SpecError(f"{path}: {NO_HOSTS}")
    known = {host.name for host in inventory}
    for name in limit:
        if name not in known:
            raise SpecError(f"{path}: --limit {name}: no such host; known: {', '.join(known)}")
    return inventory


def failure(state: State, host: Host, words: list[str], running: str = "") -> Failure:
    """Why `host` failed: the operation that did, else what pyinfra said, best of this host.

    `running` is the operation that was the last to begin there, if one did. The words are plain:
    they may be the node's own.
    """
    operation, lines = _cause(state, host, words, running)
    return Failure(operation=operation, words=tuple(map(plain, lines)))


def _cause(state: State, host: Host, words: list[str], running: str) -> tuple[str, list[str]]:
    lost = getattr(host.connector, "lost", "")
    if lost:
        return running or "connecting or reading the node", [lost]
    words = [line for line in words if f"[{host.name}]" in line] or words
    for op_hash in host.op_hash_order:
        # An operation whose fact failed in the prepare phase has an order, and no data.
        operation = state.ops[host].get(op_hash)
        meta = operation and operation.operation_meta
        if meta and meta.is_complete() and meta.did_error():
            name = ", ".join(state.get_op_meta(op_hash).names)
            return name, (meta.stderr_lines or meta.stdout_lines)[-30:] or words[-10:]
    return "connecting or reading the node", words[-10:]


def _results(state: State, events: _Events, words: list[str]) -> list[HostResult]:
    results = []
    for host in state.inventory:
        result = HostResult(name=host.name, not_exercised=host.data.get("not_exercised") or ())
        for op_hash in host.op_hash_order:
            result.operations += 1
            meta = state.ops[host][op_hash].operation_meta
            if meta.is_complete() and meta.did_change():
                result.changed.append(
                    Change(
                        operation=", ".join(state.get_op_meta(op_hash).names),
                        commands=len(meta._commands or []),
                        seconds=round(events.seconds.get((host.name, op_hash), 0.0), 2),
                    )
                )
        result.waiting = waiting.waiting(host.name)
        if host in state.failed_hosts:
            result.failure = failure(state, host, words, events.running.get(host.name, ""))
        results.append(result)
    return results


def begin(
    path: Path,
    limit: tuple[str, ...],
    *,
    check_for_changes: bool,
    data: dict[str, str] | None = None,
) -> tuple[State, Words]:
    """pyinfra's state for a run over the inventory at `path`, and what pyinfra will say.

    Raises `SpecError` for wrong input, before any connection.
    """
    quicker.quicken()
    pyinfra.is_cli = True  # operations take their order from the deploy's lines, as under pyinfra
    words = Words()
    pyinfra.logger.handlers = [words]
    pyinfra.logger.propagate = False
    state = State(check_for_changes=check_for_changes)
    state.cwd = str(Path.cwd())
    config = Config()
    ctx_state.set(state)
    ctx_config.set(config)
    inventory = load(path, limit, data)
    ctx_inventory.set(inventory)
    chosen = [host for host in inventory if not limit or host.name in limit]
    for host in chosen:
        target: Target | None = host.data.get("target")
        if target and target.ssh_key:
            check_passphrase(host.name, target.ssh_key)
    state.init(inventory, config, initial_limit=chosen)
    state.add_callback_handler(_Unreached())
    return state, words


def converge(
    path: Path,
    deploy: Path,
    *,
    limit: tuple[str, ...] = (),
    progress: Progress | None = None,
    closing: Callable[[Host], list[str]] | None = None,
    data: dict[str, str] | None = None,
) -> RunResult:
    """Run `deploy` over the hosts of the inventory at `path`, or over those in `limit`.

    As with pyinfra's `-y`, facts are read once, when each operation's turn comes. `closing` is
    called with each host that went well, while it is still connected. Raises `SpecError` for wrong
    input; everything that goes wrong on a host is in the result. `data` goes before the hosts'.
    """
    began = time.monotonic()
    waiting.begin()
    state, words = begin(path, limit, check_for_changes=False, data=data)
    inventory = state.inventory
    events = _Events(progress or Progress(), 0)
    connector.on_line = (progress or Progress()).line
    try:
        _drive(state, deploy, events)
        results = _results(state, events, words.lines)
        for result in results:
            host = inventory.get_host(result.name)
            if closing and result.failure is None and host in state.active_hosts:
                _close(state, host, result, closing, words)
    finally:
        connector.on_line = None
        disconnect_all(state)
    return RunResult(hosts=results, seconds=round(time.monotonic() - began, 2))


def _close(
    state: State,
    host: Host,
    result: HostResult,
    closing: Callable[[Host], list[str]],
    words: Words,
) -> None:
    """Ask for the last words about `host`; the connection may break even now."""
    try:
        with ctx_host.use(host):
            result.closing = tuple(closing(host))
    except PyinfraError:
        result.failure = failure(state, host, words.lines, "reading what is to be said at the end")


def connect(state: State) -> set[Host]:
    """Connect to the chosen hosts, each whatever becomes of the others; those not reached."""
    state.set_stage(StateStage.Connect)

    def reach(host: Host) -> None:
        try:
            host.connect()
        except Exception as error:  # noqa: BLE001  # pyinfra expects some, and we need the rest
            pyinfra.logger.error(f"[{host.name}] {error}")

    hosts = list(state.limit_hosts)
    gevent.joinall([state.pool.spawn(reach, host) for host in hosts])
    for host in hosts:
        if host.connected:
            state.activate_host(host)
    return {host for host in hosts if not host.connected}


def _drive(state: State, deploy: Path, events: _Events) -> None:
    """Connect, prepare and execute. What fails is in `state`; only wrong input is raised."""
    try:
        state.fail_hosts(connect(state), len(state.limit_hosts))
        state.set_stage(StateStage.Prepare)
        load_deploy_file(state, str(deploy))
        events.total = len(state.get_op_order())
        state.add_callback_handler(events)
        state.set_stage(StateStage.Execute)
        run_ops(state)
    except SpecError:
        raise
    except PyinfraError as error:
        # None are left after "No hosts remaining!": which failed, and why, is in the state.
        if state.active_hosts:
            pyinfra.logger.error(str(error))
            state.failed_hosts.update(state.active_hosts)
