"""Reboot: one for everything that waits for it, and the run goes on when the node is back.

Each capability that cannot be in force before a reboot says so aboard (`homeport_node/reboot.py`),
or in what it observes itself, when this step's turn comes. No reason, no reboot. One is announced
with its reasons, and is over when ssh answers with another boot id; the run then goes on over a new
connection. Of a trial of a kernel command line the boot menu must know first.

`--data reboot=never` names what waits at the end of the run, changes nothing that only a reboot
brings into force, and goes on. `--data reboot_timeout=SECONDS` (900) is how long the node may take.

It fails when no other boot answers in that time: the node may hang, or have lost its network.

Undo: there is none. Source: proc_sys_kernel(5), random/boot_id.
"""

import time
from collections.abc import Callable, Generator
from typing import Any

import pyinfra
from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, deploy, operation
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.vfio.facts import VfioState
from deploys.vfio.operations import named
from deploys.vfio.spec import Vfio
from homeport import connector, waiting
from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.observe import NodeFact
from homeport.refuse import refuse
from homeport.report import progress_line, said_line
from homeport.spec import fail
from homeport_node.reboot import BOOT_ID
from homeport_node.vfio import reboot_reasons

TIMEOUT = 900  # seconds
AFTER_TRIAL = 1200  # seconds besides, for the switch, the way down, and a slow firmware twice
PAUSE = 3.0  # seconds between two attempts to reach the node


class RebootState(NodeFact):
    """{"boot_id": "9f…", "reasons": {"kernel_cmdline": "the command line to be tried: iommu=pt"},
    "faults": {}}
    """

    stem = "reboot"


def patience(data: Any, otherwise: int = TIMEOUT) -> int:
    """Seconds that a reboot may take. Raises `SpecError` when the host data says nonsense."""
    given = str(data.get("reboot_timeout") or otherwise)
    if not given.isdecimal() or not 60 <= int(given) <= 7200:
        fail("--data reboot_timeout", given, "must be 60 to 7200 seconds")
    return int(given)


def _say(name: str, words: str) -> None:
    """Say it to who waits for the run."""
    pyinfra.logger.info(words)
    if connector.on_line is not None:
        connector.on_line(name, said_line(words))


def _attempt(machine: Host) -> str:
    """The boot id that the node answers with; "" with none. Raises what stands in the way."""
    client = getattr(machine.connector, "client", None)
    if client is not None:
        client.close()
    machine.connected = False
    machine.connect(show_errors=False, raise_exceptions=True)
    good, output = machine.run_shell_command(StringCommand("cat", str(BOOT_ID)))
    return output.stdout.strip() if good else ""


def wait(
    machine: Host,
    before: str,
    seconds: float,
    *,
    attempt: Callable[[Host], str] = _attempt,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """ "" when the node answers in another boot than `before`, connected anew.

    After `seconds`, what was found last and what to type.
    """
    began, last = clock(), "it has not gone down"
    while clock() - began < seconds:
        sleep(PAUSE)
        if connector.on_line is not None:
            line = progress_line("reboot", int(clock() - began), int(seconds), unit="s")
            connector.on_line(machine.name, line)
        try:
            now = attempt(machine)
            if now and now != before:
                return ""
            last = "it has not gone down"
        except Exception as error:  # noqa: BLE001  # a machine that boots answers in many ways
            last = f"{type(error).__name__}: {error}"
    address = f"{machine.data.ssh_user}@{machine.data.ssh_hostname}"
    return (
        f"{machine.name} did not come back within {seconds:g} s of its reboot ({last}): look at "
        f"its console, or try `ssh -p {machine.data.ssh_port} {address}`; then converge again"
    )


# pyinfra calls it in the host's own greenlet for the names of its first two arguments.
def _back(state: State, host: Host, before: str, seconds: int) -> bool:
    """Wait until the node is back in another boot."""
    began = time.monotonic()
    words = wait(host, before, seconds)
    if words:
        pyinfra.logger.error(words)
        setattr(host.connector, "lost", words)  # noqa: B010  # ours says by it why a run ended
        return False
    _say(host.name, f"{host.name}: is back after {time.monotonic() - began:.0f} s")
    return True


@operation()
def rebooted(may: bool, seconds: int, vfio: Vfio | None) -> Generator[Any, None, None]:
    """Reboot when something waits for it, and come back to the node."""
    observed: dict[str, Any] = host.get_fact(RebootState)
    reasons, faults = {**observed.get("reasons", {})}, observed.get("faults", {})
    if words := reboot_reasons(host.get_fact(VfioState, cards=named(vfio))):
        reasons["vfio"] = "; ".join(words)
    if not reasons:
        host.noop("nothing waits for a reboot")
        return
    if not may:
        for stem, why in reasons.items():
            waiting.waits(host.name, stem, why)
        host.noop("a reboot waits")
        return
    differs(
        Pair(f"{stem}: in force", f"waits for a reboot: {why}") for stem, why in reasons.items()
    )
    if faults:
        stem, why = next(iter(faults.items()))
        yield refuse(f"{stem}: {why}: the node was not rebooted", "converge again")
    why = "; ".join(f"{stem}: {words}" for stem, words in reasons.items())
    yield FunctionCommand(_say, (host.name, f"{host.name}: reboots, for {why}"), {})
    # From behind the connection, which would else break before it says how this went. Who holds a
    # lock on reboots, as apt does while it works, is waited for.
    yield StringCommand(
        "( sleep 1; for _ in $(seq 60); do systemctl reboot && break; sleep 5; done ) "
        "</dev/null >/dev/null 2>&1 &"
    )
    yield FunctionCommand(_back, (observed["boot_id"], seconds), {})


@deploy("Reboot")
def apply(data: Any, vfio: Vfio | None = None, trial_seconds: int = 0) -> None:
    """Reboot if anything waits for it; `data` is the host's, which may say never.

    A boot that is given up after `trial_seconds` is followed by another, which is waited for too.
    """
    seconds = patience(data, max(TIMEOUT, trial_seconds + AFTER_TRIAL))
    rebooted(name="Rebooted", may=waiting.may_reboot(data), seconds=seconds, vfio=vfio)


CAPABILITY = Capability(
    summary="one reboot for all that waits for it, after which the run goes on",
    proof="machine",
)
