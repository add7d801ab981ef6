"""What apt and dpkg know about packages. Standard library only."""

import time
from pathlib import Path
from typing import Any

from homeport_node.common import run

LISTS = Path("/var/lib/apt/lists")
# Written by homeport/apt.py after a successful `apt-get update`. The lists themselves will not do:
# their time stamps are the archive's, and an update that finds nothing new touches none of them.
REFRESHED = Path("/var/lib/homeport/apt-refreshed")


def installed_versions(dpkg_query: str) -> "dict[str, str]":
    """{package: version} of the lines "ii  name version" that dpkg-query printed.

    "ii " is whole, and "hi ", which is held: a package whose installation was cut short has another
    status.
    """
    found = {}
    for line in dpkg_query.splitlines():
        status, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if status in ("ii ", "hi "):
            found[name] = version
    return found


def installed() -> "dict[str, str]":
    """{package: version} of those that are wholly installed."""
    return installed_versions(
        run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\t${Package}\t${Version}\n").out
    )


def lists_age() -> "float | None":
    """Seconds since the package lists were fetched, None when there are none."""
    if not any(LISTS.glob("*_Packages*")):
        return None
    try:
        return max(0.0, time.time() - REFRESHED.stat().st_mtime)
    except OSError:
        return None


def observe() -> "dict[str, Any]":
    """{"installed": {"curl": "8.14.1-2", …}, "lists_age": 12.5}; the age is in seconds or None."""
    return {"installed": installed(), "lists_age": lists_age()}
