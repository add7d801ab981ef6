"""Lock-up recovery: a kernel that panics or hangs restarts, and what it cannot, a watchdog does.

Sysctls, in a file of ours and in force: after a panic the kernel restarts in `panic_seconds`; an
oops is a panic, and so is a processor that answers no interrupt for 10 seconds (a hard lock-up),
which the NMI watchdog finds. `nmi_watchdog=1` alone, as a parameter or a sysctl, restarts nothing.
A task that keeps a processor for 20 seconds (a soft lock-up) may end by itself: an option.

Where the processor counts no events, as in many virtual machines, the kernel refuses
`kernel.nmi_watchdog`: that is said, and is not an error. A wedged bus may keep NMIs away too. For
both there is the hardware watchdog, which `watchdog_seconds` gives to systemd: it restarts a
machine whose process 1 has not answered for so long. `watchdog_module` is its driver. A unit of
ours loads it by name: distributions blacklist all of them, which /etc/modules-load.d heeds; and it
tells systemd, which looks for the device when it starts and not later.

Proxmox keeps the watchdog itself (watchdog-mux): there it is refused, its own `WATCHDOG_MODULE` in
/etc/default/pve-ha-manager is the way. It fails when there is no device after all.

Undo: `lockup_recovery = None` gives back the values that were in force before, and closes the
watchdog. Sources: Documentation/admin-guide/sysctl/kernel.rst and lockup-watchdogs.rst,
systemd-system.conf(5), org.freedesktop.systemd1(5), systemd pull request 8830 and issue 17838.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from jinja2 import Environment, StrictUndefined
from pyinfra import host
from pyinfra.api import deploy, operation

from homeport import own_files
from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.observe import NodeFact, act
from homeport.refuse import refuse
from homeport.spec import Spec
from homeport_node.lockup_recovery import UNIT

HEADER = "# Managed by Homeport (lockup_recovery). Changes are replaced by the next converge.\n"
SYSCTL_FILE = "/etc/sysctl.d/90-homeport-lockup-recovery.conf"
CONF_FILE = "/etc/systemd/system.conf.d/homeport-lockup-recovery.conf"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
OWN_FILES = (SYSCTL_FILE, CONF_FILE, UNIT_FILE)
TEMPLATE = Path(__file__).resolve().parent.parent / "templates/lockup_recovery" / f"{UNIT}.j2"
MODULE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,55}")


@dataclass(frozen=True, kw_only=True, slots=True)
class LockupRecovery(Spec):
    """`panic_seconds` from a panic to the restart; what counts as one; the hardware watchdog.

    `watchdog_seconds` is how long process 1 may be silent, None for no watchdog. `watchdog_module`
    is its driver ("iTCO_wdt" for Intel, "sp5100_tco" for AMD, "i6300esb" for QEMU), None where it
    is there by itself.
    """

    STEM = "lockup_recovery"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"kernel"})

    panic_seconds: int = 10
    on_oops: bool = True
    on_soft_lockup: bool = False
    watchdog_seconds: int | None = None
    watchdog_module: str | None = None

    def validate(self) -> None:
        self.require(
            "panic_seconds",
            1 <= self.panic_seconds <= 600,
            "must be 1 to 600 seconds: after 0 the kernel would wait for ever",
        )
        self.require(
            "watchdog_seconds",
            self.watchdog_seconds is None or 10 <= self.watchdog_seconds <= 600,
            "must be 10 to 600 seconds, which the common devices can count, or None",
        )
        self.require(
            "watchdog_module",
            self.watchdog_module is None or MODULE.fullmatch(self.watchdog_module) is not None,
            "must be the name of a kernel module, such as 'iTCO_wdt'",
        )
        self.require(
            "watchdog_module",
            self.watchdog_module is None or self.watchdog_seconds is not None,
            "must come with watchdog_seconds: a driver alone restarts nothing",
        )
        self.require(
            "watchdog_module",
            self.watchdog_module != "softdog",
            "must be hardware: softdog is a timer of the kernel, and hangs with it",
        )

    @property
    def sysctls(self) -> dict[str, str]:
        """What is to be in force, by name."""
        wanted = {
            "kernel.panic": str(self.panic_seconds),
            "kernel.nmi_watchdog": "1",
            "kernel.hardlockup_panic": "1",
        }
        if self.on_oops:
            wanted["kernel.panic_on_oops"] = "1"
        if self.on_soft_lockup:
            wanted["kernel.softlockup_panic"] = "1"
        return wanted


class LockupRecoveryState(NodeFact):
    """{"files": {path: {"mode": "644", "uid": 0, "gid": 0, "sha256": "…", "link": None}},
    "sysctls": {"kernel.panic": "0"}, "refused": [], "record": False, "left": {},
    "watchdogs": ["i6300ESB timer"], "module": True, "held": False, "seconds": 0,
    "enabled": False, "dropins": [], "mux": False}
    """

    stem = "lockup_recovery"


def wanted_files(spec: LockupRecovery) -> dict[str, str]:
    """{path: text} of our files."""
    # "-": what the machine cannot do is no failure of systemd-sysctl.
    lines = [f"-{name} = {value}\n" for name, value in spec.sysctls.items()]
    wanted = {SYSCTL_FILE: HEADER + "".join(lines)}
    if spec.watchdog_seconds is not None:
        environment = Environment(
            undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True
        )
        seconds, module = spec.watchdog_seconds, spec.watchdog_module
        text = environment.from_string(TEMPLATE.read_text()).render(seconds=seconds, module=module)
        wanted[CONF_FILE] = f"{HEADER}[Manager]\nRuntimeWatchdogSec={seconds}\n"
        wanted[UNIT_FILE] = text
    return wanted


def sysctl_changes(spec: LockupRecovery, observed: dict[str, Any]) -> dict[str, str]:
    """What to put into force: not what the kernel has no word for, or refused."""
    there = observed.get("sysctls", {})
    return {
        name: value
        for name, value in spec.sysctls.items()
        if there.get(name) not in (None, value) and name not in observed.get("refused", ())
    }


def is_held(spec: LockupRecovery, observed: dict[str, Any]) -> bool:
    """Whether systemd holds the watchdog, and for as long as `spec` says."""
    held = observed.get("held") and observed.get("seconds") == spec.watchdog_seconds
    return bool(held and observed.get("enabled"))


def watchdog_words(spec: LockupRecovery, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the watchdog."""
    if is_held(spec, observed):
        return
    there = f"held, {observed.get('seconds')} s" if observed.get("held") else "not held by systemd"
    if not observed.get("enabled"):
        there += f", {UNIT} not enabled"
    yield Pair(f"watchdog: held by systemd, {spec.watchdog_seconds} s, at every boot", there)


def _observed(spec: LockupRecovery | None) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(
        LockupRecoveryState,
        files=[*OWN_FILES],
        sysctls=[*spec.sysctls] if spec else [],
        module=(spec.watchdog_module or "") if spec else "",
    )
    return state


@operation()
def sysctls(spec: LockupRecovery) -> Generator[Any, None, None]:
    """Have the kernel restart after a panic and a hard lock-up."""
    observed = _observed(spec)
    changes = sysctl_changes(spec, observed)
    wanted = {SYSCTL_FILE: wanted_files(spec)[SYSCTL_FILE]}
    found = observed.get("files", {})
    write, _ = own_files.changes(wanted, found)
    differs(own_files.otherwise(wanted, found))
    there, left = observed.get("sysctls", {}), observed.get("left", {})
    differs(Pair(f"{name} = {value}", f"{there[name]}") for name, value in changes.items())
    differs(Pair(f"{name}: as before Homeport ({value})", "ours") for name, value in left.items())
    if left:
        yield act("lockup_recovery", "give_back", names=[*left])
    if changes:
        yield act("lockup_recovery", "set_sysctls", values=changes)
    for path, text in write.items():
        yield from own_files.put(path, text)
    if not write and not changes and not left:
        host.noop("the kernel restarts after a panic as wanted")


@operation()
def watchdog(spec: LockupRecovery) -> Generator[Any, None, None]:
    """Have systemd hold the hardware watchdog."""
    observed = _observed(spec)
    wanted, found = wanted_files(spec), observed.get("files", {})
    del wanted[SYSCTL_FILE]
    write, _ = own_files.changes(wanted, found)
    foreign = own_files.foreign_dropins(UNIT, observed.get("dropins", ()))
    if not write and is_held(spec, observed):
        yield from foreign
        if not foreign:
            host.noop(f"systemd holds the watchdog: {', '.join(observed.get('watchdogs', ()))}")
        return
    differs(own_files.otherwise(wanted, found))
    differs(watchdog_words(spec, observed))
    if observed.get("mux"):
        yield refuse(
            "Proxmox's watchdog-mux holds the watchdog, and one device has one keeper",
            "name the driver as WATCHDOG_MODULE in /etc/default/pve-ha-manager, and leave "
            "lockup_recovery.watchdog_seconds out",
        )
    for path, text in write.items():
        yield from own_files.put(path, text)
    yield act("lockup_recovery", "hold", module=spec.watchdog_module or "")
    yield from foreign


@operation()
def no_watchdog() -> Generator[Any, None, None]:
    """Have systemd let go of the watchdog that we gave it."""
    found = _observed(None).get("files", {})
    ours = [path for path in (CONF_FILE, UNIT_FILE) if path in found]
    if not ours:
        host.noop("systemd holds no watchdog for us")
        return
    differs(own_files.no_longer(ours))
    yield act("lockup_recovery", "let_go", file=UNIT_FILE, conf=CONF_FILE)


@operation()
def no_sysctls() -> Generator[Any, None, None]:
    """Give back the sysctls that were in force before ours."""
    observed = _observed(None)
    there = SYSCTL_FILE in observed.get("files", {})
    if not there and not observed.get("record"):
        host.noop("no sysctl is ours")
        return
    what = "a file of ours" if there else "not there; its values were not given back"
    differs([Pair(f"{SYSCTL_FILE}: no such file", what)])
    yield act("lockup_recovery", "restore", file=SYSCTL_FILE)


@deploy("Lock-up recovery")
def apply(spec: LockupRecovery | None) -> None:
    """Have the node restart by itself when it hangs, as `spec` says; None takes that back."""
    if spec is None:
        no_sysctls(name="No sysctl of ours")
    else:
        sysctls(name="Restart after a panic", spec=spec)
    if spec is None or spec.watchdog_seconds is None:
        no_watchdog(name="No watchdog of ours")
    else:
        watchdog(name="Hardware watchdog", spec=spec)


CAPABILITY = Capability(
    summary="a kernel that panics or hangs restarts by itself, by a hardware watchdog if need be",
    proof="machine",
    unproven="a hard lock-up that the kernel detects by itself: the lab has no counter for it",
)
