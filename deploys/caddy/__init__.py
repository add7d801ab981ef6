"""Caddy: every site by its name, over HTTPS, with certificates from a CA of the node's own.

What it ensures: Debian's Caddy runs `/etc/homeport/Caddyfile`, and nothing else, through a systemd
drop-in. Each site's name is served over HTTPS with a certificate from Caddy's internal CA; plain
HTTP is redirected, or served too where the inventory says so. `/ca.crt`, and it alone, is offered
over plain HTTP under any name and the bare address. A name that is no site gets none.

Why so: tokens stream, so there is no write timeout, no `flush_interval` (Caddy flushes event
streams itself, and -1 would keep a generation running after its client left) and no body timeout
(Go would cancel a long generation with it). Keys travel in headers and queries, so neither is
logged. The admin API listens on the loopback interface. HTTP/3 is off.

How it fails: a new configuration is validated beside the old one, as the user `caddy`, and takes
its place only when Caddy accepts it; else the run fails with Caddy's words and the old one keeps
serving. A port that another process holds, or sites of somebody's own in /etc/caddy/Caddyfile, are
refused before anything is changed: that file belongs to the distribution and its user, and
Homeport neither edits nor imports it (its global options would clash). Once Homeport has taken
over, what is written there later has no effect.

How to undo: `caddy=None` in the inventory removes both files and stops the unit. The package and
the CA (`/var/lib/caddy/.local/share/caddy/pki`, which clients trust) stay.
"""

from deploys.caddy.deploy import apply
from deploys.caddy.facts import CaddyState
from deploys.caddy.spec import (
    ADMIN_PORT,
    CA_DIRECTORY,
    CONFIG,
    PKI,
    PORTS,
    Caddy,
    Site,
    check_backends,
    trust_lines,
)
from homeport.capability import Capability

CAPABILITY = Capability(
    summary="HTTPS by name from a CA of the node's own, plain HTTP redirected, tokens streamed",
    proof="container",
)

__all__ = [
    "ADMIN_PORT",
    "CAPABILITY",
    "CA_DIRECTORY",
    "CONFIG",
    "PKI",
    "PORTS",
    "Caddy",
    "CaddyState",
    "Site",
    "apply",
    "check_backends",
    "trust_lines",
]
