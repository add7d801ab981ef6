"""The guard's rules, from the address pool and the networks that Docker has."""

import ipaddress
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from deploys.docker.spec import Docker

GUARD_UNIT = "homeport-docker-guard.service"
TEMPLATE = Path(__file__).resolve().parents[2] / "templates/docker/docker-guard.nft.j2"

INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")  # what may stand in a rule
DOCKERS_OWN = re.compile(r"docker0|br-[0-9a-f]{12}")  # how Docker names a bridge by itself

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True)
class Known:
    """What the rules know beyond the pool: subnets, bridges of Docker with names of their own,
    and bridges that are named like Docker's and are not."""

    subnets: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


def known(observed: dict[str, Any]) -> Known:
    """What the node tells; while Docker does not run, what the rules on the node say.

    Where somebody else gave Docker its address pools, these are guarded too: the networks to come
    are made of them. A pool with a network of the node's own in it is not: that must be reached.
    """
    networks = observed.get("networks")
    pools = {
        pool
        for pool in observed.get("daemon", {}).get("pools", ())
        if not hidden_route(ipaddress.ip_network(pool), observed)
    }
    if networks is None:
        before = remembered((observed.get("guard") or {}).get("rules") or "")
        return replace(before, subnets=tuple(sorted({*before.subnets, *pools})))
    mine = {network["interface"] for network in networks}
    named = {name for name in mine if not DOCKERS_OWN.fullmatch(name)}
    foreign = {name for name in observed.get("bridges", ()) if name.startswith("br-")} - mine
    return Known(
        subnets=tuple(sorted({one for net in networks for one in net["subnets"]} | pools)),
        inside=tuple(sorted(filter(INTERFACE.fullmatch, named))),
        outside=tuple(sorted(filter(INTERFACE.fullmatch, foreign))),
    )


def remembered(rules: str) -> Known:
    """What the text `rules` says that it knows."""
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
    beside = Known(
        tuple(
            map(str, [*ipaddress.collapse_addresses(others), *ipaddress.collapse_addresses(six)])
        ),
        beyond.inside,
        beyond.outside,
    )
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(TEMPLATE.read_text()).render(
        known=json.dumps(asdict(beside), sort_keys=True),
        subnets4=[*map(str, ipaddress.collapse_addresses([spec.pool, *others]))],
        subnets6=[*map(str, ipaddress.collapse_addresses(six))],
        inside=beyond.inside,
        outside=beyond.outside,
    )


def hidden_route(network: Network, observed: dict[str, Any]) -> str | None:
    """The route of the node, not Docker's, that `network` overlaps, in words, or None."""
    mine = {one["interface"] for one in observed.get("networks") or ()}
    for destination, interface in observed.get("routes", ()):
        if interface in mine or DOCKERS_OWN.fullmatch(interface):
            continue
        if ipaddress.ip_network(destination, strict=False).overlaps(network):
            return f"{destination} is reached through {interface or 'another machine'}"
    return None


def pool_conflict(spec: Docker, observed: dict[str, Any]) -> str | None:
    """The route of the node that the address pool would hide, in words, or None."""
    return hidden_route(spec.pool, observed)
