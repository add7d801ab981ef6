"""What was read of a machine, as the text of its targets file: comments and TOML. No I/O.

`homeport_node/probe.py` says what an observation holds. Whatever a machine says of itself is kept
on one line of a comment, or written as a TOML string.
"""

import base64
import hashlib
import itertools
import json
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Observed = Mapping[str, Any]

LACKING_CONTAINER = {
    "boot_loader": "a container has no boot loader",
    "iommu": "a container has no IOMMU groups of its own",
    "kernel": "a container has no kernel of its own",
}


CARD_FIELDS = ("address", "id", "subsystem", "place")


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """The host key that a machine showed, as in known_hosts, and whether it was known before."""

    host_key: str
    known: bool

    @property
    def fingerprint(self) -> str:
        """As `ssh-keygen -l` prints it: "SHA256:" and the digest in base64 without padding."""
        digest = hashlib.sha256(base64.b64decode(self.host_key.split()[1])).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reached:
    """How a machine was reached: address or name, user, port, and the private key's path or ""."""

    address: str
    user: str = "root"
    port: int = 22
    key: str = ""

    @property
    def ssh(self) -> str:
        """The ssh command that goes the same way, for messages."""
        words = ["ssh", *(["-p", str(self.port)] if self.port != 22 else [])]
        words += ["-i", self.key] if self.key else []
        return shlex.join([*words, f"{self.user}@{self.address}"])


def lacks(observed: Observed) -> dict[str, str]:
    """What the machine cannot carry, with the reason, under the names that capabilities ask for."""
    found: dict[str, str] = {}
    if observed["container"]:
        found.update(LACKING_CONTAINER)
    elif observed["boot_loader"] == "none":
        found["boot_loader"] = "neither GRUB, systemd-boot nor proxmox-boot-tool was found"
    if not observed["radios"]:
        kind = "container" if observed["container"] else "machine"
        found["radio"] = f"no Wi-Fi radio was found in this {kind}"
    return found


def assign(
    asked: Sequence[str],
    ids: Sequence[str],
    spare: str,
    known: Mapping[str, str],
    pair: tuple[str, ...] = (),
    used: Collection[str] = (),
) -> list[str]:
    """Handles for the devices `ids`, in their order; spare ones are none of `used`.

    One that `known` has under a handle keeps it: a person may have swapped two. The others get
    what is left of those `asked` for, then spare names. Without anything asked for, two GPUs are
    "left" and "right", as a person would call them.
    """
    names = list(asked) or (list(pair) if len(ids) == len(pair) else [])
    kept = {one: known[one] for one in ids if one in known and (not asked or known[one] in names)}
    taken = {*names, *kept.values(), *used}
    spares = (f"{spare}{index}" for index in itertools.count(min(len(names), len(ids))))
    free = [name for name in names if name not in kept.values()]
    rest = itertools.chain(free, (name for name in spares if name not in taken))
    return [kept.get(one) or next(rest) for one in ids]


def render(
    way: Reached,
    seen: Seen,
    observed: Observed,
    name: str,
    handles: Mapping[str, Sequence[str]],
    known: Mapping[str, str] | None = None,
) -> str:
    """The text of the targets file, which `homeport.targets.read_targets` reads.

    `handles` are what the inventory asks for, `known` the handle of each UUID, MAC address and
    place (`place_id`) in the targets file so far.
    """
    known = known or {}
    table = name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)
    lines = [
        f"# Printed by `bin/homeport probe {_one_line(way.address)}`:",
        "# what the machine is, and which of its parts the inventory's handles stand for.",
        "#",
        *(f"# {line}" for line in _host_key_lines(seen)),
        "#",
        *(f"# {_one_line(line)}" for line in _machine_lines(observed)),
        "",
        f"[hosts.{table}]",
        f"address = {_string(way.address)}",
        f"host_key = {_string(seen.host_key)}",
        f"user = {_string(way.user)}",
        f"port = {way.port}",
        *([f"ssh_key = {_string(way.key)}"] if way.key else []),
        "",
        *_gpu_lines(observed, table, handles.get("gpus", ()), known),
        *_card_lines(observed, table, handles.get("gpus", ()), handles.get("cards", ()), known),
        *_radio_lines(observed, table, handles.get("radios", ()), known),
    ]
    lacking = lacks(observed)
    if lacking:
        lines += ["# What needs one of these is not built here, and reported as not exercised."]
        lines += [f"[hosts.{table}.lacks]"]
        lines += [f"{key} = {_string(reason)}" for key, reason in sorted(lacking.items())]
    return "\n".join(lines).rstrip() + "\n"


def _one_line(text: str) -> str:
    """`text` without control characters, which TOML forbids in comments."""
    return re.sub(r"[\x00-\x1f\x7f]+", " ", text)


def _string(text: str) -> str:
    """`text` as a TOML string: JSON's escapes are TOML's too, once DEL is out of the way."""
    return json.dumps(_one_line(text), ensure_ascii=False)


def _entry(handle: str, value: str, comment: str) -> str:
    key = handle if re.fullmatch(r"[A-Za-z0-9_-]+", handle) else _string(handle)
    return f"{key} = {_string(value)}  # {_one_line(comment)}"


def _host_key_lines(seen: Seen) -> Iterator[str]:
    kind = seen.host_key.split()[0]
    yield f"Host key: {kind} {seen.fingerprint}"
    if seen.known:
        yield "It is the one that ~/.ssh/known_hosts has."
        return
    file = {"ssh-ed25519": "ed25519", "ssh-rsa": "rsa"}.get(kind, "ecdsa")
    yield "It was not known before and was trusted as it came. Compare it with what the machine's"
    yield f"own console says: ssh-keygen -lf /etc/ssh/ssh_host_{file}_key.pub"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB ({count} bytes)"


def _machine_lines(observed: Observed) -> Iterator[str]:
    """What the machine is, a line for each thing."""
    kind = observed["container"] or observed["virtualization"] or "unknown"
    yield f"{observed['os']['name']}, {observed['arch']}, kernel {observed['kernel']}"
    yield f"Python {observed['python']}; virtualization: {kind}"
    yield f"{observed['processors']} processors, {observed['memory_mib']} MiB of memory"
    yield f"Boot loader: {observed['boot_loader']}"
    groups = observed["iommu_groups"]
    yield f"IOMMU groups: {len(groups) or 'none: the IOMMU is off, or not to be seen from here'}"
    for function in observed["nvidia_functions"]:
        group = function["iommu_group"]
        others = sorted(set(groups.get(group, ())) - {function["address"]})
        where = f"IOMMU group {group}" if group else "no IOMMU group"
        beside = f" with {', '.join(others)}" if others else ""
        yield (
            f"NVIDIA function {function['address']}: class {function['class']}, "
            f"10de:{function['device']}, driver {function['driver'] or 'none'}, {where}{beside}"
        )
    for disk in observed["disks"]:
        yield f"Disk {disk['name']}: {_gib(disk['bytes'])} {disk['model']}".rstrip()
    for mount in observed["filesystems"]:
        yield f"{mount['mount']} ({mount['type']}): {_gib(mount['free_bytes'])} free"


def _gpu_names(observed: Observed, asked: Sequence[str], known: Mapping[str, str]) -> list[str]:
    """The handles of the GPUs, in the driver's order: one whose card has one has the same."""
    places = {one["address"]: place_id(one) for one in observed["displays"]}
    cards = {gpu["uuid"]: known.get(places.get(gpu["pci"], ""), "") for gpu in observed["gpus"]}
    # Of a card that moved the UUID tells more than the place.
    told = {known[uuid] for uuid in cards if uuid in known}
    was = {uuid: name for uuid, name in cards.items() if name in asked and name not in told}
    return assign(asked, [*cards], "gpu", {**was, **known}, pair=("left", "right"))


def _gpu_lines(
    observed: Observed, table: str, asked: Sequence[str], known: Mapping[str, str]
) -> Iterator[str]:
    """The table of GPUs: in the driver's order, which is that of the PCI addresses."""
    gpus = observed["gpus"]
    names = _gpu_names(observed, asked, known)
    if not gpus:
        yield f"# No GPU answers: {_one_line(observed['gpus_words'])}"
        if observed["nvidia_functions"]:
            yield "# A GPU's UUID is known to its driver alone. A converge with nvidia=Nvidia(…) in"
            yield "# the inventory installs it, and says when to probe again."
        if not asked:
            yield ""
            return
    yield "# Swap the UUIDs where a handle stands for another card."
    yield f"[hosts.{table}.gpus]"
    for handle, gpu in zip(names, gpus, strict=True):
        yield _entry(handle, gpu["uuid"], _gpu_comment(gpu, observed["nvidia_functions"]))
    for handle in [one for one in asked if one not in names]:
        yield _entry(handle, "", f"not found: {observed['gpus_words'] or 'no further GPU'}")
    yield ""


def _gpu_comment(gpu: Mapping[str, Any], functions: Sequence[Mapping[str, str]]) -> str:
    parts = [gpu["name"], f"PCI {gpu['pci']}"]
    if gpu["memory_mib"] is not None:
        parts.insert(1, f"{gpu['memory_mib']:g} MiB")
    if gpu["power_min_w"] is not None and gpu["power_max_w"] is not None:
        parts.append(f"power limit {gpu['power_min_w']:g} to {gpu['power_max_w']:g} W")
    groups = [f["iommu_group"] for f in functions if f["address"] == gpu["pci"]]
    parts += [f"IOMMU group {group}" for group in groups if group]
    return ", ".join(parts)


def place_id(card: Mapping[str, str]) -> str:
    """What tells a card from every other of its machine: its kind, and its place."""
    return " ".join(card.get(one, "") for one in ("id", "subsystem", "place"))


def _card_lines(
    observed: Observed,
    table: str,
    gpus: Sequence[str],
    cards: Sequence[str],
    known: Mapping[str, str],
) -> Iterator[str]:
    """The table of display devices by kind and place, which needs no driver.

    A GPU that its driver answered for has the handle that it has in the table of GPUs.
    """
    displays = observed["displays"]
    answering = [gpu["pci"] for gpu in observed["gpus"]]
    by_address = dict(zip(answering, _gpu_names(observed, gpus, known), strict=True))
    rest = [one for one in displays if one["address"] not in by_address]
    free = [name for name in cards if name not in by_address.values()]
    used = {*by_address.values(), *gpus}
    was = {one: name for one, name in known.items() if name not in used}
    names = assign(free, [place_id(one) for one in rest], "card", was, used=used)
    by_address.update((one["address"], name) for one, name in zip(rest, names, strict=True))
    if displays:
        yield "# Cards by kind and place, for virtual machines. Twins are told apart"
        yield "# by their places: keep them all. Swap the names where one stands for another card."
    for one in displays:
        handle = by_address[one["address"]]
        key = handle if re.fullmatch(r"[A-Za-z0-9_-]+", handle) else _string(handle)
        yield f"[hosts.{table}.pci.{key}]  # {_one_line(_card_comment(one))}"
        yield from (f"{name} = {_string(one[name])}" for name in CARD_FIELDS)
    if displays:
        yield ""


def _card_comment(one: Mapping[str, Any]) -> str:
    group = one["iommu_group"]
    parts = [f"driver {one['driver'] or 'none'}", f"IOMMU group {group}" if group else "no group"]
    return ", ".join(parts + (["the machine boots with this one"] if one["boot_vga"] else []))


def _radio_lines(
    observed: Observed, table: str, asked: Sequence[str], known: Mapping[str, str]
) -> Iterator[str]:
    """The table of radios: those that can be an access point first."""
    radios = sorted(observed["radios"], key=lambda radio: radio["ap"] is not True)
    if not radios:
        # What the inventory asks for is then named under lacks.
        return
    ids = [radio["mac"] for radio in radios]
    names = assign(asked, ids, "radio", known, pair=("hotspot",))
    yield f"[hosts.{table}.radios]"
    for handle, radio in zip(names, radios, strict=True):
        mode = {True: "can be an access point", False: "can NOT be an access point"}.get(
            radio["ap"], "access point: unknown, `iw` is not installed there"
        )
        interface = radio["interface"] or "no interface"
        yield _entry(
            handle, radio["mac"], f"{interface} ({radio['phy']}, {radio['driver']}), {mode}"
        )
    for handle in [one for one in asked if one not in names]:
        yield _entry(handle, "", "not found: no further radio")
    yield ""
