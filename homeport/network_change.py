"""A change of the node's network that reverts by itself unless the desk confirms it.

Before the change a timer is armed on the node (`homeport_node/network_change.py`); the change is
made by the node itself, detached from the connection; the desk then comes over a new connection
and stops the timer. Where it cannot, the node is as it was after `SECONDS`, and the run fails.
The connection may be cut before the node has answered that it began, or some seconds after the
change is over: the first is no failure yet, and the node calls the change done only `SETTLES`
seconds after its end.
"""

import time
from collections.abc import Callable, Generator, Iterable
from typing import Any

import paramiko
import pyinfra
from pyinfra.api import FunctionCommand, StringCommand
from pyinfra.api.host import Host
from pyinfra.api.state import State

from homeport.observe import act
from homeport_node.network_change import DONE, KEPT, RESTARTED, REVERTED, STATE

SECONDS = 120  # from arming to taking back; a change of ours ends within 80
AFTERWARDS = 90  # seconds besides, for the way back and a new connection
PAUSE = 2.0  # seconds between two attempts
# Seconds for one answer: a connection that is gone must not take all of the time there is.
ANSWER = 30

NOTHING = "nothing"  # /run was emptied, by a boot
LOOK = StringCommand(f"ls {STATE} 2>/dev/null || echo {NOTHING}")


def reverting(
    files: Iterable[str], before: Iterable[StringCommand], commands: Iterable[str]
) -> Generator[Any, None, None]:
    """What an operation yields to run `before`, which writes `files`, and then `commands`.

    `commands` are shell text that may cut the connection. All of it is taken back when it fails, or
    when the node cannot be reached over a new connection after it.
    """
    made = [*commands]

    # pyinfra calls it in the host's own greenlet for the names of its two arguments.
    def change(state: State, host: Host) -> bool:
        words = begin(host, made) or confirm(host)
        if words:
            pyinfra.logger.error(words)
            setattr(host.connector, "lost", words)  # noqa: B010  # ours says by it why a run ended
        return not words

    change.__doc__ = f"detached, and taken back unless confirmed: {'; '.join(made)}"
    yield act("network_change", "arm", files=[*files], seconds=SECONDS)
    yield from before
    yield FunctionCommand(change, (), {})


def begin(machine: Host, commands: list[str]) -> str:
    """Have the node begin `commands`. "" unless they were refused; else why.

    Whether they were begun is not known without an answer: `confirm` finds it out.
    """
    try:
        good, output = _ask(machine, act("network_change", "start", commands=commands))
    except (OSError, paramiko.SSHException):  # ConnectionLost and TimeoutError are OSErrors
        return ""
    return "" if good else f"the network change was not begun: {output.strip()}"


def _ask(machine: Host, command: StringCommand) -> tuple[bool, str]:
    """Whether `command` went well, and what it said. Raises `ConnectionLost`, `TimeoutError`."""
    sudo = bool(machine.data.get("_sudo"))
    good, output = machine.run_shell_command(command, _sudo=sudo, _timeout=ANSWER)
    return good, output.output


def _ask_anew(machine: Host, command: StringCommand) -> tuple[bool, str]:
    """As `_ask`, over a new connection. Raises without one."""
    client = getattr(machine.connector, "client", None)
    if client is not None:
        client.close()
    machine.connected = False
    machine.connect(show_errors=False, raise_exceptions=True)
    return _ask(machine, command)


def confirm(
    machine: Host,
    *,
    attempt: Callable[[Host, StringCommand], tuple[bool, str]] = _ask_anew,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """ "" once the change is confirmed over a new connection; else what became of it."""
    began, last, by_itself = clock(), "it does not end", "it takes the change back by itself"
    while clock() - began < SECONDS + AFTERWARDS:
        sleep(PAUSE)
        try:
            found = attempt(machine, LOOK)[1].split()
            if KEPT in found:
                return ""
            if NOTHING in found:
                return f"the network change of {machine.name} is not confirmed: {RESTARTED}"
            if REVERTED in found:
                return (
                    f"the network change cut the connection to {machine.name}, which was there "
                    f"again after {clock() - began:.0f} s: the change was taken back"
                )
            if DONE not in found:
                continue
            by_itself = "whether it took the change back or kept it is not known"
            good, said = attempt(machine, act("network_change", "confirm"))
            return "" if good else f"the network change was not kept: {said.strip()}"
        except Exception as error:  # noqa: BLE001  # a network in change fails in many ways
            last = f"{type(error).__name__}: {error}"
    return (
        f"{machine.name} cannot be reached {SECONDS + AFTERWARDS} s after its network change "
        f"({last}): look at its console; {by_itself}"
    )
