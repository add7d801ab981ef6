"""What differs, in words for a drift check: wanted, and there."""

import json
from collections.abc import Iterator
from typing import Any

from deploys.docker import guard
from deploys.docker.engine import NEEDED
from homeport.differs import Pair, content, listed
from homeport.own_files import as_put, sha256, words
from homeport_node.docker import RULES
from homeport_node.docker_daemon_json import DAEMON_JSON, RECORD

DOCKER, NFTABLES = "docker.service", "nftables.service"


def files(wanted: dict[str, str], observed: dict[str, Any]) -> Iterator[Pair]:
    """Of our files, {path: text} of those that are `wanted`."""
    found = observed.get("files", {})
    if wanted[str(RULES)] != (observed.get("guard") or {}).get("rules"):
        yield rules(wanted[str(RULES)], observed)
        # Said: it counts as it ought to be.
        found = {**found, str(RULES): as_put(wanted[str(RULES)])}
    yield from words(wanted, found)


def rules(wanted: str, observed: dict[str, Any]) -> Pair:
    """Of the guard's rules: the networks that they know of, where these differ."""
    there = (observed.get("guard") or {}).get("rules")
    if there is None:
        return Pair(f"{RULES}: the guard's rules", "no such file")
    lists = [listed(guard.remembered(text).subnets) for text in (wanted, there)]
    if lists[0] == lists[1]:
        hashes = [sha256(text) for text in (wanted, there)]
        return content(str(RULES), *hashes)
    return Pair(f"{RULES}: networks beside the pool: {lists[0]}", lists[1])


def daemon_json(wanted: dict[str, Any], daemon: dict[str, Any]) -> Iterator[Pair]:
    """Of daemon.json: our paths in it, with what the node is ready to tell of them."""
    for path in daemon["differs"]:
        there = daemon.get("there", {}).get(path, "not known")
        if path == "record":
            yield Pair(f"{RECORD}: what Homeport set in {DAEMON_JSON}", there)
            continue
        value = json.dumps(wanted[path]) if path in wanted else "not set by Homeport"
        yield Pair(f"{DAEMON_JSON}: {path} {value}", there)


def running(observed: dict[str, Any]) -> Iterator[Pair]:
    """Of the units, the rules in the kernel, and what Docker was started with."""
    units = observed.get("units", {})
    for name in NEEDED:
        if units.get(name, {}).get("masked"):
            yield Pair(f"{name}: not masked", "masked")
    for name in (guard.GUARD_UNIT, NFTABLES, DOCKER):
        unit = units.get(name, {})
        if unit.get("stale"):
            yield Pair(f"{name}: loaded as on the disk", "an older one is loaded")
        for state in ("enabled", "active") if name != NFTABLES else ():
            if not unit.get(state):
                yield Pair(f"{name}: {state}", f"not {state}")
    if units.get(guard.GUARD_UNIT, {}).get("active") and not (observed.get("guard") or {}).get(
        "same"
    ):
        yield Pair(f"the kernel's rules: those of {RULES}", "others, or none")
    paths = observed.get("daemon", {}).get("not_running")
    if units.get(DOCKER, {}).get("active") and paths:
        yield Pair(
            f"{DOCKER}: runs with {listed(paths)} of {DAEMON_JSON}", "runs with other values"
        )
