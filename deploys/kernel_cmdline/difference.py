"""How a node stands towards the wanted command line: from what is there alone."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from deploys.kernel_cmdline.spec import KernelCmdline
from homeport import own_files
from homeport.differs import Pair
from homeport_node.kernel_cmdline import LOADERS
from homeport_node.kernel_cmdline_grub import SCRIPT

HEADER = "# Managed by Homeport (kernel_cmdline). Changes are replaced by the next converge.\n"

ROOT = Path(__file__).resolve().parents[2]
SCRIPT_TEXT = (ROOT / "files/kernel_cmdline" / SCRIPT.name).read_text()
MODES = {str(SCRIPT): "755"}

Situation = Literal[
    "as wanted", "to be tried", "staged", "on trial", "fell back", "to be written", "left over"
]


def own_text(spec: KernelCmdline | None, kind: str) -> str:
    """Our file for a boot loader of this kind, "" for none: the parameters, each with its reason.

    GRUB's adds them; systemd-boot's says which of the one command line are ours.
    """
    if spec is None:
        return ""
    reasons = "".join(f"# {one.text}: {one.reason}\n" for one in spec.parameters)
    if kind == "systemd-boot":
        return f"{HEADER}{reasons}parameters: {' '.join(spec.texts)}\n"
    line = " ".join(["$GRUB_CMDLINE_LINUX_DEFAULT", *spec.texts])
    return f'{HEADER}{reasons}GRUB_CMDLINE_LINUX_DEFAULT="{line}"\n'


def own_text_for(spec: KernelCmdline | None, observed: dict[str, Any]) -> str:
    """Our file's text on the observed node."""
    return own_text(spec, observed["loader"]["kind"])


def wanted_of(spec: KernelCmdline | None) -> list[str]:
    """The parameters of `spec` as they stand on the command line."""
    return spec.texts if spec else []


def carries(wanted: list[str], observed: dict[str, Any], arguments: list[str]) -> bool:
    """Whether a command line has all that is `wanted`, and of ours no more.

    What somebody else put there as well is in the default entry besides ours, and may stay.
    """
    have, ours = Counter(arguments), Counter(observed.get("ours", ()))
    foreign = Counter(observed.get("entry") or ()) - ours
    return have >= Counter(wanted) and all(
        have[one] <= foreign[one] for one in known_of(observed) if one not in wanted
    )


def known_of(observed: dict[str, Any]) -> list[str]:
    """What is or was ours, on trial as well."""
    trial = observed.get("trial") or {}
    return [*observed.get("ours", ()), *trial.get("parameters", ()), *trial.get("known", ())]


def wanted_files(spec: KernelCmdline | None, observed: dict[str, Any]) -> dict[str, str]:
    """{path: text} of our files but those of a trial; the script, where one has left it."""
    if spec is None:
        return {}
    own = str(LOADERS[observed["loader"]["kind"] or "grub"].OWN)
    script = {str(SCRIPT): SCRIPT_TEXT} if str(SCRIPT) in observed.get("files", {}) else {}
    return {own: own_text_for(spec, observed), **script}


def by_default(spec: KernelCmdline | None, observed: dict[str, Any]) -> bool:
    """Whether every boot will be as `spec` says."""
    changes = own_files.changes(wanted_files(spec, observed), observed.get("files", {}), MODES)
    return not any(changes) and carries(wanted_of(spec), observed, observed.get("entry") or [])


def situation(spec: KernelCmdline | None, observed: dict[str, Any]) -> Situation:
    """How the node stands towards `spec`, by what is there alone."""
    wanted, trial = wanted_of(spec), observed.get("trial") or {}
    if spec is None and not observed.get("files", {}) and not observed.get("trial_files"):
        return "as wanted"
    same = trial.get("parameters") == wanted
    if same and f"homeport.trial={trial.get('id')}" in observed["cmdline"]:
        return "on trial"
    if carries(wanted, observed, observed["cmdline"]):
        if not by_default(spec, observed):
            return "to be written"
        left = observed.get("trial_files") or observed.get("marked")
        return "left over" if left else "as wanted"
    if same and trial.get("boot_id") != observed["boot_id"]:
        return "fell back"
    return "staged" if same and observed.get("marked") else "to be tried"


def in_force_words(spec: KernelCmdline | None, observed: dict[str, Any]) -> Iterator[Pair]:
    """The command line in force, as far as it is or was ours to say."""
    wanted = wanted_of(spec)
    there = [
        one for one in dict.fromkeys([*wanted, *known_of(observed)]) if one in observed["cmdline"]
    ]
    yield Pair(
        f"command line in force: {' '.join(wanted) or 'nothing of ours'}",
        " ".join(there) or "none of these",
    )


def default_words(spec: KernelCmdline | None, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of what makes every boot as wanted."""
    wanted, entry = wanted_of(spec), observed.get("entry") or []
    yield from own_files.words(wanted_files(spec, observed), observed.get("files", {}), MODES)
    if not carries(wanted, observed, entry):
        lacking = " ".join((Counter(wanted) - Counter(entry)).elements())
        more = " ".join(one for one in observed.get("ours", ()) if one not in wanted)
        yield Pair(
            f"default boot entry: {' '.join(wanted) or 'nothing of ours'}",
            f"without {lacking}" if lacking else f"with {more}",
        )
