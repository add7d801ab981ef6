"""PCI cards for virtual machines: which device a card is, what shares its group, who drives it.

Standard library only. A card is known by its kind (vendor, device, subsystem) and its place: the
root bus and the device and function number of each bridge on the way. Neither bus numbers nor
addresses are part of it: they shift when something is plugged in before. The same rule is in
files/vfio/early, which must do without Python; the tests hold the two together.
"""

import json
import os
import platform
import re
from pathlib import Path
from typing import Any

from homeport_node.common import dropins, own_files, read, run, show_units

FOLDER = "/etc/homeport/vfio"
CARDS, EARLY = f"{FOLDER}/cards", f"{FOLDER}/early"
UNIT = "homeport-vfio.service"
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
HOOK = "/etc/initramfs-tools/hooks/homeport-vfio"
INIT_TOP = "/etc/initramfs-tools/scripts/init-top/homeport-vfio"
MODPROBE = "/etc/modprobe.d/homeport-vfio.conf"
OWN_FILES = (CARDS, EARLY, UNIT_FILE, HOOK, INIT_TOP, MODPROBE)
BOOT, MODULES = "/boot", "/lib/modules"
# What the early program said in this boot, and what we took back in it. Gone with the boot.
LOG = "/run/homeport-vfio.log"
RELEASED = "/run/homeport-vfio.released"
# What is in an initramfs takes seconds to list: kept by the image's size and time of writing.
LISTED = "/run/homeport-vfio-initramfs.json"
ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
# PCI classes: bridges between buses (root ports are such), and those from processor to bus, which
# often share a group with ports. The latter have no driver, and do nothing by themselves.
BUS_BRIDGES, HOST_BRIDGE = ("0604", "0609"), "0600"
DRIVER = "vfio-pci"

Device = dict[str, Any]


def place(real: str, devices: str) -> str:
    """Where the device directory `real` hangs below `devices`: "pci0000:00/1c.0/00.0"."""
    parts = os.path.relpath(real, devices).split("/")
    return "/".join(p.rsplit(":", 1)[1] if ADDRESS.fullmatch(p) else p for p in parts)


def _value(path: Path) -> str:
    return (read(path) or "").strip().removeprefix("0x")


def _link(path: Path) -> str:
    """The last part of what `path` links to, "" when it is no link."""
    return Path(os.path.realpath(path)).name if path.exists() else ""


def survey(sys: str = "/sys") -> "list[Device]":
    """Every PCI function: {"address": "0000:01:00.0", "place": "pci0000:00/01.0/00.0",
    "id": "10de:1e07", "subsystem": "1462:3711", "class": "030000", "driver": "nouveau",
    "override": "", "group": "1", "modalias": "pci:v…", "boot_vga": False}; "" is none."""
    root, devices = Path(sys), os.path.realpath(f"{sys}/devices")
    found = []
    for entry in sorted(root.glob("bus/pci/devices/*")):
        override = _value(entry / "driver_override")
        found.append(
            {
                "address": entry.name,
                "place": place(os.path.realpath(entry), devices),
                "id": f"{_value(entry / 'vendor')}:{_value(entry / 'device')}",
                "subsystem": (
                    f"{_value(entry / 'subsystem_vendor')}:{_value(entry / 'subsystem_device')}"
                ),
                "class": _value(entry / "class"),
                "driver": _link(entry / "driver"),
                "override": "" if override == "(null)" else override,
                "group": _link(entry / "iommu_group"),
                "modalias": _value(entry / "modalias"),
                "boot_vga": _value(entry / "boot_vga") == "1",
            }
        )
    return found


def _kind(one: "dict[str, Any]") -> "tuple[str, str]":
    return one["id"], one["subsystem"]


def find(card: "dict[str, Any]", cards: "list[dict[str, Any]]", there: "list[Device]") -> Any:
    """(address of `card`, "") or ("", why it is not certain which device it is).

    `cards` are all that the targets name, `there` all devices. Among cards of one kind, each must
    be where the targets say, and each that is there must be named: else they may have moved up by
    one, and the place of one would be that of its twin.
    """
    alike = [one for one in there if _kind(one) == _kind(card)]
    named = [one for one in cards if _kind(one) == _kind(card)]
    kind = f"{card['id']}, subsystem {card['subsystem']}"
    seen = ", ".join(f"{one['address']} at {one['place']}" for one in alike) or "nowhere"
    for one in named:
        if one["place"] not in {other["place"] for other in alike}:
            at = [other for other in there if other["place"] == one["place"]]
            what = f"{at[0]['id']}, subsystem {at[0]['subsystem']}," if at else "nothing"
            return "", (
                f"{what} is at {one['place']}, where {one['handle']!r} should be, a card {kind}; "
                f"such cards are: {seen}"
            )
    for other in alike:
        if other["place"] not in {one["place"] for one in named}:
            return "", (
                f"{other['address']} at {other['place']} is the same kind of card as "
                f"{card['handle']!r} ({kind}), and no handle of the targets names it: cards that "
                "look alike are told apart by their places, all of them"
            )
    return next(one["address"] for one in alike if one["place"] == card["place"]), ""


def parse_cards(text: str) -> "tuple[str, list[dict[str, Any]]]":
    """(the mark of its writing, the cards) of our file's text."""
    mark, cards = "", []
    for line in text.splitlines():
        words = line.split()
        if words[:2] == ["#", "mark"] and len(words) == 3:
            mark = words[2]
        elif len(words) == 5 and words[0] in ("give", "ids", "keep"):
            given = words[0] != "keep"
            names = ("handle", "id", "subsystem", "place")
            cards.append({**dict(zip(names, words[1:], strict=True)), "give": given})
    return mark, cards


def _functions(address: str, there: "list[Device]") -> "list[Device]":
    """All functions of the card of which `address` is one: those of its slot."""
    slot = address.rsplit(".", 1)[0]
    return [one for one in there if one["address"].rsplit(".", 1)[0] == slot]


def native_modules(alias: str) -> "list[str]":
    """The kernel's modules that can drive a device with this modalias, vfio-pci apart."""
    listed = run("modprobe", "--resolve-alias", alias).out.split() if alias else []
    return sorted({name.replace("-", "_") for name in listed} - {"vfio_pci"})


def _builtin() -> "set[str]":
    text = read(f"{MODULES}/{platform.release()}/modules.builtin") or ""
    return {_module(line) for line in text.splitlines()}


def _module(path: str) -> str:
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def listing(image: str) -> "dict[str, Any] | None":
    """{"modules": ["xhci_pci", …], "mark": "0a1b…" or "", "conf": False} of an initramfs: its
    modules, the mark of our script in it, and whether it holds our file for modprobe. None for one
    that cannot be listed."""
    status = Path(image).stat()
    stamp = [status.st_mtime_ns, status.st_size]
    known = json.loads(read(LISTED) or "{}")
    if known.get(image, {}).get("stamp") != stamp:
        ran = run("lsinitramfs", image, timeout=120)
        names = ran.out.splitlines()
        if not ran.ok or not names:
            return None
        marks = [name.rsplit("/mark-", 1)[1] for name in names if f"{FOLDER}/mark-" in f"/{name}"]
        known[image] = {
            "stamp": stamp,
            "modules": sorted({_module(name) for name in names if ".ko" in name}),
            "mark": marks[0] if marks else "",
            "conf": any(f"/{name}".endswith(MODPROBE) for name in names),
        }
        temporary = Path(f"{LISTED}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(known))
            temporary.replace(LISTED)
        except OSError:  # asked without root: nothing is kept
            pass
    answer: dict[str, Any] = known[image]
    return answer


def _images(native: "set[str]") -> "dict[str, dict[str, Any]]":
    """{"6.12.48+deb13-amd64": {"path": …, "mark": …, "conf": …, "native": [modules that may
    claim one of the cards]}} of each kernel that is installed.

    One that cannot be listed counts as one that has all of them and nothing of ours: it is made
    anew.
    """
    found = {}
    for path in sorted(Path(BOOT).glob("initrd.img-*")):
        version = path.name.removeprefix("initrd.img-")
        if Path(MODULES, version, "kernel").is_dir():
            seen = listing(str(path)) or {"modules": native, "mark": "", "conf": False}
            found[version] = {
                "path": str(path),
                "mark": seen["mark"],
                "conf": seen["conf"],
                "native": sorted(native & set(seen["modules"])),
            }
    return found


def _log() -> "dict[str, Any]":
    """{"tried": [["unit", "0a1b…"]], "gave": ["0000:01:00.0"], "words": [the other lines]}"""
    told: dict[str, Any] = {"tried": [], "gave": [], "words": []}
    for line in (read(LOG) or "").splitlines():
        verb, *rest = line.split() or [""]
        if verb == "tried":
            told["tried"].append([*rest, "", ""][:2])
        elif verb == "gave" and rest:
            told["gave"].append(rest[0])
        elif line:
            told["words"].append(line)
    return told


def resolve(cards: "list[dict[str, Any]]", there: "list[Device]") -> "dict[str, dict[str, Any]]":
    """{handle: {"give", "address", "problem", "functions": [devices]}} of `cards`."""
    found = {}
    for card in cards:
        address, problem = find(card, cards, there)
        functions = _functions(address, there) if address else []
        found[card["handle"]] = {
            "give": card["give"],
            "address": address,
            "problem": problem,
            "functions": functions,
        }
    return found


def _harmless(one: Device) -> bool:
    return one["class"].startswith(BUS_BRIDGES) or (
        one["class"].startswith(HOST_BRIDGE) and not one["driver"]
    )


def foreign(cards: "dict[str, dict[str, Any]]", there: "list[Device]") -> "list[Device]":
    """What would go along with the cards that are given: neither theirs nor a bridge, in a group
    of theirs."""
    given = [one for card in cards.values() if card["give"] for one in card["functions"]]
    own, groups = {one["address"] for one in given}, {one["group"] for one in given} - {""}
    return [
        one
        for one in there
        if one["group"] in groups and one["address"] not in own and not _harmless(one)
    ]


def same_ids(cards: "dict[str, dict[str, Any]]", there: "list[Device]") -> "list[Device]":
    """The devices that are not given and have the vendor and device of one that is."""
    given = [one for card in cards.values() if card["give"] for one in card["functions"]]
    own, ids = {one["address"] for one in given}, {one["id"] for one in given}
    return [one for one in there if one["id"] in ids and one["address"] not in own]


def observe(cards: "list[dict[str, Any]] | None" = None, sys: str = "/sys") -> "dict[str, Any]":
    """Everything about the cards that are wanted: {"handle", "give", "id", "subsystem", "place"}.

    None stands for those that our file on the node names.
    """
    there, files = survey(sys), own_files(OWN_FILES)
    mark, earlier = parse_cards(read(CARDS) or "")
    found = resolve(earlier if cards is None else cards, there)
    given = [one for card in found.values() if card["give"] for one in card["functions"]]
    before = [
        one
        for card in resolve(earlier, there).values()
        if card["give"]
        for one in card["functions"]
    ]
    for one in given:
        one["native"] = native_modules(one["modalias"])
    native = {name for one in given for name in one["native"]}
    addresses = {one["address"] for one in given}
    drivers = {one["address"]: one["driver"] for one in there}
    released = (read(RELEASED) or "").split()
    unit = show_units(UNIT).get(UNIT, {}) if files or given else {}
    return {
        "cards": found,
        "iommu": any(one["group"] for one in there),
        "foreign": foreign(found, there),
        "same_ids": same_ids(found, there),
        "builtin": sorted(native & _builtin()) if native else [],
        "mark": mark,
        "files": files,
        "enabled": unit.get("UnitFileState") == "enabled",
        "dropins": dropins(unit) if unit else [],
        "images": _images(native) if files or given else {},
        "initramfs_tools": Path("/usr/sbin/update-initramfs").exists(),
        "log": _log(),
        "stale": [
            one["address"]
            for one in before
            if one["address"] not in addresses
            and (
                one["override"] == DRIVER
                or (one["driver"] == DRIVER and one["address"] not in released)
            )
        ],
        "released": [
            address
            for address in released
            if drivers.get(address) == DRIVER and address not in addresses
        ],
    }


def stage(observed: "dict[str, Any]") -> str:
    """When the cards must be reserved: "initramfs" where it holds a driver that would have one of
    them, else "unit"."""
    needed = any(image["native"] for image in observed["images"].values())
    return "initramfs" if needed else "unit"


def waiting(observed: "dict[str, Any]") -> "list[tuple[str, str, str]]":
    """(handle, address, driver or "") of each function that is given and not with vfio-pci."""
    return [
        (handle, one["address"], one["driver"])
        for handle, card in observed["cards"].items()
        if card["give"]
        for one in card["functions"]
        if one["driver"] != DRIVER
    ]


def _settled(observed: "dict[str, Any]") -> bool:
    """Whether this boot ran the early program as it is now, where it must, and no older one."""
    tried = observed["log"]["tried"]
    current = all(mark == observed["mark"] for _, mark in tried)
    return current and [stage(observed), observed["mark"]] in tried


def taken(observed: "dict[str, Any]") -> "list[tuple[str, str]]":
    """(handle, address) of each function that vfio-pci has of a card that is kept."""
    return [
        (handle, one["address"])
        for handle, card in observed["cards"].items()
        if not card["give"]
        for one in card["functions"]
        if one["driver"] == DRIVER
    ]


def reboot_reasons(observed: "dict[str, Any] | None" = None) -> "list[str]":
    """Why the node must boot for its cards, in short phrases; [] when it need not.

    `observed` is what `observe` answers; without it the node is looked at, with the cards that our
    file there names. A boot that would change nothing is no reason: without an IOMMU, or where the
    early program ran as it is now and did not get the card.
    """
    seen = observe() if observed is None else observed
    reasons = [f"{address} is still with {DRIVER}" for address in seen["released"]]
    if not seen["iommu"] or any(card["problem"] for card in seen["cards"].values()):
        return reasons
    settled = _settled(seen)
    for handle, address, driver in waiting(seen):
        if not settled or address in seen["log"]["gave"]:
            reasons.append(f"{address} ({handle}) is with {driver or 'no driver'}, not {DRIVER}")
    for handle, address in taken(seen):
        if not settled and address not in seen["released"]:
            reasons.append(f"{address} ({handle}, which is kept) is with {DRIVER}")
    return reasons


def release(addresses: "list[str]", sys: str = "/sys") -> "str | None":
    """Let the native drivers have `addresses` again, from the next boot on."""
    try:
        before = (read(RELEASED) or "").split()
        Path(RELEASED).write_text("\n".join([*dict.fromkeys([*before, *addresses])]) + "\n")
        for address in addresses:
            Path(sys, "bus/pci/devices", address, "driver_override").write_text("\n")
    except OSError as error:
        return str(error)
    return None
