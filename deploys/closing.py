"""What a run says at its end about a node that went well: what to open, and how to trust it."""

import socket

from pyinfra.api.host import Host

from deploys.caddy import CONFIG, CaddyState, trust_lines
from deploys.llama_server import API_KEY
from deploys.node import Node
from deploys.open_webui import ADMIN_PASSWORD
from homeport.describe import Reached
from homeport.targets import Target
from homeport_node.common import SECRETS


def closing_lines(host: Host) -> list[str]:
    """The URLs of `host`, where its secrets are and, with HTTPS, how to trust the CA."""
    node: Node = host.data.node
    target: Target = host.data.target
    ssh = Reached(
        address=target.address, user=target.user, port=target.port, key=target.ssh_key
    ).ssh
    lines = _url_lines(host.name, node, ssh)
    cat = "cat" if target.user == "root" else "sudo cat"
    if node.open_webui is not None:
        lines.append(f"Sign in as {node.open_webui.admin_email}; the first password:")
        lines.append(f"  {ssh} {cat} {SECRETS}/{ADMIN_PASSWORD}")
    if node.llama_server is not None:
        lines.append("The API key:")
        lines.append(f"  {ssh} {cat} {SECRETS}/{API_KEY}")
    if node.caddy is None:
        return lines
    lines += _name_lines(node, target.address)
    observed = host.get_fact(CaddyState, config=CONFIG)
    return lines + trust_lines(node.caddy, target.address, observed["root_sha256"])


def _url_lines(name: str, node: Node, ssh: str) -> list[str]:
    """Where each service is; what has no name is reached through a tunnel."""
    paths = {"llama_server": "/v1"}
    sites = node.caddy.sites if node.caddy else ()
    lines = [f"{name}: {one.to}: https://{one.name}{paths.get(one.to, '/')}" for one in sites]
    named = {site.to for site in sites}
    for stem, port in node.backends.items():
        if stem not in named:
            there = f"127.0.0.1:{port}"
            tunnel = ssh.replace("ssh ", f"ssh -L {port}:{there} ", 1)
            url = f"http://{there}{paths.get(stem, '/')}"
            lines.append(f"{name}: {stem}: {url} on the node; from here: {tunnel}")
    return lines


def _name_lines(node: Node, address: str) -> list[str]:
    """How a client without DNS resolves the names of `node`."""
    try:
        found = socket.getaddrinfo(address, None)
    except OSError:
        names = " ".join(node.names)
        return [f"A client needs an address for {names}: {address} does not resolve here."]
    ip = min(found, key=lambda one: one[0] != socket.AF_INET)[4][0]
    return [
        "A client that has no DNS for these names resolves them with:",
        f"  echo '{ip} {' '.join(node.names)}' | sudo tee -a /etc/hosts",
    ]
