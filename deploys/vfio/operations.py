"""The operations: what reserves the cards, the proof that they are given, the way back."""

from collections.abc import Generator, Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from deploys.vfio.difference import (
    MODES,
    image_words,
    images_to_make,
    impossible,
    stale_words,
    wanted_files,
    wrong_owners,
)
from deploys.vfio.facts import VfioState
from deploys.vfio.spec import Vfio
from homeport import own_files
from homeport.differs import Pair, differs
from homeport.observe import act
from homeport.refuse import refuse
from homeport_node.vfio import CARDS, DRIVER, EARLY, FOLDER, UNIT, UNIT_FILE, reboot_reasons


def named(spec: Vfio | None) -> list[Any]:
    """What the fact is asked about: the same for all who ask, so that it is asked once."""
    return spec.named() if spec else []


def _observed(spec: Vfio | None) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(VfioState, cards=named(spec))
    return state


def _release(observed: dict[str, Any]) -> Iterator[StringCommand]:
    if observed["stale"]:
        yield act("vfio", "release", addresses=observed["stale"])


@operation()
def configuration(spec: Vfio) -> Generator[Any, None, None]:
    """Put in place what reserves the cards at the next boot."""
    observed = _observed(spec)
    stop = impossible(spec, observed)
    if stop:
        wanted_words, cause, remedy = stop
        yield refuse(cause, remedy, wanted=wanted_words)
        return
    wanted, found = wanted_files(spec, observed), observed["files"]
    write, remove = own_files.changes(wanted, found, MODES)
    differs([*own_files.words(wanted, found, MODES), *stale_words(observed)])
    if not observed["enabled"]:
        differs([Pair(f"{UNIT}: enabled", "not enabled")])
    yield from _release(observed)
    for path, text in write.items():
        yield from own_files.put(path, text, MODES.get(path, own_files.MODE))
    if remove:
        yield StringCommand(f"rm -f {' '.join(sorted(remove))}")
    if not observed["enabled"] or UNIT_FILE in write:
        yield StringCommand(f"systemctl daemon-reload && systemctl enable {UNIT}")
    foreign = own_files.foreign_dropins(UNIT, observed["dropins"])
    yield from foreign
    if observed["enabled"] and not (write or remove or observed["stale"] or foreign):
        host.noop("the cards are reserved at boot as wanted")


@operation()
def initramfs(spec: Vfio) -> Generator[StringCommand, None, None]:
    """Have the initramfs of each kernel reserve the cards, where it must, and only there."""
    observed = _observed(spec)
    wanted = wanted_files(spec, observed)
    versions = [] if impossible(spec, observed) else images_to_make(wanted, observed)
    if not versions:
        host.noop("no initramfs needs to be made")
        return
    differs(image_words(wanted, observed))
    for version in versions:
        yield StringCommand(f"update-initramfs -u -k {version}")


@operation()
def owned(spec: Vfio, deferred: bool = False) -> Generator[StringCommand, None, None]:
    """Prove that vfio-pci has every function of the cards, and none of those kept.

    `deferred`: the reboot that it takes was put off, and something else says so.
    """
    observed = _observed(spec)
    stop, wrong = impossible(spec, observed), wrong_owners(observed)
    reasons = reboot_reasons(observed)
    if stop:
        yield refuse(stop[1], stop[2], wanted=stop[0])
    elif not wrong:
        host.noop(f"{DRIVER} has every function of the cards")
    elif reasons and deferred:
        host.noop(f"a reboot is awaited: {'; '.join(reasons)}")
    else:
        yield _not_owned(observed, wrong, f"{DRIVER}: every function of {', '.join(spec.handles)}")


def _not_owned(observed: dict[str, Any], wrong: str, wanted: str) -> StringCommand:
    """Why the cards are not given, once all is in place for it."""
    if not observed["iommu"]:
        return refuse(
            "this machine has no IOMMU groups: its IOMMU is off",
            "switch VT-d or AMD-Vi on in the firmware, and on Intel give the kernel intel_iommu=on "
            "(kernel_cmdline)",
            wanted=wanted,
        )
    if reboot_reasons(observed):
        return refuse(wrong, "reboot the node, then converge again", wanted=wanted)
    said = " / ".join(observed["log"]["words"]) or "nothing"
    return refuse(
        f"{wrong}, and the boot did not change that; what reserves the cards said: {said}",
        f"see `journalctl -b -u {UNIT}` and `dmesg | grep vfio`",
        wanted=wanted,
    )


@operation()
def removed() -> Generator[StringCommand, None, None]:
    """Take back what this capability put on the node; the drivers follow at the next boot."""
    observed = _observed(None)
    found = observed["files"]
    versions = images_to_make({}, observed)
    if not found and not observed["stale"] and not versions:
        host.noop("there is nothing of ours")
        return
    differs([*own_files.words({}, found), *stale_words(observed), *image_words({}, observed)])
    yield from _release(observed)
    # The list of cards goes last: by it the next run knows of one that was interrupted.
    early = [path for path in found if path not in (CARDS, EARLY)]
    if UNIT_FILE in found:
        yield StringCommand(f"systemctl disable {UNIT}")
    if early:
        yield StringCommand(f"rm -f {' '.join(sorted(early))} && systemctl daemon-reload")
    for version in versions:
        yield StringCommand(f"update-initramfs -u -k {version}")
    yield StringCommand(f"rm -rf {FOLDER}")
