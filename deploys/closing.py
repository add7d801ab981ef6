"""What a run says at its end about a node that went well: what to open, and how to trust it."""

from pyinfra.api.host import Host

from deploys.caddy import CONFIG, CaddyState, trust_lines
from deploys.node import Node
from homeport.targets import Target


def closing_lines(host: Host) -> list[str]:
    """The URLs of `host` and, with HTTPS, the CA's fingerprint and the way to trust it."""
    node: Node = host.data.node
    target: Target = host.data.target
    lines: list[str] = []
    if node.caddy is None:
        return lines
    for site in node.caddy.sites:
        path = "/v1" if site.to == "llama_server" else "/"
        lines.append(f"{host.name}: {site.to}: https://{site.name}{path}")
    observed = host.get_fact(CaddyState, config=CONFIG)
    return lines + trust_lines(node.caddy, target.address, observed["root_sha256"])
