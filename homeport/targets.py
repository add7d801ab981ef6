"""The targets file: which machine carries each host of an inventory, and where things come from.

TOML, written by `bin/homeport probe HOST --inventory inventory/iona.py --write`:

    [hosts.iona]
    address  = "192.0.2.10"                 # a name or an IP address
    host_key = "ssh-ed25519 AAAA…"          # as in known_hosts, without the name
    user     = "root"                       # another user needs sudo without a password
    port     = 22
    ssh_key  = "~/.ssh/id_ed25519"          # optional: else the agent and the default keys
    gpus     = {left = "GPU-…", right = "GPU-…"}
    pci      = {right = {address = "0000:01:00.0", id = "10de:1e07", subsystem = "1462:3711",
                         place = "pci0000:00/01.0/00.0"}}   # in one line
    radios   = {hotspot = "02:00:00:00:00:01"}
    lacks    = {radio = "why this machine has none"}

    [sources]                               # optional: for nodes that cannot reach the internet
    registries      = {"ghcr.io" = "registry.example:5000"}
    hub             = "https://hub.example"
    pypi            = "https://pypi.example/simple"
    apt             = {"https://packages.maker.example" = "https://mirror.example/maker"}
    apt_keys        = {"https://packages.maker.example" = "0123…"}  # a mirror's own key, if it has
    ca_certificates = ["ca.crt"]            # PEM, relative to this file; trusted on the node
"""

import contextlib
import os
import re
import shlex
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from homeport.spec import Spec, SpecError, fail, is_port

T = TypeVar("T")

REGISTRY = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?(/[a-z0-9._/-]+)?")
HOST_KEY = re.compile(r"(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) [A-Za-z0-9+/]+=*")
# A whole card, or a part of one that the driver was told to split (MIG).
GPU_UUID = re.compile(r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
PCI_ID = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")
PCI_ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")
PCI_PLACE = re.compile(r"[A-Za-z0-9:._-]+(/[A-Za-z0-9:._-]+)+")
# A user, a scheme or a path; a port; a label that no name has (RFC 1035).
NO_HOST = re.compile(r"[@/]|^[^:]*:[^:]*$|^\.|\.\.|[^.]{64}")
ADDRESS = re.compile(r"https?://[^\s/]+(/\S*)?")
FINGERPRINT = re.compile(r"[0-9A-F]{40}")
MAC = re.compile(r"([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources(Spec):
    """Where a node fetches from instead of the public addresses; empty means the public ones.

    `apt` are makers' package repositories and what stands in for each, `apt_keys` the fingerprints
    (40 hex digits, OpenPGP) of those among them that are signed with another key than the maker's;
    the distribution's own archive is the node's business. `ca_certificates` are PEM texts.
    """

    registries: dict[str, str] = field(default_factory=dict)
    hub: str = ""
    pypi: str = ""
    apt: dict[str, str] = field(default_factory=dict)
    apt_keys: dict[str, str] = field(default_factory=dict)
    ca_certificates: tuple[str, ...] = ()

    def validate(self) -> None:
        for registry in (*self.registries, *self.registries.values()):
            self.require(
                "registries",
                REGISTRY.fullmatch(registry) is not None,
                f"must hold names such as registry.example:5000, without a scheme: {registry!r}",
            )
        for field_name in ("hub", "pypi"):
            value = getattr(self, field_name)
            good = not value or ADDRESS.fullmatch(value) is not None
            self.require(
                field_name, good, "must be an address that begins with https:// or http://"
            )
        for address in (*self.apt, *self.apt.values()):
            good = ADDRESS.fullmatch(address) is not None
            self.require("apt", good, "must hold addresses that begin with https:// or http://")
        for address, fingerprint in self.apt_keys.items():
            self.require(
                "apt_keys",
                address in self.apt and FINGERPRINT.fullmatch(fingerprint) is not None,
                "must hold fingerprints, 40 digits of 0-9 and A-F, by addresses that apt has too",
            )
        for text in self.ca_certificates:
            self.require(
                "ca_certificates",
                "-----BEGIN CERTIFICATE-----" in text,
                "must be files that hold certificates in PEM",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class PciCard(Spec):
    """A PCI card without a driver's word: its kind and its place.

    `id` is vendor:device, `subsystem` the same of the board's maker, `place` the root bus with the
    device and function number of each bridge on the way and its own. `address` is where it was when
    the machine was read: for people alone, since bus numbers shift.
    """

    STEM = "pci"

    id: str
    subsystem: str
    place: str
    address: str = ""

    def validate(self) -> None:
        for field_name in ("id", "subsystem"):
            good = PCI_ID.fullmatch(getattr(self, field_name)) is not None
            self.require(field_name, good, "must be two numbers in hex such as 10de:1e07")
        self.require(
            "place",
            PCI_PLACE.fullmatch(self.place) is not None,
            "must be a root bus and device numbers such as pci0000:00/01.0/00.0",
        )
        self.require(
            "address",
            not self.address or PCI_ADDRESS.fullmatch(self.address) is not None,
            "must be a PCI address such as 0000:01:00.0",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Target(Spec):
    """One machine: how to reach it, what hardware the handles stand for, what it lacks."""

    name: str
    address: str
    host_key: str
    user: str = "root"
    port: int = 22
    ssh_key: str = ""
    gpus: dict[str, str] = field(default_factory=dict)
    pci: dict[str, PciCard] = field(default_factory=dict)
    radios: dict[str, str] = field(default_factory=dict)
    lacks: dict[str, str] = field(default_factory=dict)
    sources: Sources = field(default_factory=lambda: Sources())

    def validate(self) -> None:
        self.require(
            "host_key",
            HOST_KEY.fullmatch(self.host_key) is not None,
            "must be a key as `ssh-keyscan` prints it, without the name: ssh-ed25519 AAAA…",
        )
        good = bool(self.address) and not NO_HOST.search(self.address)
        self.require(
            "address", good, "must be a name or an IP address alone: user and port are fields"
        )
        self.require("port", is_port(self.port), "must be a TCP port, 1 to 65535")
        for uuid in self.gpus.values():
            good = not uuid or GPU_UUID.fullmatch(uuid) is not None
            self.require("gpus", good, "must hold UUIDs as `nvidia-smi -L` prints them: GPU-…")
        self._require_different("gpus", "UUID", self.gpus.values())
        self._require_different("radios", "MAC address", self.radios.values())
        for mac in self.radios.values():
            good = not mac or MAC.fullmatch(mac) is not None
            self.require("radios", good, "must hold MAC addresses such as 02:00:00:00:00:01")
        self._require_different("pci", "place", [card.place for card in self.pci.values()])

    def _require_different(self, table: str, what: str, ids: Iterable[str]) -> None:
        filled = [one for one in ids if one]
        self.require(table, len({*filled}) == len(filled), f"must name each {what} once")

    def fill(self, inventory: Path) -> str:
        """The command that reads the machine anew, into the targets file of `inventory`."""
        given = os.environ.get("HOMEPORT_TARGETS")
        words = ["bin/homeport", "probe", self.address]
        words += ["--user", self.user] if self.user != "root" else []
        words += ["--port", str(self.port)] if self.port != 22 else []
        words += ["--key", self.ssh_key] if self.ssh_key else []
        words += ["--name", self.name, "--inventory", os.path.relpath(inventory), "--write"]
        setting = f"HOMEPORT_TARGETS={shlex.quote(given)} " if given else ""
        return setting + shlex.join(words)

    def gpu(self, handle: str) -> str:
        """The UUID of the GPU called `handle`. Raises `SpecError` when the target names none."""
        remedy = "; while it has no driver, nvidia=Nvidia(…) in the inventory brings one"
        return self._hardware("gpus", self.gpus, handle, remedy)

    def radio(self, handle: str) -> str:
        """The MAC address of the radio called `handle`; `SpecError` when the target names none."""
        return self._hardware("radios", self.radios, handle)

    def card(self, handle: str) -> PciCard:
        """The PCI card called `handle`. Raises `SpecError` when the target names none."""
        return self._hardware("pci", self.pci, handle)

    def _hardware(self, table: str, known: dict[str, T], handle: str, remedy: str = "") -> T:
        if not known.get(handle):
            fail(
                f"{table}.{handle}",
                handle,
                f"is a handle that the targets file of {self.name} does not fill: add it under "
                f"hosts.{self.name}.{table} (`bin/homeport probe` prints what the machine has)"
                f"{remedy}",
            )
        return known[handle]


def probe_command(path: Path, name: str = "") -> str:
    """The command that fills in the targets file at `path`, or its table of the host `name`."""
    inventory = path.with_name(f"{path.name.removesuffix('.targets.toml')}.py")
    here = Path.cwd()
    shown = inventory.relative_to(here) if inventory.is_relative_to(here) else inventory
    which = f" --name {name}" if name not in ("", inventory.stem) else ""
    words = f"--inventory {shown if inventory.is_file() else 'INVENTORY'}{which} --write"
    return f"`bin/homeport probe HOST {words}` reads the machine and writes it"


def _host(path: Path, name: str, fields: dict[str, Any], sources: Sources) -> Target:
    """The target `name` of the table `fields` of the file at `path`. Raises `SpecError`."""
    empty = [field for field in ("address", "host_key") if fields.get(field) == ""]
    if empty:
        command = probe_command(path, name)
        raise SpecError(f"hosts.{name}: is not filled in: it has no {empty[0]}: {command}")
    cards = fields.get("pci", {})
    if not isinstance(cards, dict) or not all(isinstance(card, dict) for card in cards.values()):
        raise SpecError(f"hosts.{name}.pci: {cards!r} must be a table of tables, one for a handle")
    pci = {}
    for handle, card in cards.items():
        if any(card.values()):
            with _named("pci", f"hosts.{name}.pci.{handle}"):
                pci[handle] = PciCard(**card)
    with _named("target", f"hosts.{name}"):
        return Target(**{**fields, "name": name, "sources": sources, "pci": pci})


@contextlib.contextmanager
def _named(stem: str, place: str) -> Iterator[None]:
    """In errors, name the fields of the spec `stem` by their `place` in the file."""
    try:
        yield
    except SpecError as error:
        # The inventory that asks goes before, where there is one; the file is named anyway.
        text = re.sub(rf"^([^:]*: )?{stem}\.", f"{place}.", str(error))
        raise SpecError(text) from error


def targets_path(inventory: Path) -> Path:
    """The targets file of `inventory`: $HOMEPORT_TARGETS, else `<stem>.targets.toml` beside it."""
    given = os.environ.get("HOMEPORT_TARGETS")
    return Path(given) if given else inventory.with_suffix(".targets.toml")


def lock_path(inventory: Path) -> Path:
    """The lock of `inventory`: $HOMEPORT_LOCK, else `<stem>.lock` beside it."""
    given = os.environ.get("HOMEPORT_LOCK")
    return Path(given) if given else inventory.with_suffix(".lock")


def read_targets(path: Path) -> dict[str, Target]:
    """The targets in `path` by host name. Raises `SpecError` naming the file and the field."""
    if not path.exists():
        raise SpecError(f"{path}: there is no targets file: {probe_command(path)}")
    try:
        value = tomllib.loads(path.read_text())
    except OSError as error:
        raise SpecError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not even UTF-8
        raise SpecError(f"{path}: is not TOML: {error}") from error
    for key in value.keys() - {"hosts", "sources"}:
        raise SpecError(f"{path}: {key}: is not a known table; known: hosts, sources")
    for name, content in value.items():
        tables = [(name, content)]
        if name == "hosts" and isinstance(content, dict):
            tables += [(f"hosts.{host}", fields) for host, fields in content.items()]
        for key, table in tables:
            if not isinstance(table, dict):
                raise SpecError(f"{path}: {key}: {table!r} must be a table")
    try:
        raw = dict(value.get("sources", {}))
        names = raw.pop("ca_certificates", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise SpecError(f"sources.ca_certificates: {names!r} must be a list of file names")
        certificates = tuple((path.parent / name).read_text() for name in names)
        with _named("sources", "sources"):
            sources = Sources(**raw, ca_certificates=certificates)
        return {
            name: _host(path, name, fields, sources)
            for name, fields in value.get("hosts", {}).items()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"{path}: sources.ca_certificates: {error}") from error
    except SpecError as error:
        raise SpecError(f"{path}: {error}") from error
