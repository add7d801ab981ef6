"""What a Wi-Fi client of a node must find, checked from its seat: one function for every system.

It joins the hotspot of a converged lab machine, and proves addresses, names, certificates, the
services behind them, and that nothing else answers.
"""

import json
import secrets
from typing import Any

from homeport.lab import LabError, StepFailed
from homeport.lab.driver import Driver
from homeport.lab.resolver import ANSWER, resolver
from homeport.lab.stage import Stage
from homeport.lab.vm.client import STATE, Answer, Client, Refused

CA = f"{STATE}/ca.crt"
# A CA of Debian's bundle that has nothing to do with the node: with it, no name may verify.
STRANGER = "/etc/ssl/certs/ISRG_Root_X1.pem"
NO_ERROR, NO_SUCH_NAME = 0, 3  # RFC 1035, RCODE
SECRETS = "/etc/homeport/secrets"


def require(good: bool, words: str) -> None:
    """Raise `StepFailed` with `words` unless `good`."""
    if not good:
        raise StepFailed(words)


def hotspot_seat(on: Stage, machine: Driver, node: Any) -> str:
    """Prove the hotspot of `node` (its inventory's spec) from a client's seat; what was proved.

    Raises `StepFailed` with what was seen instead. The client leaves in any case.
    """
    client = Client(machine)
    psk = machine.succeed(f"cat {SECRETS}/hotspot.psk")
    try:
        joined(client, node, psk)
        said = [f"a client joined {node.hotspot.ssid} by WPA2"]
        if node.names:
            said.append(names(on, machine, client, node))
        if node.caddy is not None:
            said.append(trusted(machine, client, node))
        if node.llama_server is not None:
            said.append(completion(machine, client, node))
        said.append(ports(machine, client, node))
    finally:
        client.leave()
    return "; ".join(said)


def joined(client: Client, node: Any, psk: str) -> str:
    """The client's address, after a wrong passphrase was refused."""
    try:
        client.join(node.hotspot.ssid, secrets.token_hex(8))
    except Refused:
        pass
    else:
        raise StepFailed("the hotspot takes a wrong passphrase")
    try:
        address = client.join(node.hotspot.ssid, psk)
    except Refused:  # a slow machine's handshake ends like this too, when it takes too long
        address = client.join(node.hotspot.ssid, psk)
    prefix = node.hotspot.ip.rpartition(".")[0]
    require(address.startswith(f"{prefix}."), f"the client got the address {address}")
    return address


def names(on: Stage, machine: Driver, client: Client, node: Any) -> str:
    """The node's names lead to it, of every type, and no query for them goes upstream."""
    with resolver(on.neighbour, machine) as upstream:
        # Another name must arrive there, or the silence about ours proves nothing.
        other = f"{secrets.token_hex(4)}.example.org"
        wait_for(client, other)
        for name in node.names:
            found = client.resolve(name)
            wanted = Answer(NO_ERROR, (node.hotspot.ip,))
            require(found == wanted, f"{name} has the addresses {found.data} at the hotspot")
            for kind in ("AAAA", "HTTPS"):
                found = client.resolve(name, kind)
                # There is none, which is no failure of the server's.
                silent = found.code in (NO_ERROR, NO_SUCH_NAME) and not found.data
                require(silent, f"{name} {kind} answers {found.data} (code {found.code})")
        asked = upstream.asked()
    require(any(name == other for name, _ in asked), "no query reached the recording name server")
    leaked = [f"{name} (type {kind})" for name, kind in asked if name in node.names]
    require(not leaked, f"queries went upstream: {', '.join(leaked)}")
    return f"{len(node.names)} names lead to {node.hotspot.ip}, and no query for them goes upstream"


def wait_for(client: Client, name: str) -> None:
    """Ask for `name` until the recording name server is the one that answers."""
    for _ in range(10):
        if client.resolve(name).data == (ANSWER,):
            return
    raise StepFailed(f"the hotspot's name server does not ask the lab's for {name}")


def trusted(machine: Driver, client: Client, node: Any) -> str:
    """Every site verifies with the CA that the node offers, and with no other."""
    first = node.names[0]
    got = client.get(f"http://{first}/ca.crt")
    require("BEGIN CERTIFICATE" in got, f"http://{first}/ca.crt is no certificate")
    machine.put(CA, got.encode() + b"\n")
    for name in node.names:
        code = ("-o", "/dev/null", "-w", "%{ssl_verify_result} %{remote_ip}")
        # A status of 400 or above is the service's business; the certificate is what counts here.
        said = client.get(f"https://{name}/", CA, more=(*code, "--no-fail"))
        require(said == f"0 {node.hotspot.ip}", f"https://{name}/: {said}")
    try:
        client.get(f"https://{first}/", STRANGER, more=("--no-fail",))
    except LabError as error:
        require("exit 60" in str(error), f"https://{first}/ with another CA: {error}")
    else:
        raise StepFailed(f"https://{first}/ verifies with a CA that never signed it")
    return f"{len(node.names)} certificates verify with the node's CA alone"


def completion(machine: Driver, client: Client, node: Any) -> str:
    """A completion streams from the engine's site, in more than one piece."""
    sites = [site.name for site in node.caddy.sites if site.to == "llama_server"]
    require(bool(sites), "no site leads to llama_server")
    ask = {
        "model": node.llama_server.alias,
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 8,
        "stream": True,
    }
    # The key is in a file: it stays out of the arguments here too.
    key = machine.succeed(f"cat {SECRETS}/llama_server.api_key")
    machine.put(f"{STATE}/header", f"Authorization: Bearer {key}\n".encode(), mode=0o600)
    asks = ("-H", "Content-Type: application/json", "-d", json.dumps(ask))
    more = ("-N", "-H", f"@{STATE}/header", *asks)
    said = client.get(f"https://{sites[0]}/v1/chat/completions", CA, more=more, timeout=300)
    pieces = [line for line in said.splitlines() if line.startswith("data: {")]
    require(len(pieces) > 1 and "data: [DONE]" in said, f"no stream: {said[:300]!r}")
    return f"a completion streamed in {len(pieces)} pieces"


def inside(machine: Driver) -> tuple[str, ...]:
    """The addresses of the machine's containers and of their networks' gateways."""
    if machine.run("command -v docker").returncode:
        return ()
    listed = machine.succeed(
        "docker ps -q | xargs -r docker inspect "
        "-f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{end}}'"
    )
    return tuple(dict.fromkeys(listed.split()))


def ports(machine: Driver, client: Client, node: Any) -> str:
    """Of all TCP ports, those that the inventory declares answer, and no container's do.

    The client's way to everything leads through the node, that to its containers too.
    """
    here, containers = node.hotspot.ip, inside(machine)
    link = f"$(ip -o -4 address show to {here} | awk '{{print $2}}')"
    by_ipv6 = machine.succeed(f"ip -o -6 address show dev {link}")
    require(not by_ipv6, f"the hotspot has addresses that are not looked at: {by_ipv6}")
    declared = {
        here: {22, *node.open_ports, *node.hotspot.open_ports},
        machine.address: {22, *node.open_ports},
    }
    seen = client.scan(*declared, *containers)
    for address, wanted in declared.items():
        require(
            set(seen[address]) == wanted,
            f"{address} answers a Wi-Fi client on {seen[address]}, declared are {sorted(wanted)}",
        )
    reached = {one: seen[one] for one in containers if seen[one]}
    require(not reached, f"a Wi-Fi client reaches containers: {reached}")
    count = f"{len(containers)} addresses inside do not"
    return f"only ports {sorted(declared[here])} answer at {here}; {count}"
