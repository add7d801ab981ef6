"""What a run says at its end about a node that went well: what to open, and how to trust it."""

from pyinfra.api.host import Host

from deploys.caddy import CONFIG, CaddyState, trust_lines
from deploys.llama_server import API_KEY
from deploys.node import Node
from deploys.open_webui import ADMIN_PASSWORD
from homeport.targets import Target
from homeport_node.common import SECRETS


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
    port = f"-p {target.port} " if target.port != 22 else ""
    ssh = f"ssh {port}{target.user}@{target.address}"
    cat = "cat" if target.user == "root" else "sudo cat"
    if node.open_webui is not None:
        lines.append(f"Sign in as {node.open_webui.admin_email}; the first password:")
        lines.append(f"  {ssh} {cat} {SECRETS}/{ADMIN_PASSWORD}")
    if node.llama_server is not None:
        lines.append("The API key:")
        lines.append(f"  {ssh} {cat} {SECRETS}/{API_KEY}")
    lines.append("A client that has no DNS for these names resolves them with:")
    lines.append(f"  echo '{target.address} {' '.join(node.names)}' | sudo tee -a /etc/hosts")
    observed = host.get_fact(CaddyState, config=CONFIG)
    return lines + trust_lines(node.caddy, target.address, observed["root_sha256"])
