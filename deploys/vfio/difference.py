"""What the cards need on a node, what forbids it, and what differs, in words. No I/O on nodes."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from deploys.vfio.spec import Vfio
from homeport.differs import Pair
from homeport_node.vfio import (
    CARDS,
    DRIVER,
    EARLY,
    HOOK,
    INIT_TOP,
    MODPROBE,
    UNIT,
    UNIT_FILE,
    stage,
    taken,
    waiting,
)

HEADER = "# Managed by Homeport (vfio). Changes are replaced by the next converge.\n"
FROM = Path(__file__).resolve().parents[2] / "files/vfio"
# What is put on the node as it is here.
ALWAYS = {EARLY: "early", UNIT_FILE: UNIT}
IN_INITRAMFS = {HOOK: "hook", INIT_TOP: "init-top"}
MODES = dict.fromkeys((EARLY, HOOK, INIT_TOP), "755")
PROBE = "compare its pci table with what `bin/homeport probe HOST` prints, and correct it"

Files = dict[str, str]


def _shipped(name: str) -> str:
    return (FROM / name).read_text()


def _given(observed: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """(handle, function) of all that is given."""
    return [
        (handle, one)
        for handle, card in observed["cards"].items()
        if card["give"]
        for one in card["functions"]
    ]


def modprobe_text(observed: dict[str, Any]) -> str:
    """The file that has vfio-pci claim what is given by vendor and device, before its drivers."""
    ids = sorted({one["id"] for _, one in _given(observed)})
    drivers = sorted({name for _, one in _given(observed) for name in one["native"]})
    softdeps = "".join(f"softdep {name} pre: {DRIVER}\n" for name in drivers)
    return f"{HEADER}options {DRIVER} ids={','.join(ids)}\n{softdeps}"


def wanted_files(spec: Vfio, observed: dict[str, Any]) -> Files:
    """{path: text} of our files; their modes are `MODES`.

    The list of cards begins with a mark of all that goes into an initramfs: by it one that was made
    of something else is known.
    """
    verb = "give" if spec.by == "identity" else "ids"
    lines = [
        f"{verb if one['give'] else 'keep'} {one['handle']} {one['id']} {one['subsystem']} "
        f"{one['place']}\n"
        for one in spec.named()
    ]
    shipped = {**ALWAYS, **(IN_INITRAMFS if stage(observed) == "initramfs" else {})}
    found = {path: _shipped(name) for path, name in shipped.items()}
    if spec.by == "ids":
        found[MODPROBE] = modprobe_text(observed)
    whole = lines + [_shipped(name) for name in (ALWAYS[EARLY], *IN_INITRAMFS.values())]
    whole += [found[MODPROBE]] if MODPROBE in found else []
    mark = hashlib.sha256("\0".join(whole).encode()).hexdigest()[:16]
    found[CARDS] = f"{HEADER}# mark {mark}\n{''.join(lines)}"
    return found


def wanted_mark(wanted: Files) -> str:
    """The mark that each initramfs must have, "" for none."""
    return wanted[CARDS].splitlines()[1].split()[-1] if HOOK in wanted else ""


def impossible(spec: Vfio, observed: dict[str, Any]) -> tuple[str, str, str] | None:
    """(what is wanted, what is there instead, remedy) when the cards cannot be given."""
    for handle, card in observed["cards"].items():
        if card["problem"]:
            return f"card {handle!r} where the targets say", card["problem"], PROBE
    if observed["builtin"]:
        return (
            f"drivers of the cards as modules, so that {DRIVER} can be first",
            f"built into this kernel: {', '.join(observed['builtin'])}",
            "boot a kernel that has them as modules, such as the distribution's",
        )
    for one in observed["foreign"]:
        return (
            f"nothing but the cards in their IOMMU groups, such as group {one['group']}",
            f"{one['address']} ({one['id']}, class {one['class']}, driver "
            f"{one['driver'] or 'none'}) is in IOMMU group {one['group']} and would go along",
            "put the card or that device into another slot, or name it under vfio.cards as well",
        )
    if spec.by == "ids" and observed["same_ids"]:
        one = observed["same_ids"][0]
        return (
            "ids that only the given cards have",
            f"{one['address']} has the id {one['id']} too, and is not given",
            'identical devices are told apart by identity: by="identity"',
        )
    if stage(observed) == "initramfs" and not observed["initramfs_tools"]:
        return (
            "an initramfs that Homeport can make",
            "it holds a driver of the cards, and there is no update-initramfs",
            "install initramfs-tools, or take the driver out of the initramfs",
        )
    return None


def images_to_make(wanted: Files, observed: dict[str, Any]) -> list[str]:
    """The kernels whose initramfs holds something else of ours than it would with `wanted`."""
    return [
        version
        for version, image in sorted(observed["images"].items())
        if image["mark"] != wanted_mark(wanted) or (image["conf"] and MODPROBE not in wanted)
    ]


def image_words(wanted: Files, observed: dict[str, Any]) -> Iterator[Pair]:
    mark = wanted_mark(wanted)
    words = f"our program for the cards, {mark}" if mark else "nothing of ours"
    for version in images_to_make(wanted, observed):
        image = observed["images"][version]
        held = [image["mark"]] if image["mark"] else []
        there = ", ".join(held + (["our file for modprobe"] if image["conf"] else []))
        yield Pair(f"{image['path']}: {words}", there or "none")


def stale_words(observed: dict[str, Any]) -> Iterator[Pair]:
    """The functions that are reserved and are not to be any more."""
    for address in observed["stale"]:
        yield Pair(f"{address}: with the host", f"reserved for {DRIVER}")


def wrong_owners(observed: dict[str, Any]) -> str:
    """Which functions of the given cards vfio-pci has not, and which kept ones it has; "" if none.

    Kept ones are those that look like a given one.
    """
    words = [
        f"{address} ({handle}) is with {driver or 'no driver'}"
        for handle, address, driver in waiting(observed)
    ]
    words += [
        f"{address} ({handle}, which is kept) is with {DRIVER}"
        for handle, address in taken(observed)
    ]
    return ", ".join(words)
