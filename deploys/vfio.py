"""VFIO: PCI cards reserved for virtual machines, before a driver of the host can have them.

A card is named by its handle; the targets file says what it is (vendor, device, subsystem) and
where it hangs (the root bus, then device and function number of each bridge on the way). Bus
numbers are no part of that: they shift when something is plugged in. ACPI paths tell the same as
the device numbers, and slot names are no better: many boards leave the number at 0 and the kernel
then counts ("0-1"). What the file says must fit exactly, for all cards that look alike: where one
of them is not in its place, or one is there that no handle names, none is given, since the place of
one may now be its twin's. Every function of the card's slot is given.

Two mechanisms. `by="identity"` writes `driver_override` for each function, so that one of two cards
that look alike can be kept. `by="ids"` has vfio-pci claim vendor and device (modprobe.d), and is
refused when something that is not given has the same. Both are done by one small program that runs
before udev: from a unit where the initramfs holds no driver that could have a card, else from the
initramfs too, which is then made anew. Nothing is rebound on a running machine: it needs a boot.

It fails, changing nothing, when it is not certain which device a card is, when its IOMMU group
holds anything but its own functions and bridges, or when its driver is built into the kernel; and,
last, when after the boot vfio-pci does not have it, with the early program's words.

Undo: `vfio = None` takes back our files and what is in the initramfs; after the next boot the
native drivers have the cards.
Sources: the kernel's sysfs-bus-pci (driver_override) and driver-api/vfio.rst (groups),
modprobe.d(5), initramfs-tools(7), bootup(7).
"""

import hashlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, ClassVar, Literal

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.operations import files

from homeport.capability import Capability
from homeport.differs import Pair, content, differs
from homeport.observe import NodeFact, act
from homeport.pins import Card
from homeport.refuse import refuse
from homeport.spec import Spec
from homeport_node.vfio import (
    CARDS,
    DRIVER,
    EARLY,
    FOLDER,
    HOOK,
    INIT_TOP,
    MODPROBE,
    UNIT,
    UNIT_FILE,
    reboot_reasons,
    stage,
    waiting,
)

HEADER = "# Managed by Homeport (vfio). Changes are replaced by the next converge.\n"
FROM = Path(__file__).resolve().parent.parent / "files/vfio"
# What is put on the node as it is here: path to (our file, mode).
ALWAYS = {EARLY: ("early", "755"), UNIT_FILE: (UNIT, "644")}
IN_INITRAMFS = {HOOK: ("hook", "755"), INIT_TOP: ("init-top", "755")}
PROBE = "compare its pci table with what `bin/homeport probe HOST` prints, and correct it"

Files = dict[str, tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Vfio(Spec):
    """`cards` are given to virtual machines: the host's drivers do not get them.

    `by` is "identity" (the very cards) or "ids" (whatever has their vendor and device).
    """

    STEM = "vfio"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"iommu"})

    cards: tuple[Card, ...]
    by: Literal["identity", "ids"] = "identity"

    def validate(self) -> None:
        handles = [card.handle for card in self.cards]
        self.require("cards", bool(handles), "must name a card; for none, leave vfio out")
        self.require("cards", len({*handles}) == len(handles), "must name each card once")

    @property
    def handles(self) -> tuple[str, ...]:
        """The handles of the cards that are given."""
        return tuple(card.handle for card in self.cards)

    def named(self) -> list[dict[str, Any]]:
        """The cards as the node's program takes them: those given, and those that look alike."""
        cards = {card.handle: card.pci for card in self.cards if card.pci}
        kinds = {(one.id, one.subsystem) for one in cards.values()}
        others = {name: one for card in self.cards for name, one in card.others.items()}
        alike = {n: one for n, one in others.items() if (one.id, one.subsystem) in kinds}
        return [
            {
                "handle": name,
                "give": name in cards,
                "id": one.id,
                "subsystem": one.subsystem,
                "place": one.place,
            }
            for name, one in sorted({**alike, **cards}.items())
        ]


class VfioState(NodeFact):
    """{"cards": {"right": {"give": True, "address": "0000:02:00.0", "problem": "", "functions":
    [{"address": …, "driver": "vfio-pci", "override": …, "group": "14", "native": ["nouveau"]}]}},
    "iommu": True, "foreign": [], "same_ids": [], "builtin": [], "mark": "0a1b…", "files": {path:
    {"text", "mode"}}, "enabled": True, "images": {"6.12…": {"path", "mark", "conf", "native"}},
    "initramfs_tools": True, "log": {"tried", "gave", "words"}, "stale": [], "released": []}
    """

    stem = "vfio"


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
    """{path: (text, mode)} of our files.

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
    found = {path: (_shipped(name), mode) for path, (name, mode) in shipped.items()}
    if spec.by == "ids":
        found[MODPROBE] = (modprobe_text(observed), "644")
    whole = lines + [_shipped(name) for name, _ in (ALWAYS[EARLY], *IN_INITRAMFS.values())]
    whole += [found[MODPROBE][0]] if MODPROBE in found else []
    mark = hashlib.sha256("\0".join(whole).encode()).hexdigest()[:16]
    found[CARDS] = (f"{HEADER}# mark {mark}\n{''.join(lines)}", "644")
    return found


def wanted_mark(wanted: Files) -> str:
    """The mark that each initramfs must have, "" for none."""
    return wanted[CARDS][0].splitlines()[1].split()[-1] if HOOK in wanted else ""


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


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def file_words(wanted: Files, found: dict[str, dict[str, str]]) -> Iterator[Pair]:
    """What differs of our files."""
    for path, (text, mode) in wanted.items():
        there = found.get(path)
        if there is None or there["text"] != text:
            yield content(path, _sha256(text), _sha256(there["text"]) if there else None)
        elif there["mode"] != mode:
            yield Pair(f"{path}: mode {mode}", f"mode {there['mode']}")
    for path in sorted(found.keys() - wanted.keys()):
        yield Pair(f"{path}: no such file", "a file of ours")


def _image_words(wanted: Files, observed: dict[str, Any]) -> Iterator[Pair]:
    mark = wanted_mark(wanted)
    words = f"our program for the cards, {mark}" if mark else "nothing of ours"
    for version in images_to_make(wanted, observed):
        image = observed["images"][version]
        held = [image["mark"]] if image["mark"] else []
        there = ", ".join(held + (["our file for modprobe"] if image["conf"] else []))
        yield Pair(f"{image['path']}: {words}", there or "none")


def _observed(spec: Vfio | None) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(VfioState, cards=spec.named() if spec else [])
    return state


def _release(observed: dict[str, Any]) -> Iterator[StringCommand]:
    if observed["stale"]:
        yield act("vfio", "release", addresses=observed["stale"])


def _stale_words(observed: dict[str, Any]) -> Iterator[Pair]:
    for address in observed["stale"]:
        yield Pair(f"{address}: with the host", f"reserved for {DRIVER}")


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
    differs([*file_words(wanted, found), *_stale_words(observed)])
    if not observed["enabled"]:
        differs([Pair(f"{UNIT}: enabled", "not enabled")])
    yield from _release(observed)
    changed = [path for path, _ in wanted.items() if _differs(wanted, found, path)]
    for path in changed:
        text, mode = wanted[path]
        yield from files.put._inner(src=StringIO(text), dest=path, user="root", mode=mode)
    extra = sorted(found.keys() - wanted.keys())
    if extra:
        yield StringCommand(f"rm -f {' '.join(extra)}")
    if not observed["enabled"] or UNIT_FILE in changed:
        yield StringCommand(f"systemctl daemon-reload && systemctl enable {UNIT}")
    if observed["enabled"] and not changed and not extra and not observed["stale"]:
        host.noop("the cards are reserved at boot as wanted")


def _differs(wanted: Files, found: dict[str, dict[str, str]], path: str) -> bool:
    text, mode = wanted[path]
    return found.get(path) != {"text": text, "mode": mode}


@operation()
def initramfs(spec: Vfio) -> Generator[StringCommand, None, None]:
    """Have the initramfs of each kernel reserve the cards, where it must, and only there."""
    observed = _observed(spec)
    wanted = wanted_files(spec, observed)
    versions = [] if impossible(spec, observed) else images_to_make(wanted, observed)
    if not versions:
        host.noop("no initramfs needs to be made")
        return
    differs(_image_words(wanted, observed))
    for version in versions:
        yield StringCommand(f"update-initramfs -u -k {version}")


def wrong_owners(observed: dict[str, Any]) -> str:
    """Which functions of the given cards vfio-pci has not, and which kept ones it has; "" if none.

    That of a kept card counts only for those that look like a given one.
    """
    words = [
        f"{address} ({handle}) is with {driver or 'no driver'}"
        for handle, address, driver in waiting(observed)
    ]
    for handle, card in observed["cards"].items():
        for one in card["functions"]:
            if not card["give"] and one["driver"] == DRIVER:
                words.append(f"{one['address']} ({handle}, which is kept) is with {DRIVER}")
    return ", ".join(words)


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
    differs([*file_words({}, found), *_stale_words(observed), *_image_words({}, observed)])
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


@deploy("VFIO")
def apply(spec: Vfio | None) -> None:
    """Reserve the cards that `spec` names at the next boot; None gives them back."""
    if spec is None:
        removed(name="No cards reserved by us")
        return
    configuration(name="Cards reserved at boot", spec=spec)
    initramfs(name="Cards reserved in the initramfs", spec=spec)


@deploy("VFIO, after the reboot")
def prove(spec: Vfio | None) -> None:
    """Stop unless vfio-pci has the cards."""
    if spec is not None:
        deferred = host.data.get("reboot") == "never"
        owned(name="Cards with vfio-pci", spec=spec, deferred=deferred)


CAPABILITY = Capability(
    summary="PCI cards reserved for virtual machines, one of two identical ones if need be",
    proof="unit",
    unproven="a kernel that boots with it",
)
