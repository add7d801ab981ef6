"""The steps of a change: stage it for one boot, then keep what the node came up with."""

from collections.abc import Generator
from typing import Any

from jinja2 import Environment, StrictUndefined
from pyinfra import host
from pyinfra.api import StringCommand, operation

from deploys.kernel_cmdline.difference import (
    MODES,
    ROOT,
    SCRIPT_TEXT,
    Situation,
    default_words,
    in_force_words,
    own_text_for,
    situation,
    wanted_files,
    wanted_of,
)
from deploys.kernel_cmdline.spec import TRIAL_SECONDS, KernelCmdline
from homeport import own_files
from homeport.differs import Pair, differs
from homeport.observe import NodeFact, act
from homeport.refuse import refuse
from homeport.waiting import waits
from homeport_node.kernel_cmdline import SERVICE, TIMER
from homeport_node.kernel_cmdline_grub import SCRIPT

OWN = ROOT / "files/kernel_cmdline"
TIMER_TEMPLATE = ROOT / "templates/kernel_cmdline" / f"{TIMER}.j2"
CHANGEABLE = "a command line that can be changed"


class KernelCmdlineState(NodeFact):
    """{"loader": {"kind": "grub", "why": ""}, "cmdline": ["BOOT_IMAGE=…", …], "boot_id": "9f…",
    "files": {"/etc/grub.d/42_homeport": {"mode": "755", "uid": 0, "gid": 0, "sha256": "…",
    "link": None}}, "ours": [], "trial": None, "trial_files": [], "entry": ["root=…", "ro"],
    "marked": False, "fault": ""}
    """

    stem = "kernel_cmdline"


def obstacle(found: Situation, observed: dict[str, Any]) -> StringCommand | None:
    """Why the node's command line cannot be changed so; None when it can."""
    boot = observed["loader"]
    if not boot["kind"]:
        return refuse(
            f"cannot tell what the node boots by: {boot['why']}",
            "GRUB and Proxmox's systemd-boot are known: leave kernel_cmdline out, or name "
            "boot_loader under lacks in the targets file and set the parameters by hand",
            CHANGEABLE,
        )
    if found in ("to be tried", "fell back"):
        if observed["fault"]:
            return refuse(
                f"{observed['fault']}, so a command line that fails would boot for "
                "ever: nothing was changed",
                "set the parameters by hand, in /etc/default/grub, or move /boot to a partition "
                "of its own with ext4",
                CHANGEABLE,
            )
        if observed["entry"] is None:
            return refuse(
                "cannot tell which entry boots by default, and with what",
                "under GRUB, set GRUB_DEFAULT in /etc/default/grub to 0 or to an entry's id and "
                "run update-grub; under systemd-boot, see `bootctl list`",
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
        parameters=wanted_of(spec),
        seconds=seconds,
        timer=_timer(seconds),
        service=(OWN / SERVICE).read_text(),
    )


def _confirmed(spec: KernelCmdline | None, observed: dict[str, Any]) -> StringCommand:
    wanted = wanted_of(spec)
    words = " ".join(wanted) or "nothing of ours"
    differs([Pair(f"command line by default: {words}", "on trial, for this boot alone")])
    return act("kernel_cmdline", "confirm", parameters=wanted, own=own_text_for(spec, observed))


def _script(observed: dict[str, Any]) -> Generator[Any, None, None]:
    """What puts our script for GRUB's menu right: one that is not executable makes no entry."""
    path = str(SCRIPT)
    if own_files.changes({path: SCRIPT_TEXT}, observed.get("files", {}), MODES)[0]:
        yield from own_files.put(path, SCRIPT_TEXT, MODES[path])


@operation()
def tried(spec: KernelCmdline | None, may: bool) -> Generator[Any, None, None]:
    """Stage a new command line for the next boot; write down what is proven already.

    Unless the run `may` reboot nothing is staged: whoever reboots the node is not surprised. What
    an earlier run left on trial is confirmed here, before another reason to reboot undoes it.
    """
    observed: dict[str, Any] = host.get_fact(KernelCmdlineState, wanted=wanted_of(spec))
    found, wanted = situation(spec, observed), wanted_of(spec)
    if found in ("to be tried", "fell back", "staged") and not may:
        words = " ".join(wanted) or "nothing of ours"
        waits(host.name, KernelCmdline.STEM, f"the command line to be tried: {words}")
        host.noop("a command line waits to be tried")
        return
    if found in ("as wanted", "staged"):
        host.noop(f"the command line is {found}")
        return
    if found == "on trial":
        yield _confirmed(spec, observed)
        return
    stop = obstacle(found, observed)
    if found == "left over":
        paths = observed["trial_files"] or ["the boot menu"]
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
        if str(SCRIPT) in wanted_files(spec, observed):
            yield from _script(observed)
        yield act(
            "kernel_cmdline", "make_default", parameters=wanted, own=own_text_for(spec, observed)
        )
    else:
        if observed["loader"]["kind"] == "grub":
            yield from _script(observed)
        yield _staged(spec)


@operation()
def kept(spec: KernelCmdline | None, may: bool) -> Generator[StringCommand, None, None]:
    """Make the command line the default that the node has come up with; say when it has not."""
    observed: dict[str, Any] = host.get_fact(KernelCmdlineState, wanted=wanted_of(spec))
    found = situation(spec, observed)
    if found == "on trial":
        yield _confirmed(spec, observed)
    elif found == "fell back" and may:
        differs(in_force_words(spec, observed))
        yield act("kernel_cmdline", "fell_back", parameters=wanted_of(spec))
    else:
        host.noop("no command line is on trial")
