"""Hotspot: the node opens a Wi-Fi network of its own and answers its names there.

One NetworkManager profile, explicit and kept: access point, WPA2, a fixed address, NetworkManager's
own DHCP and DNS server (dnsmasq) behind it, connected again by itself after a reboot. The radio is
found by its MAC address. The passphrase is the node's secret `hotspot.psk`; the profile is put
together on the node, so that it neither travels nor prints.

dnsmasq reads its folder only when it is spawned, and never /etc/hosts. Each name gets `address=`
and `local=`: without the second, AAAA and HTTPS queries for it are forwarded. The profile is taken
down and up only when what runs is not what is on the disk: the running profile carries the mark of
the writing that made it, and the running dnsmasq answers a TXT query with its configuration's hash
and began after the last change in its folder.

On a machine whose network is managed otherwise, NetworkManager is told, before it is installed, to
leave every interface but the radio alone. Where it keeps other interfaces connected already, it
goes on to.

What takes the profile down and up may cut the connection of the run, when the desk is a client of
this hotspot or the radio was the node's way out: it is made detached, and within 120 s the profile,
NetworkManager's connections, and links and addresses are as before, unless the run confirmed it
over a new connection (`homeport/network_change.py`). Not covered: installing NetworkManager, which
is confined to the radio before it starts, and the removal of the hotspot, which is meant to end it.

It fails when no interface has the radio's MAC address, or when the driver has no access point mode
(`iw list`); NetworkManager's own words appear. Docker's FORWARD policy drops what hotspot clients
send further than to the node: they reach the node's services, not the internet through it.

Undo: `hotspot = None` removes the profile and our files; where we had confined NetworkManager to
the radio it is stopped and disabled first, lest it take over the other interfaces. Packages stay.
Sources: nm-settings-keyfile(5), NetworkManager.conf(5), dnsmasq(8), RFC 1035, RFC 6761.
"""

import hashlib
import ipaddress
import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jinja2 import Environment, StrictUndefined
from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from deploys.secrets import Secret
from homeport import apt, own_files
from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.network_change import reverting
from homeport.observe import NodeFact, act
from homeport.pins import Radio
from homeport.refuse import refuse
from homeport.spec import Spec, is_host_name
from homeport_node.hotspot import CONFIG_NAME, CONNECTION, NAMES_FOLDER, PROFILE

SECRET = "hotspot.psk"
PACKAGES = ("dnsmasq-base", "iw", "network-manager", "wireless-regdb", "wpasupplicant")
HEADER = "# Managed by Homeport (hotspot). Changes are replaced by the next converge.\n"
NAMES_FILE = f"{NAMES_FOLDER}/homeport.conf"
CONFINED_FILE = "/etc/NetworkManager/conf.d/homeport-hotspot.conf"
COUNTRY_FILE = "/etc/modprobe.d/homeport-hotspot.conf"
OWN_FILES = (NAMES_FILE, CONFINED_FILE, COUNTRY_FILE)
TEMPLATE = Path(__file__).resolve().parent.parent / "templates/hotspot" / f"{PROFILE.name}.j2"

# IEEE 802.11-2020, annex E; 14 is Japan's alone, for 802.11b.
CHANNELS = {"bg": range(1, 14), "a": (*range(36, 65, 4), *range(100, 145, 4), *range(149, 166, 4))}
MAC = re.compile(r"([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hotspot(Spec):
    """A Wi-Fi network named `ssid` on `radio`, where the node is `address` (with prefix length).

    `band` is "bg" (2.4 GHz) or "a" (5 GHz); without a `channel` the driver chooses. `country`
    (ISO 3166, such as "DE") sets the regulatory domain; None leaves it as it is.
    """

    STEM = "hotspot"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"radio"})

    radio: Radio
    ssid: str
    address: str = "10.42.0.1/24"
    band: Literal["bg", "a"] = "bg"
    channel: int | None = None
    country: str | None = None

    def validate(self) -> None:
        self.require(
            "ssid",
            re.fullmatch(r"(?! )[ -:<-\[\]-~]{1,32}(?<! )", self.ssid) is not None,
            "must be 1 to 32 printable ASCII characters without ';', '\\' or spaces at the ends",
        )
        try:
            place = ipaddress.IPv4Interface(self.address)
            usable = place.ip not in (place.network[0], place.network[-1])
            usable &= place.is_private and 16 <= place.network.prefixlen <= 28
        except ValueError:
            usable = False
        self.require(
            "address",
            usable and "/" in self.address,
            "must be a private IPv4 address with a prefix length of 16 to 28, as '10.42.0.1/24'",
        )
        self.require(
            "channel",
            self.channel is None or self.channel in CHANNELS[self.band],
            f"must be a channel of band {self.band!r}: {[*CHANNELS[self.band]]}, or None",
        )
        self.require(
            "country",
            self.country is None or re.fullmatch("[A-Z]{2}", self.country) is not None,
            "must be two capital letters (ISO 3166), such as 'DE', or None",
        )
        self.require(
            "radio",
            not self.radio.mac or MAC.fullmatch(self.radio.mac) is not None,
            "must have a MAC address such as 02:00:00:00:00:01 in the targets file",
        )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """The passphrase: made on the node, or given at the desk (8 to 63 characters)."""
        return (Secret(name=SECRET),)

    @property
    def open_ports(self) -> tuple[int, ...]:
        """The TCP ports that its clients find besides those that the network sees: DNS."""
        return (53,)

    @property
    def ip(self) -> str:
        """The node's address on this network, without the prefix length."""
        return self.address.split("/", 1)[0]


class HotspotState(NodeFact):
    """{"interface": "wlan0", "profile": {"present": True, "same": True, "written": "9f…"},
    "applied": "9f…", "running_config": "0a1b…", "manages": [],
    "files": {path: {"mode": "644", "uid": 0, "gid": 0, "sha256": "…", "link": None}},
    "active": True, "enabled": True, "wifi_off": False, "country": "DE"}
    """

    stem = "hotspot"


def profile_text(spec: Hotspot) -> str:
    """The profile with the marks that the node fills: the passphrase and the writing's mark."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(spec=spec)


def config_hash(spec: Hotspot, names: tuple[str, ...]) -> str:
    """What the running dnsmasq is to say of its configuration."""
    return hashlib.sha256("\n".join([spec.ip, *names]).encode()).hexdigest()[:32]


def names_text(spec: Hotspot, names: tuple[str, ...]) -> str:
    """The configuration of dnsmasq: our names, and nothing of them forwarded."""
    lines = [f"address=/{name}/{spec.ip}\nlocal=/{name}/\n" for name in names]
    return HEADER + "".join(lines) + f"txt-record={CONFIG_NAME},{config_hash(spec, names)}\n"


def wanted_files(spec: Hotspot, names: tuple[str, ...], observed: dict[str, Any]) -> dict[str, str]:
    """{path: text} of our files; the confining one where nothing else is NetworkManager's."""
    wanted = {NAMES_FILE: names_text(spec, names)}
    others = observed.get("manages") or observed.get("active")
    if CONFINED_FILE in observed.get("files", {}) or not others:
        wanted[CONFINED_FILE] = (
            f"{HEADER}[keyfile]\nunmanaged-devices=*;except:mac:{spec.radio.mac}\n"
        )
    if spec.country:
        wanted[COUNTRY_FILE] = f"{HEADER}options cfg80211 ieee80211_regdom={spec.country}\n"
    return wanted


def running_commands(spec: Hotspot, names: tuple[str, ...], observed: dict[str, Any]) -> list[str]:
    """What brings the hotspot up as it is on the disk, once the profile is written."""
    commands = []
    if not observed.get("enabled") or not observed.get("active"):
        commands.append("systemctl enable --now NetworkManager.service")
    if spec.country and observed.get("country") != spec.country:
        commands.append(f"iw reg set {spec.country}")
    if observed.get("wifi_off"):
        commands.append("nmcli radio wifi on")
    profile = observed.get("profile", {})
    applied = profile.get("same") and observed.get("applied") == profile.get("written")
    if not applied or observed.get("running_config") != config_hash(spec, names):
        # Down first: a reload connects a profile that is to connect by itself, and begins it twice.
        commands.append(f"nmcli connection down {CONNECTION} >/dev/null 2>&1 || true")
        commands.append("nmcli connection reload")
        commands.append(f"nmcli --wait 60 connection up {CONNECTION}")
    return commands


def running_words(
    spec: Hotspot, names: tuple[str, ...], observed: dict[str, Any]
) -> Iterator[Pair]:
    """What differs of the profile, and of what runs. The profile holds the passphrase: no hash."""
    profile = observed.get("profile", {})
    if not profile.get("same"):
        there = "another content, mode or owner" if profile.get("present") else "no such file"
        yield Pair(f"{PROFILE}: as the inventory says, for root alone", there)
    if not observed.get("enabled") or not observed.get("active"):
        states = [word for word in ("enabled", "active") if observed.get(word)]
        yield Pair("NetworkManager.service: enabled, active", ", ".join(states) or "neither")
    if spec.country and observed.get("country") != spec.country:
        yield Pair(f"regulatory domain {spec.country}", observed.get("country") or "not known")
    if observed.get("wifi_off"):
        yield Pair("Wi-Fi on", "off")
    if profile.get("same") and observed.get("applied") != profile.get("written"):
        yield Pair(f"{CONNECTION}: runs as its profile on the disk", "runs otherwise, or not")
    if observed.get("running_config") != config_hash(spec, names):
        yield Pair(f"{CONNECTION}: answers names as {NAMES_FILE} says", "answers others, or none")


def _observed(spec: Hotspot | None) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(
        HotspotState,
        mac=spec.radio.mac if spec else "",
        profile=profile_text(spec) if spec else "",
        address=spec.ip if spec else "",
        files=[*OWN_FILES],
    )
    return state


@operation()
def configuration(spec: Hotspot, names: tuple[str, ...]) -> Generator[Any, None, None]:
    """Put the names and NetworkManager's limits in place, before it is installed."""
    observed = _observed(spec)
    if not observed.get("interface"):
        yield refuse(
            f"no interface of the node has the address {spec.radio.mac} of the radio "
            f"{spec.radio.handle!r}",
            "read the machine again with `bin/homeport probe HOST`, or name it under lacks",
        )
    wanted, found = wanted_files(spec, names, observed), observed.get("files", {})
    write, remove = own_files.changes(wanted, found)
    differs(own_files.words(wanted, found))
    if CONFINED_FILE in write and observed.get("manages"):
        yield refuse(
            f"NetworkManager keeps {', '.join(observed['manages'])} connected: the limits in "
            f"{CONFINED_FILE} would take that away from it",
            f"`rm {CONFINED_FILE}` there lets it keep both; else give that to who had it before",
        )
        return
    for path, text in write.items():
        yield from own_files.put(path, text)
    if remove:
        yield StringCommand(f"rm -f {' '.join(remove)}")
    if CONFINED_FILE in write and observed.get("active"):
        yield StringCommand("nmcli general reload conf")
    if not write and not remove:
        host.noop("the hotspot's names and limits are as wanted")


@operation()
def running(spec: Hotspot, names: tuple[str, ...]) -> Generator[Any, None, None]:
    """Write the profile, and bring the hotspot up with it."""
    observed = _observed(spec)
    same = observed.get("profile", {}).get("same")
    differs(running_words(spec, names, observed))
    write = [] if same else [act("hotspot", "write_profile", profile=profile_text(spec))]
    commands = running_commands(spec, names, observed)
    if not write and not commands:
        host.noop("the hotspot runs as wanted")
        return
    # The desk may sit behind this very radio, or what is connected by it.
    yield from reverting([str(PROFILE)], write, commands)


@operation()
def removed() -> Generator[StringCommand, None, None]:
    """Take back what this capability put on the node."""
    observed = _observed(None)
    found = observed.get("files", {})
    if not found and not observed.get("profile", {}).get("present"):
        host.noop("there is nothing of ours")
        return
    paths = [*found, *([str(PROFILE)] if observed.get("profile", {}).get("present") else [])]
    differs(own_files.no_longer(paths))
    # Deleting takes the network down, while NetworkManager runs: stopped first, it would leave it.
    yield StringCommand(
        f"nmcli connection delete {CONNECTION} >/dev/null 2>&1; rm -f {PROFILE} {NAMES_FILE}"
    )
    if CONFINED_FILE in found:
        # Confined by us, it has nothing but the radio; unconfined, it would take the rest. Unless
        # somebody has given it more since.
        yield StringCommand(
            "nmcli -t -f STATE device 2>/dev/null | grep -qx connected || "
            "systemctl disable --now NetworkManager.service 2>/dev/null || true"
        )
    yield StringCommand(f"rm -f {CONFINED_FILE} {COUNTRY_FILE}")


@deploy("Hotspot")
def apply(spec: Hotspot | None, names: tuple[str, ...]) -> None:
    """Open the hotspot that `spec` describes and answer `names` there; None takes it back."""
    if spec is None:
        removed(name="No hotspot of ours")
        return
    assert all(map(is_host_name, names)), names  # the caller's specs have checked them
    configuration(name="Hotspot's names and limits", spec=spec, names=names)
    apt.packages(name="Hotspot's packages", wanted=PACKAGES)
    running(name="Hotspot running", spec=spec, names=names)


CAPABILITY = Capability(
    summary="a Wi-Fi network of the node's own, with its names",
    proof="machine",
    unproven="a real radio: the kernel's simulated ones carried it",
)
