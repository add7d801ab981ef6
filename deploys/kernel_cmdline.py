"""Kernel command line: parameters with their reasons, each change tried before it counts.

The boot loader is told by its own traces, and only GRUB is changed. The parameters are the last in
`GRUB_CMDLINE_LINUX_DEFAULT`, by a drop-in of ours; all others stay. A change first boots **once**:
an entry made of the default one (same kernel, same initrd) that `grub-reboot` marks for the next
boot alone. It becomes the default when this run has reached the node again, the parameters are in
force, no unit failed that had not before, and the default route is back. Else the old entry is
back unattended:

- a panic, or a root that is not found, restarts the kernel (`panic=30`, on trial alone);
- `trial_seconds` after the kernel began, a systemd timer reboots a node that nobody confirmed;
- two minutes later a switch does what a user space that hangs, or never began, cannot: a process
  that a second initrd starts, early in the initramfs, asks the kernel for a reset. The
  initramfs-tools of Debian and Ubuntu read it; where dracut made the initramfs there is none, and
  the run says so.

A kernel that hangs before it starts the initramfs is helped by a hardware watchdog alone.

Refused: a node whose boot loader cannot be told, or is not GRUB; a change where GRUB cannot clear
its own mark (/boot/grub on LVM, RAID, Btrfs or ZFS): a bad entry would boot for ever. It fails
when the node went back, or is worse than before.

What parameters do: the IOMMU of AMD is on by itself (`amd_iommu=on` is no documented value);
Intel's is from Linux 6.8. `pcie_aspm=off` leaves ASPM as the firmware set it; `pci=noaer` ends the
handling of errors, not its noise alone; `nmi_watchdog=1` restarts nothing: see `lockup_recovery`.

Undo: `kernel_cmdline = None`, by the same way: a trial without them.
Sources: GRUB's manual ("The GRUB environment block"), 00_header and 41_custom, initramfs-tools(7),
Documentation/admin-guide/kernel-parameters.txt, driver-api/early-userspace/buffer-format.rst.
"""

import re
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jinja2 import Environment, StrictUndefined
from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.operations import files

from deploys.reboot import allowed
from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.observe import NodeFact, act
from homeport.refuse import refuse
from homeport.spec import Spec
from homeport.waiting import waits
from homeport_node.kernel_cmdline import DROP_IN, SCRIPT, SERVICE, TIMER
from homeport_node.kernel_cmdline_grub import BLOCK, CFG, ENTRY_ID

ROOT = Path(__file__).resolve().parent.parent
OWN = ROOT / "files/kernel_cmdline"
TIMER_TEMPLATE = ROOT / "templates/kernel_cmdline" / f"{TIMER}.j2"
HEADER = "# Managed by Homeport (kernel_cmdline). Changes are replaced by the next converge.\n"

# What passes unchanged through the shell that reads the drop-in, and through GRUB's own language.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
VALUE = re.compile(r"[A-Za-z0-9_.,:/+@%=-]*")
TRIAL_SECONDS = 300
CHANGEABLE = "a command line that can be changed"

# They decide what is booted, and by whom: not what the kernel does.
FORBIDDEN = ("root", "ro", "rw", "init", "rdinit", "initrd", "BOOT_IMAGE", "systemd.unit")
# They may stand there more than once: each adds to the one before.
REPEATED = ("console", "earlycon", "hugepages", "hugepagesz", "memmap", "module_blacklist")

Situation = Literal[
    "as wanted", "to be tried", "staged", "on trial", "fell back", "to be written", "left over"
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter(Spec):
    """One parameter: `name` alone, or `name=value`; `reason` says in a line what it is for."""

    STEM = "kernel_cmdline.parameters"

    name: str
    value: str | None = None
    reason: str

    def validate(self) -> None:
        self.require(
            "name",
            NAME.fullmatch(self.name) is not None,
            "must be letters, digits, '_', '.' and '-': a shell and GRUB read it too",
        )
        plain = self.name.replace("-", "_")
        self.require(
            "name",
            plain not in FORBIDDEN and not plain.startswith("homeport."),
            "must not be one that decides what is booted: "
            f"{', '.join(FORBIDDEN)} and homeport.* are not for an inventory",
        )
        self.require(
            "value",
            self.value is None or VALUE.fullmatch(self.value) is not None,
            "must be letters, digits and _.,:/+@%=- only: a shell and GRUB read it too",
        )
        self.require(
            "value",
            (plain, self.value) != ("amd_iommu", "on"),
            "must not be given: it is no documented value, the IOMMU of AMD is on by itself; "
            "iommu=pt is what passthrough is asked for with",
        )
        self.require(
            "reason",
            bool(self.reason.strip()) and self.reason.isprintable(),
            "must say in one line why the parameter is there",
        )

    @property
    def text(self) -> str:
        """The parameter as it stands on the command line."""
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelCmdline(Spec):
    """The parameters, in this order; `trial_seconds` for a new command line to be confirmed in.

    They count from the start of the kernel, and must be enough for the node's slowest boot.
    """

    STEM = "kernel_cmdline"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"boot_loader", "kernel"})

    parameters: tuple[Parameter, ...]
    trial_seconds: int = TRIAL_SECONDS

    def validate(self) -> None:
        self.require("parameters", bool(self.parameters), "must name one, or be left out: None")
        seen: list[str] = []
        for one in self.parameters:
            name = one.name.replace("-", "_")
            twice = one.text in self.texts[: len(seen)]
            twice |= name in seen and name not in REPEATED
            self.require("parameters", not twice, f"must not hold {one.name} twice")
            seen.append(name)
        self.require(
            "trial_seconds",
            120 <= self.trial_seconds <= 3600,
            "must be 120 to 3600 seconds: a boot needs time, and somebody waits for the end of it",
        )

    @property
    def texts(self) -> list[str]:
        """The parameters as they stand on the command line."""
        return [one.text for one in self.parameters]


class KernelCmdlineState(NodeFact):
    """{"loader": {"kind": "grub", "why": ""}, "cmdline": ["BOOT_IMAGE=…", …], "boot_id": "9f…",
    "kernel": "6.12.48+deb13-amd64", "drop_in": None, "ours": [], "script": None,
    "entry": ["root=…", "ro"], "trial": None, "trial_files": [], "next_entry": "",
    "environment_fault": ""}
    """

    stem = "kernel_cmdline"


def drop_in_text(spec: KernelCmdline | None) -> str:
    """The drop-in that adds the parameters, "" for none; each with its reason."""
    if spec is None:
        return ""
    reasons = "".join(f"# {one.text}: {one.reason}\n" for one in spec.parameters)
    line = " ".join(["$GRUB_CMDLINE_LINUX_DEFAULT", *spec.texts])
    return f'{HEADER}{reasons}GRUB_CMDLINE_LINUX_DEFAULT="{line}"\n'


def _wanted(spec: KernelCmdline | None) -> list[str]:
    return spec.texts if spec else []


def carries(wanted: list[str], observed: dict[str, Any], arguments: list[str]) -> bool:
    """Whether a command line has all that is `wanted`, and of ours no more.

    What somebody else put there as well is in the default entry besides ours, and may stay.
    """
    have, ours = Counter(arguments), Counter(observed.get("ours", ()))
    foreign = Counter(observed.get("entry") or ()) - ours
    dropped = ours.keys() - set(wanted)
    return have >= Counter(wanted) and all(have[one] <= foreign[one] for one in dropped)


def by_default(spec: KernelCmdline | None, observed: dict[str, Any]) -> bool:
    """Whether every boot will be as `spec` says."""
    same = (observed.get("drop_in") or "") == drop_in_text(spec)
    kept = spec is not None or observed.get("script") is None
    return same and kept and carries(_wanted(spec), observed, observed.get("entry") or [])


def situation(spec: KernelCmdline | None, observed: dict[str, Any]) -> Situation:
    """How the node stands towards `spec`, by what is there alone."""
    wanted, trial = _wanted(spec), observed.get("trial") or {}
    files_there = any(observed.get(name) is not None for name in ("drop_in", "script"))
    if spec is None and not files_there and not observed.get("trial_files"):
        return "as wanted"
    same = trial.get("parameters") == wanted
    if same and f"homeport.trial={trial.get('id')}" in observed["cmdline"]:
        return "on trial"
    if carries(wanted, observed, observed["cmdline"]):
        if not by_default(spec, observed):
            return "to be written"
        left = observed.get("trial_files") or observed.get("next_entry") == ENTRY_ID
        return "left over" if left else "as wanted"
    if same and trial.get("boot_id") != observed["boot_id"]:
        return "fell back"
    return "staged" if same and observed.get("next_entry") == ENTRY_ID else "to be tried"


def in_force_words(spec: KernelCmdline | None, observed: dict[str, Any]) -> Iterator[Pair]:
    """The command line in force, as far as it is or was ours to say."""
    wanted = _wanted(spec)
    known = [*wanted, *(one for one in observed.get("ours", ()) if one not in wanted)]
    there = [one for one in known if one in observed["cmdline"]]
    yield Pair(
        f"command line in force: {' '.join(wanted) or 'nothing of ours'}",
        " ".join(there) or "none of these",
    )


def default_words(spec: KernelCmdline | None, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of what makes every boot as wanted."""
    wanted, entry = _wanted(spec), observed.get("entry") or []
    if (observed.get("drop_in") or "") != drop_in_text(spec):
        there = "no such file" if observed.get("drop_in") is None else "another content"
        yield Pair(f"{DROP_IN}: {' '.join(wanted) or 'no such file'}", there)
    if spec is None and observed.get("script") is not None:
        yield Pair(f"{SCRIPT}: no such file", "a file of ours")
    if not carries(wanted, observed, entry):
        lacking = " ".join((Counter(wanted) - Counter(entry)).elements())
        more = " ".join(one for one in observed.get("ours", ()) if one not in wanted)
        yield Pair(
            f"{CFG}: default entry with {' '.join(wanted) or 'nothing of ours'}",
            f"without {lacking}" if lacking else f"with {more}",
        )


def obstacle(found: Situation, observed: dict[str, Any]) -> StringCommand | None:
    """Why the node's command line cannot be changed so; None when it can."""
    boot = observed["loader"]
    if boot["kind"] != "grub":
        known = f"it boots by {boot['kind']}" if boot["kind"] else "cannot tell what it boots by"
        return refuse(
            f"{known}: {boot['why']}",
            "only GRUB's command line is changed: leave kernel_cmdline out, or name boot_loader "
            "under lacks in the targets file and set the parameters by hand",
            CHANGEABLE,
        )
    if found in ("to be tried", "fell back"):
        if observed["environment_fault"]:
            return refuse(
                f"{observed['environment_fault']}, so a command line that fails would boot for "
                "ever: nothing was changed",
                "set the parameters by hand, in /etc/default/grub, or move /boot to a partition "
                "of its own with ext4",
                CHANGEABLE,
            )
        if observed["entry"] is None:
            return refuse(
                f"cannot tell which entry of {CFG} boots by default",
                "set GRUB_DEFAULT in /etc/default/grub to 0 or to an entry's id, run update-grub",
                CHANGEABLE,
            )
    return None


def _timer(seconds: int) -> str:
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TIMER_TEMPLATE.read_text()).render(seconds=seconds)


def _staged(spec: KernelCmdline | None) -> StringCommand:
    seconds = spec.trial_seconds if spec else TRIAL_SECONDS
    return act(
        "kernel_cmdline",
        "stage",
        parameters=_wanted(spec),
        seconds=seconds,
        timer=_timer(seconds),
        service=(OWN / SERVICE).read_text(),
    )


@operation()
def tried(spec: KernelCmdline | None, may: bool) -> Generator[Any, None, None]:
    """Stage a new command line for the next boot; write down what is proven already.

    Unless the run `may` reboot nothing is staged: whoever reboots the node is not surprised.
    """
    observed: dict[str, Any] = host.get_fact(KernelCmdlineState, wanted=spec is not None)
    found, wanted = situation(spec, observed), _wanted(spec)
    if found in ("to be tried", "fell back", "staged") and not may:
        words = " ".join(wanted) or "nothing of ours"
        waits(host.name, KernelCmdline.STEM, f"the command line to be tried: {words}")
        host.noop("a command line waits to be tried")
        return
    if found in ("as wanted", "staged", "on trial"):
        host.noop(f"the command line is {found}")
        return
    stop = obstacle(found, observed)
    if found == "left over":
        paths = observed["trial_files"] or [f"{BLOCK}: next_entry"]
        differs(Pair(f"{path}: nothing of a trial", "left of one") for path in paths)
    else:
        pairs = default_words if found == "to be written" else in_force_words
        differs(pairs(spec, observed))
    if stop:
        yield stop
        return
    if found == "left over":
        yield act("kernel_cmdline", "withdraw")
    elif found == "to be written":
        yield act("kernel_cmdline", "make_default", parameters=wanted, drop_in=drop_in_text(spec))
    else:
        script = OWN / SCRIPT.name
        if observed["script"] != script.read_text():
            yield from files.put._inner(src=str(script), dest=str(SCRIPT), user="root", mode="755")
        yield _staged(spec)


@operation()
def kept(spec: KernelCmdline | None, may: bool) -> Generator[StringCommand, None, None]:
    """Make the command line the default that the node has come up with; say when it has not."""
    observed: dict[str, Any] = host.get_fact(KernelCmdlineState, wanted=spec is not None)
    found, wanted = situation(spec, observed), _wanted(spec)
    if found == "on trial":
        words = " ".join(wanted) or "nothing of ours"
        differs([Pair(f"command line by default: {words}", "on trial, for this boot alone")])
        yield act("kernel_cmdline", "confirm", parameters=wanted, drop_in=drop_in_text(spec))
    elif found == "fell back" and may:
        differs(in_force_words(spec, observed))
        yield act("kernel_cmdline", "fell_back", parameters=wanted)
    else:
        host.noop("no command line is on trial")


@deploy("Kernel command line")
def apply(spec: KernelCmdline | None, data: Any) -> None:
    """Have the next boot be made with the parameters of `spec`, on trial; None takes ours away."""
    tried(name="Command line tried", spec=spec, may=allowed(data))


@deploy("Kernel command line")
def confirm(spec: KernelCmdline | None, data: Any) -> None:
    """After the reboot: keep what is on trial, or say that the node went back."""
    kept(name="Command line kept", spec=spec, may=allowed(data))


CAPABILITY = Capability(
    summary="kernel parameters, each tried for one boot before it becomes the default",
    proof="unit",
    unproven="a boot: no kernel was started by these tests",
)
