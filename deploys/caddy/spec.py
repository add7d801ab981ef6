"""What an inventory may say about Caddy, and what is made of it at the desk. No I/O but templates.

Sources: Caddy 2.6's documentation of the Caddyfile's global options, `tls internal` and
`reverse_proxy`; the rest was tried with Debian's package 2.6.2.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from homeport.spec import Spec, fail, is_host_name

ROOT = Path(__file__).resolve().parents[2]

CONFIG = "/etc/homeport/Caddyfile"
STAGED = "/etc/homeport/Caddyfile.new"
DROPIN = "/etc/systemd/system/caddy.service.d/homeport.conf"
DISTRIBUTION = "/etc/caddy/Caddyfile"  # the package's; never touched
HOME = "/var/lib/caddy"
ADMIN_PORT = 2019  # on loopback
ADMIN = f"127.0.0.1:{ADMIN_PORT}"
PKI = f"{HOME}/.local/share/caddy/pki"  # what must survive a rebuild: the clients trust it
LEAVES = f"{HOME}/.local/share/caddy/certificates/local"  # what the internal CA signed
CA_DIRECTORY = f"{PKI}/authorities/local"

PORTS = (80, 443)


@dataclass(frozen=True, kw_only=True, slots=True)
class Site(Spec):
    """One host name, `name`, and the stem of the capability that answers behind it, `to`."""

    STEM = "caddy.sites"

    name: str
    to: str

    def validate(self) -> None:
        self.require(
            "name",
            is_host_name(self.name),
            "must be a host name: labels of a-z, 0-9 and -, joined by dots",
        )
        self.require(
            "to",
            re.fullmatch(r"[a-z][a-z0-9_]*", self.to) is not None,
            "must be the stem of a capability, such as open_webui",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Caddy(Spec):
    """The sites, over HTTPS with certificates from Caddy's own CA.

    `http` says what plain HTTP does for a site's name: send the browser to HTTPS ("redirect"), or
    serve the site as well ("serve": keys and passwords then cross the network in clear).
    `max_body_mib` is the largest request, in MiB: images travel as base64 inside a chat request,
    and documents are uploaded to the UI.
    """

    STEM = "caddy"

    sites: tuple[Site, ...]
    http: Literal["redirect", "serve"] = "redirect"
    max_body_mib: int = 256

    def validate(self) -> None:
        self.require("sites", bool(self.sites), "must name at least one site")
        names = self.names
        self.require(
            "sites",
            len(set(names)) == len(names),
            "must name each host once: Caddy would not know which site is meant",
        )
        self.require(
            "max_body_mib",
            1 <= self.max_body_mib <= 65536,
            "must be between 1 and 65536 MiB",
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The host names that lead to this node."""
        return tuple(site.name for site in self.sites)


def check_backends(spec: Caddy, backends: dict[str, int]) -> None:
    """Refuse `spec` when a site leads to a capability that is not in `backends` (stem → port)."""
    for site in spec.sites:
        if site.to not in backends:
            known = ", ".join(sorted(backends)) or "none"
            fail(
                f"caddy.sites[{site.name}].to",
                site.to,
                f"must be a capability of this node that offers a port; known: {known}",
            )


def render(spec: Caddy, backends: dict[str, int]) -> str:
    """The Caddyfile: every site of `spec` with its port on the loopback interface."""
    check_backends(spec, backends)
    loader = FileSystemLoader(ROOT / "templates" / "caddy")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.get_template("Caddyfile.j2").render(
        sites=spec.sites,
        http=spec.http,
        max_body_mib=spec.max_body_mib,
        backends=backends,
        ca_directory=CA_DIRECTORY,
        admin=ADMIN,
    )


def dropin() -> str:
    """The systemd drop-in that points Debian's unit at Homeport's Caddyfile."""
    return (ROOT / "files" / "caddy" / "homeport.conf").read_text()


def trust_lines(spec: Caddy, node_address: str, fingerprint: str) -> list[str]:
    """How a person makes a machine trust this node's certificates: lines to print.

    `fingerprint` is the sha256 of the CA's certificate in hex, read on the node over ssh. The
    command compares what plain HTTP brought with it, and stops when they differ. It takes the
    address, not a name, so that it works before the client resolves the names.
    """
    pairs = ":".join(re.findall("..", fingerprint.upper()))
    address = f"[{node_address}]" if ":" in node_address else node_address
    name = f"homeport-{spec.sites[0].name}.crt"
    compare = f"openssl x509 -in {name} -noout -fingerprint -sha256 | grep -iF {pairs}"
    return [
        f"The CA's fingerprint (SHA-256): {pairs}",
        "To trust it on Debian or Ubuntu:",
        f"  curl -fsS http://{address}/ca.crt -o {name} && {compare} && "
        f"sudo install -m 644 {name} /usr/local/share/ca-certificates/ && "
        "sudo update-ca-certificates",
        "On macOS, after the same download and comparison:",
        "  sudo security add-trusted-cert -d -r trustRoot "
        f"-k /Library/Keychains/System.keychain {name}",
        f"Firefox: Settings, Certificates, Authorities, Import {name}",
    ]
