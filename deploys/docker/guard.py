"""The guard's rules, from the address pool and the networks that Docker has."""

import ipaddress
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from deploys.docker.spec import Docker

TEMPLATE = Path(__file__).resolve().parents[2] / "templates/docker/docker-guard.nft.j2"

INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # what may stand in a rule
DOCKERS_OWN = re.compile(r"docker0|br-[0-9a-f]{12}")  # how Docker names a bridge by itself


@dataclass(frozen=True)
class Known:
    """What the rules know beyond the pool: subnets, bridges of Docker with names of their own,
    and bridges that are named like Docker's and are not."""

    subnets: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def known(observed: dict[str, Any]) -> Known:
    """What the node tells; while Docker does not run, what the rules on the node say."""
    networks = observed.get("networks")
    if networks is None:
        return _remembered((observed.get("guard") or {}).get("rules") or "")
    mine = {network["interface"] for network in networks}
    named = {name for name in mine if not DOCKERS_OWN.fullmatch(name)}
    foreign = {name for name in observed.get("bridges", ()) if name.startswith("br-")} - mine
    return Known(
        subnets=tuple(sorted({one for network in networks for one in network["subnets"]})),
        inside=tuple(sorted(filter(INTERFACE.fullmatch, named))),
        outside=tuple(sorted(filter(INTERFACE.fullmatch, foreign))),
    )


def _remembered(rules: str) -> Known:
    match = re.search(r"^# Known: (\{.*\})$", rules, re.M)
    try:
        value = json.loads(match.group(1)) if match else {}
        return Known(**{key: tuple(one) for key, one in value.items()})
    except (ValueError, TypeError, AttributeError):
        return Known()


def rules(spec: Docker, beyond: Known) -> str:
    """The text of docker-guard.nft."""
    subnets = [ipaddress.ip_network(one) for one in beyond.subnets]
    four = [one for one in subnets if isinstance(one, ipaddress.IPv4Network)]
    six = [one for one in subnets if isinstance(one, ipaddress.IPv6Network)]
    # What lies in the pool is not written down: the file stays the same as networks come and go.
    others = [one for one in four if not one.subnet_of(spec.pool)]
    remembered = Known(
        tuple(
            map(str, [*ipaddress.collapse_addresses(others), *ipaddress.collapse_addresses(six)])
        ),
        beyond.inside,
        beyond.outside,
    )
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        known=json.dumps(asdict(remembered), sort_keys=True),
        subnets4=[*map(str, ipaddress.collapse_addresses([spec.pool, *others]))],
        subnets6=[*map(str, ipaddress.collapse_addresses(six))],
        inside=["docker0", "br-*", *beyond.inside],
        outside=beyond.outside,
    )


def pool_conflict(spec: Docker, observed: dict[str, Any]) -> str | None:
    """The route of the node that the address pool would hide, in words, or None."""
    networks = observed.get("networks") or ()
    mine = {network["interface"] for network in networks}
    for destination, interface in observed.get("routes", ()):
        if interface in mine or DOCKERS_OWN.fullmatch(interface):
            continue
        if ipaddress.IPv4Network(destination, strict=False).overlaps(spec.pool):
            return f"{destination} is reached through {interface or 'another machine'}"
    return None
