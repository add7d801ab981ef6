"""Base: packages that everything else stands on, the time zone, a clock in step, trusted CAs.

Packages come from the node's own apt sources, without recommended ones, and are never removed or
upgraded. A lock that another process holds is waited for, two minutes; then the run stops with
apt's own words, which name the process.

The clock is kept by whichever of chrony, ntpsec, openntpd or systemd-timesyncd is there, else by
systemd-timesyncd. In a container it is enabled and does not run: the clock is the host's
(`ConditionVirtualization=!container` in systemd-timesyncd.service). A clock that nobody has
corrected for hours, on a node that has a default route, is drift: its keeper is started anew. Where
that does not help, the network keeps the time servers away, or the keeper has others to be given.

CAs of the targets' `sources` go into /usr/local/share/ca-certificates/homeport-*.crt, one
certificate in each, named by fingerprint, and are removed when the targets no longer name them.
`update-ca-certificates` runs when the system's bundle is not so, and not because a file changed.

Undo by hand: remove those files and run `update-ca-certificates`.
Sources: update-ca-certificates(8), timedatectl(1), adjtimex(2), systemd-timesyncd.service(8).
"""

import re
import zoneinfo
from collections.abc import Collection, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from homeport import apt, own_files
from homeport.capability import Capability
from homeport.differs import Pair, differs, listed
from homeport.observe import NodeFact
from homeport.refuse import refuse
from homeport.spec import Spec
from homeport.targets import Target
from homeport_node.base import BUNDLE, OWN_CERTIFICATES, PEM, TRUSTED, fingerprints

PACKAGES = ("ca-certificates", "curl", "iproute2", "python3", "python3-venv", "tzdata")

# Who may keep the clock, by package, in the order in which one that is there is preferred.
CLOCKS = {
    "chrony": "chrony.service",
    "ntpsec": "ntpsec.service",
    "openntpd": "openntpd.service",
    "systemd-timesyncd": "systemd-timesyncd.service",
}
DEFAULT_CLOCK = "systemd-timesyncd"

ZONE_NAME = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+){0,2}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Base(Spec):
    """What every node has. `packages` are further Debian packages; `timezone` is an IANA name."""

    STEM = "base"

    packages: tuple[str, ...] = ()
    timezone: str = "Etc/UTC"

    def validate(self) -> None:
        self.require(
            "packages",
            all(apt.is_package_name(name) for name in self.packages),
            "must be names of Debian packages: lower-case letters, digits, '+', '-' and '.'",
        )
        known = zoneinfo.available_timezones()  # empty at a desk without a zone database
        self.require(
            "timezone",
            ZONE_NAME.fullmatch(self.timezone) is not None
            and (not known or self.timezone in known),
            "must be a time zone of the IANA database, such as 'Europe/Berlin' or 'Etc/UTC'",
        )


class BaseState(NodeFact):
    """{"timezone": "Etc/UTC", "etc_timezone": None, "zone_known": True, "container": False,
    "in_step": True,
    "units": {"chrony.service": {"enabled": "enabled", "active": "active"}},
    "certificates": {"files": {"/usr/local/share/ca-certificates/homeport-0a1b….crt": {"mode":
                               "644", "uid": 0, "gid": 0, "sha256": "…", "link": None}},
                     "links": ["homeport-0a1b…"], "bundle": ["0a1b…"]}}
    """

    stem = "base"


@dataclass(frozen=True)
class CertificateChanges:
    """What to write (path → PEM), what to remove, and whether the bundle must be made anew."""

    write: dict[str, str]
    remove: list[str]
    rebuild: bool

    def __bool__(self) -> bool:
        return self.rebuild


def split_certificates(texts: tuple[str, ...]) -> dict[str, str]:
    """{fingerprint: PEM text of that one certificate}; a text may hold several."""
    return {
        fingerprints(match.group(0))[0]: match.group(0) + "\n"
        for text in texts
        for match in PEM.finditer(text)
        if fingerprints(match.group(0))
    }


def certificate_name(fingerprint: str) -> str:
    """What our file and our link for a certificate are called, without their endings."""
    return f"homeport-{fingerprint[:16]}"


def certificate_files(wanted: dict[str, str]) -> dict[str, str]:
    """{path: PEM text} of {fingerprint: PEM text}."""
    return {
        str(OWN_CERTIFICATES / f"{certificate_name(one)}.crt"): text for one, text in wanted.items()
    }


def certificate_changes(wanted: dict[str, str], observed: dict[str, Any]) -> CertificateChanges:
    """What to do so that exactly the `wanted` certificates, of ours, are trusted."""
    write, remove = own_files.changes(certificate_files(wanted), observed.get("files", {}))
    links_differ = set(observed.get("links", ())) != set(map(certificate_name, wanted))
    bundle_lacks = set(observed.get("bundle", ())) != set(wanted)
    return CertificateChanges(
        write, remove, bool(write) or bool(remove) or links_differ or bundle_lacks
    )


def certificate_words(wanted: dict[str, str], observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the trusted CAs: of the files first, else of what is made of them."""
    changes = certificate_changes(wanted, observed)
    yield from own_files.words(certificate_files(wanted), observed.get("files", {}))
    if changes and not changes.write and not changes.remove:
        links = set(map(certificate_name, wanted))
        if links != set(observed.get("links", ())):
            there = listed(observed.get("links", ()))
            yield Pair(f"{TRUSTED}: links of ours: {listed(links)}", there)
        for fingerprint in sorted(set(wanted) - set(observed.get("bundle", ()))):
            yield Pair(f"{BUNDLE}: the CA {fingerprint[:16]}", "not in it")


def timezone_command(zone: str, observed: dict[str, Any]) -> str | None:
    """The shell text that makes `zone` the node's, None when it is."""
    steps = []
    if observed.get("timezone") != zone:
        # A link made beside and moved over: /etc/localtime is never missing.
        steps.append(
            f"ln -sfn /usr/share/zoneinfo/{zone} /etc/localtime.homeport"
            " && mv -fT /etc/localtime.homeport /etc/localtime"
        )
    if observed.get("etc_timezone") not in (None, zone):
        steps.append(f"echo {zone} > /etc/timezone")
    return " && ".join(steps) or None


def clock_package(there: Collection[str]) -> str:
    """Who keeps the clock: a package of CLOCKS, among those that are there or wanted."""
    return next((package for package in CLOCKS if package in there), DEFAULT_CLOCK)


def _masked(state: dict[str, str]) -> bool:
    return state.get("enabled", "").startswith("masked")


def clock_unit(units: dict[str, dict[str, str]]) -> str:
    """The unit that keeps the clock.

    Packages exclude each other here, so at most one unit is installed; systemd-timesyncd counts
    only where none of the others is.
    """
    there = [unit for unit in CLOCKS.values() if unit in units]
    return next(iter(sorted(there, key=lambda one: _masked(units[one]))), CLOCKS[DEFAULT_CLOCK])


def clock_command(observed: dict[str, Any]) -> str | None:
    """The shell text that puts the clock's keeper into force, None when it is."""
    units = observed.get("units", {})
    unit = clock_unit(units)
    state = units.get(unit, {})
    runs = state.get("active") == "active" or observed.get("container", False)
    if state.get("enabled") == "enabled" and runs:
        return None if observed.get("in_step") is not False else f"systemctl restart {unit}"
    unmask = f"systemctl unmask {unit}; systemctl unmask --runtime {unit}; "
    return f"{unmask if _masked(state) else ''}systemctl enable --now {unit}"


def clock_words(zone: str, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the time zone, and of the unit that keeps the clock."""
    if observed.get("timezone") != zone:
        yield Pair(f"/etc/localtime: time zone {zone}", observed.get("timezone") or "none")
    if observed.get("etc_timezone") not in (None, zone):
        yield Pair(f"/etc/timezone: time zone {zone}", observed["etc_timezone"])
    if clock_command(observed):
        unit = clock_unit(observed.get("units", {}))
        state = observed.get("units", {}).get(unit)
        there = f"{state['enabled']}, {state['active']}" if state else "not installed"
        if there == "enabled, active":
            there = f"not, though {unit} runs: do they answer?"
            yield Pair("the clock in step with its time servers", there)
        else:
            yield Pair(f"{unit}: enabled, active", there)


def _observed(spec: Base, texts: tuple[str, ...]) -> dict[str, Any]:
    wanted = split_certificates(texts)
    state: dict[str, Any] = host.get_fact(
        BaseState, zone=spec.timezone, units=[*CLOCKS.values()], wanted=[*wanted]
    )
    return state


@operation()
def base_packages(spec: Base) -> Generator[StringCommand, None, None]:
    """Install the packages, and one that keeps the clock if there is none."""
    wanted = {*PACKAGES, *spec.packages}
    state = host.get_fact(apt.AptState)
    wanted.add(clock_package({*state.get("installed", ()), *wanted}))
    yield from apt.install(wanted, state)


@operation()
def clock(spec: Base, texts: tuple[str, ...]) -> Generator[StringCommand, None, None]:
    """Set the time zone, and have the clock kept in step.

    `texts` are those of `trusted_certificates`: one look at the node serves both.
    """
    observed = _observed(spec, texts)
    zone = timezone_command(spec.timezone, observed)
    keeper = clock_command(observed)
    differs(clock_words(spec.timezone, observed))
    if zone and observed.get("zone_known") is False:
        yield refuse(
            f"the node's tzdata has no time zone {spec.timezone}",
            "name another one in base.timezone, or add 'tzdata-legacy' to base.packages",
        )
    if zone:
        yield StringCommand(zone)
    if keeper:
        yield StringCommand(keeper)
    if not zone and not keeper:
        host.noop(f"time zone is {spec.timezone}, and the clock is kept in step")


@operation()
def trusted_certificates(spec: Base, texts: tuple[str, ...]) -> Generator[Any, None, None]:
    """Have the node trust the CAs in `texts` (PEM), and none that we brought earlier."""
    wanted = split_certificates(texts)
    observed = _observed(spec, texts).get("certificates", {})
    changes = certificate_changes(wanted, observed)
    if not changes:
        host.noop("trusted CAs are as wanted")
        return
    differs(certificate_words(wanted, observed))
    for path, text in changes.write.items():
        yield from own_files.put(path, text)
    if changes.remove:
        yield StringCommand(f"rm -f {' '.join(changes.remove)}")
    # It leaves links to files that are gone; taken last, they tell of an update that was cut short.
    yield StringCommand(
        "update-ca-certificates && "
        f"find -L {TRUSTED} -maxdepth 1 -type l -lname '*homeport-*' -delete"
    )


@deploy("Base")
def apply(spec: Base, target: Target) -> None:
    """Make the node's base as `spec` says; CAs come from the target's sources."""
    base_packages(name="Base packages", spec=spec)
    texts = target.sources.ca_certificates
    trusted_certificates(name="Trusted CAs", spec=spec, texts=texts)
    clock(name="Time zone and clock", spec=spec, texts=texts)


CAPABILITY = Capability(
    summary="base packages, time zone and clock, CAs of the sources",
    proof="container",
    unproven="a clock that really is corrected: a container has its host's",
)
