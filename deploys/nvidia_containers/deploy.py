"""The difference, the operations, and `apply`."""

import shlex
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from deploys.nvidia.facts import NvidiaState
from deploys.nvidia_containers.facts import ToolkitState
from deploys.nvidia_containers.spec import PACKAGES, NvidiaContainers, repository
from homeport import apt, own_files
from homeport.differs import Pair, differs, listed
from homeport.observe import act
from homeport.pins import Gpu
from homeport.targets import Target
from homeport.waiting import may_reboot, waits
from homeport_node.apt_key import LISTS
from homeport_node.common import CDI_UNIT as UNIT
from homeport_node.common import CDI_UNIT_FILE as UNIT_FILE
from homeport_node.nvidia import reboot_reasons
from homeport_node.nvidia_containers import KEYRING, UVM

FILES = Path(__file__).resolve().parents[2] / "files/nvidia_containers"
LIST_FILE = str(LISTS / "homeport-nvidia-container-toolkit.list")
HEADER = "# Managed by Homeport (nvidia_containers). Changes are replaced by the next converge.\n"

Commands = Generator[Any, None, None]


def list_text(address: str) -> str:
    """apt's list for the repository at `address`; $(ARCH) is apt's to fill in."""
    return f"{HEADER}deb [signed-by={KEYRING}] {address}/stable/deb/$(ARCH) /\n"


def unit_text() -> str:
    """The unit that describes the GPUs before Docker starts."""
    return (FILES / UNIT).read_text()


def _differs(path: str, text: str, observed: dict[str, Any]) -> list[Pair]:
    """The words for a file of ours that is not `text`; nothing where it is."""
    return [*own_files.otherwise({path: text}, observed.get("files", {}))]


def key_words(fingerprint: str, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the repository's key."""
    found = observed.get("key", [])
    if found != [fingerprint]:
        nothing = "nothing that is a key" if observed.get("keyring") else "no such file"
        yield Pair(f"{KEYRING}: the key {fingerprint} alone", " and ".join(found) or nothing)


def undescribed(gpus: tuple[Gpu, ...], observed: dict[str, Any]) -> list[Pair]:
    """What differs of the description of the GPUs."""
    devices = observed.get("devices", [])
    found = [
        Pair(f"CDI: the GPU {gpu.handle} ({gpu.uuid})", "not described")
        for gpu in gpus
        if gpu.uuid not in devices
    ]
    if devices and not observed.get("uvm"):
        found.append(Pair(f"CDI: {UVM}, which CUDA needs", "not described"))
    gone = observed.get("gone", [])
    return [*found, *([Pair("CDI: only what is there", f"no {listed(gone)}")] if gone else [])]


def unit_steps(observed: dict[str, Any], text: str) -> list[tuple[str, Pair]]:
    """(command, words) for all that keeps systemd from describing the GPUs at boot."""
    unit = observed.get("unit", {})
    steps = []
    if unit.get("stale") or _differs(UNIT_FILE, text, observed):
        loaded = Pair(f"{UNIT}: loaded as on the disk", "an older one is loaded, or none")
        steps.append(("systemctl daemon-reload", loaded))
    if not unit.get("enabled"):
        steps.append((f"systemctl enable {UNIT}", Pair(f"{UNIT}: enabled", "not enabled")))
    return steps


def _observed(address: str) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(
        ToolkitState,
        repository=address,
        packages=[*PACKAGES],
        files=[LIST_FILE, UNIT_FILE],
        own_list=LIST_FILE,
    )
    return state


@operation()
def repository_known(address: str, fingerprint: str) -> Commands:
    """Have apt know the toolkit's repository, by a key with this fingerprint."""
    observed = _observed(address)
    others = observed.get("other_lists", [])
    if others:
        yield apt.named_twice(address, LIST_FILE, others)
        return
    key = list(key_words(fingerprint, observed))
    text = list_text(address)
    entry = _differs(LIST_FILE, text, observed)
    differs([*key, *entry])
    if key:
        # The key first: a list without one would end every apt of the node.
        url = f"{address}/gpgkey"
        yield act("apt_key", "fetch", url=url, fingerprint=fingerprint, keyring=KEYRING)
    if entry:
        yield from own_files.put(LIST_FILE, text)
    if not key and not entry:
        host.noop("apt knows the toolkit's repository")


@operation()
def packages(spec: NvidiaContainers, address: str) -> Commands:
    """Install the toolkit in the pinned version, and hold it."""
    state = host.get_fact(apt.AptState)
    loose = [name for name in PACKAGES if name not in _observed(address).get("held", [])]
    command = apt.install_command(spec.pins, state)
    there = state.get("installed", {})
    differs(
        Pair(f"package {name} {spec.version}", there.get(name, "not installed"))
        for name in PACKAGES
        if there.get(name) != spec.version
    )
    differs(Pair(f"package {name}: held", "not held") for name in loose)
    if command:
        yield StringCommand(command)
    if loose:
        yield StringCommand(f"apt-mark hold {shlex.join(loose)}")
    if not command and not loose:
        host.noop(f"NVIDIA's container toolkit is {spec.version}, and held")


@operation()
def described(gpus: tuple[Gpu, ...], address: str, deferred: bool = False) -> Commands:
    """Have every GPU of the inventory described for containers, now and before Docker at boot.

    `deferred`: the reboot that the driver may wait for is put off; the unit describes them then.
    """
    observed = _observed(address)
    text = unit_text()
    entry, steps = _differs(UNIT_FILE, text, observed), unit_steps(observed, text)
    lacking = undescribed(gpus, observed)
    inactive = not observed.get("unit", {}).get("active")
    anew = bool(entry or lacking or inactive)  # a unit of another text describes otherwise
    reasons = reboot_reasons(host.get_fact(NvidiaState)) if anew and deferred else []
    if reasons:
        waits(host.name, NvidiaContainers.STEM, "; ".join(reasons))
        anew, lacking, inactive = False, [], False
    differs([*entry, *(words for _, words in steps), *lacking])
    if inactive and not lacking:
        differs([Pair(f"{UNIT}: active", "not active")])
    if entry:
        yield from own_files.put(UNIT_FILE, text)
    for command, _ in steps:
        yield StringCommand(command)
    if anew:
        yield act("nvidia_containers", "describe", gpus=[gpu.uuid for gpu in gpus])
    foreign = own_files.foreign_dropins(UNIT, observed.get("unit", {}).get("dropins", ()))
    yield from foreign
    if not (entry or steps or anew or foreign):
        host.noop("a reboot waits" if reasons else "every GPU of the inventory is described")


@operation()
def removed() -> Commands:
    """Take back what this capability put on the node; the packages stay, no longer held."""
    observed = _observed("")
    paths = [*observed.get("files", {}), *([KEYRING] if observed.get("keyring") else [])]
    if not paths:
        host.noop("there is nothing of ours")
        return
    differs(own_files.no_longer(paths))
    # By our files it is known that the hold is ours: so it goes before them.
    held = observed.get("held", [])
    differs(Pair(f"package {name}: not held", "held") for name in held)
    if held:
        yield StringCommand(f"apt-mark unhold {shlex.join(held)}")
    if UNIT_FILE in paths:
        yield StringCommand(f"systemctl disable --now {UNIT}")
    yield StringCommand(f"rm -f {shlex.join(paths)}")
    if UNIT_FILE in paths:
        yield StringCommand("systemctl daemon-reload")


@deploy("GPUs for containers")
def apply(spec: NvidiaContainers | None, gpus: tuple[Gpu, ...], target: Target, data: Any) -> None:
    """Have `gpus` ready to be handed to containers; None takes it back. To be called before Docker
    is installed: Docker looks for what the toolkit brings when it starts; and after a reboot, which
    a run with this host `data` may have put off."""
    if spec is None:
        removed(name="No GPUs for containers by us")
        return
    address, fingerprint = repository(target.sources)
    repository_known(name="Toolkit's repository", address=address, fingerprint=fingerprint)
    packages(name="Toolkit's packages", spec=spec, address=address)
    deferred = not may_reboot(data)
    described(name="GPUs described", gpus=gpus, address=address, deferred=deferred)
