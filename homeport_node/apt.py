"""What apt and dpkg know about some packages. Standard library only."""

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

    "ii " and, of a held one, "hi " are whole: an installation that was cut short has another.
    """
    found = {}
    for line in dpkg_query.splitlines():
        status, _, rest = line.partition("\t")
        name, _, version = rest.partition("\t")
        if status in ("ii ", "hi "):
            found[name] = version
    return found


def installed(packages: "list[str]") -> "dict[str, str]":
    """{package: version} of those of `packages` that are wholly installed."""
    if not packages:
        return {}
    shown = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
    # dpkg-query exits 1 when it knows nothing of one name, and prints the others all the same.
    return installed_versions(run("dpkg-query", "-W", "-f", shown, *packages).out)


def lists_age() -> "float | None":
    """Seconds since the package lists were fetched, None when there are none."""
    if not any(LISTS.glob("*_Packages*")):
        return None
    try:
        return max(0.0, time.time() - REFRESHED.stat().st_mtime)
    except OSError:
        return None


def observe(packages: "list[str]") -> "dict[str, Any]":
    """{"installed": {"curl": "8.14.1-2"}, "lists_age": 12.5}; the age is in seconds or None."""
    return {"installed": installed(packages), "lists_age": lists_age()}
