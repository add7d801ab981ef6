"""The node's time zone, clock synchronisation and trusted CAs. Standard library only."""

import base64
import hashlib
import os
import re
import struct
from pathlib import Path
from typing import Any

from homeport_node.common import own_files, read, run, show_units

ZONES = "/usr/share/zoneinfo/"
# Microseconds that a clock which nobody corrects may be wrong by (NTP_PHASE_LIMIT in the kernel's
# linux/timex.h): from there on the kernel itself calls it unsynchronised.
OUT_OF_STEP = 16_000_000
# Seconds after a boot in which a clock may find its servers.
SETTLING = 600
ROUTES, UPTIME = Path("/proc/net/route"), Path("/proc/uptime")
OWN_CERTIFICATES = Path("/usr/local/share/ca-certificates")
TRUSTED = Path("/etc/ssl/certs")
BUNDLE = TRUSTED / "ca-certificates.crt"
PEM = re.compile(r"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.S)


def fingerprints(text: str) -> "list[str]":
    """The sha256, in hex, of each certificate in a PEM `text`; what is not base64 is left out."""
    found = []
    for body in PEM.findall(text):
        try:
            der = base64.b64decode("".join(body.split()), validate=True)
        except ValueError:
            continue
        found.append(hashlib.sha256(der).hexdigest())
    return found


def timezone() -> "str | None":
    """The zone that /etc/localtime names, None when it is not a link to one."""
    try:
        link = Path("/etc/localtime").readlink()
    except OSError:
        return None
    target = os.path.normpath("/etc" / link)
    return target[len(ZONES) :] if target.startswith(ZONES) else None


def unit_states(units: "list[str]") -> "dict[str, dict[str, str]]":
    """{unit: {"enabled": "enabled", "active": "inactive"}} of the `units` that are installed, or
    masked: systemd does not say then whether they are installed."""
    if not units:
        return {}
    return {
        name: {"enabled": values["UnitFileState"], "active": values["ActiveState"]}
        for name, values in show_units(*units).items()
        if values["LoadState"] in ("loaded", "masked")
    }


def clock_error() -> int:
    """Microseconds by which the clock may be wrong, as the kernel says (adjtimex(2), maxerror)."""
    import ctypes  # not where it is not needed: it takes as long as the rest

    timex = ctypes.create_string_buffer(512)  # with modes 0: nothing is set
    ctypes.CDLL(None).adjtimex(timex)
    return int(struct.unpack_from("@Illl", timex)[3])


def in_step(container: bool) -> "bool | None":
    """Whether somebody corrects the clock; None where that cannot be expected: in a container, soon
    after a boot, without a way to any time server."""
    routes = [line.split() for line in (read(ROUTES) or "").splitlines()[1:]]
    away = any(one[1] == one[7] == "00000000" for one in routes)
    up = float((read(UPTIME) or "0").split()[0])
    if container or not away or up < SETTLING:
        return None
    return clock_error() < OUT_OF_STEP


def certificates(wanted: "list[str]") -> "dict[str, Any]":
    """Our CA files, our links among the trusted, and who is in the bundle."""
    bundle = set(fingerprints(read(BUNDLE) or ""))
    return {
        "files": own_files(map(str, sorted(OWN_CERTIFICATES.glob("homeport-*.crt")))),
        "links": sorted(path.stem for path in TRUSTED.glob("homeport-*.pem")),
        "bundle": [one for one in wanted if one in bundle],
    }


def observe(zone: str, units: "list[str]", wanted: "list[str]") -> "dict[str, Any]":
    """All of it as one value; `wanted` are sha256 fingerprints of certificates."""
    etc_timezone = read("/etc/timezone")
    container = run("systemd-detect-virt", "--container", "--quiet").ok
    return {
        "timezone": timezone(),
        # Debian 13 has no /etc/timezone any more; where there is one, programs read it.
        "etc_timezone": None if etc_timezone is None else etc_timezone.strip(),
        "zone_known": Path(ZONES + zone).is_file(),
        "units": unit_states(units),
        "container": container,
        "in_step": in_step(container),
        "certificates": certificates(wanted),
    }
