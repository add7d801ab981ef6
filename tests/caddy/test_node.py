"""Caddy on a live node, from a client's seat and from the node itself; nothing of the fact's."""

import hashlib
import secrets
import socket
import ssl
from typing import Any

import httpx2
import pytest

from deploys.node import Node
from homeport.targets import Target

pytestmark = pytest.mark.node

# Ways past a prefix, to the key that lies beside the certificate.
TRICKS = (
    "/root.key",
    "/root.crt",
    "/intermediate.key",
    "/ca.crt/root.key",
    "/ca.crt/../root.key",
    "/ca.crt/..%2froot.key",
    "/ca.crt%2f..%2froot.key",
    "/ca.crt/%2e%2e/root.key",
    "/ca.crt/",
    "/ca.crt;/../root.key",
    "//root.key",
    "/./root.key",
    "/ca.crt?file=root.key",
    "/ca.crt%00/root.key",
    "/..%2f..%2f..%2f..%2fetc%2fpasswd",
)


@pytest.fixture(autouse=True)
def _wanted(node: Node) -> None:
    if node.caddy is None:
        pytest.skip("the inventory wants no Caddy")


@pytest.fixture(scope="module")
def plain() -> Any:
    with httpx2.Client(timeout=10, trust_env=False) as client:
        yield client


def raw(address: str, path: str, host: str) -> bytes:
    """The answer to a plain request whose path no client library has tidied."""
    with socket.create_connection((address, 80), timeout=10) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_https_by_name_is_verified_by_the_offered_ca(node: Node, seat: Any) -> None:
    with seat.client() as client:
        for name in node.names:
            assert client.get(f"https://{name}/").status_code < 500, name


def test_a_client_that_does_not_know_the_ca_refuses(node: Node, seat: Any) -> None:
    with seat.client(verify=ssl.create_default_context()) as client:
        for name in node.names:
            with pytest.raises(httpx2.ConnectError, match=r"(?i)certificate"):
                client.get(f"https://{name}/")


def test_the_offered_ca_is_the_nodes(seat: Any, host: Any) -> None:
    path = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
    on_node = host.check_output(f"sha256sum {path}").split()[0]
    assert hashlib.sha256(seat.offered_ca()).hexdigest() == on_node


def test_plain_http_does_as_the_inventory_says(node: Node, seat: Any, plain: Any) -> None:
    assert node.caddy is not None
    for name in node.names:
        answer = plain.get(f"http://{name}/some/path?a=b", follow_redirects=False)
        if node.caddy.http == "serve":
            assert answer.status_code not in (301, 302, 307, 308)
        else:
            assert answer.status_code == 308
            assert answer.headers["location"] == f"https://{name}/some/path?a=b"


def test_ca_crt_is_offered_under_any_name(node: Node, target: Target, seat: Any) -> None:
    for name in (*node.names, target.address, "no-such-site.example"):
        answer = raw(target.address, "/ca.crt", name)
        assert answer.startswith(b"HTTP/1.1 200"), name
        assert answer.count(b"-----BEGIN ") == 1, name
        assert b"-----BEGIN CERTIFICATE-----" in answer, name


@pytest.mark.parametrize("path", TRICKS)
def test_no_key_is_reachable(node: Node, target: Target, path: str) -> None:
    for name in (*node.names, target.address):
        answer = raw(target.address, path, name)
        assert answer.startswith(b"HTTP/1.1 "), answer
        assert b"PRIVATE KEY" not in answer
        assert b"root:x:0" not in answer


def test_a_name_that_is_no_site_gets_none(node: Node, target: Target, seat: Any) -> None:
    assert raw(target.address, "/", "no-such-site.example").startswith(b"HTTP/1.1 404")
    with seat.client() as client:
        answer = client.get(f"https://{node.names[0]}/", headers={"Host": "no-such-site.example"})
        assert answer.status_code == 421
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((target.address, 443), timeout=10) as connection,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(connection, server_hostname="no-such-site.example")


def test_the_admin_interface_is_not_on_the_network(target: Target) -> None:
    with pytest.raises(OSError, match=r"refused|timed out"):
        socket.create_connection((target.address, 2019), timeout=3)


def test_keys_are_not_logged(node: Node, target: Target, seat: Any, host: Any) -> None:
    """A request whose body is broken is one that Caddy logs, as an error."""
    mark, planted = f"/mark-{secrets.token_hex(8)}", f"planted-{secrets.token_hex(8)}"
    request = (
        f"POST {mark}?api_key={planted} HTTP/1.1\r\nHost: {node.names[0]}\r\n"
        f"Authorization: Bearer {planted}\r\nX-Api-Key: {planted}\r\nCookie: a={planted}\r\n"
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno length\r\n"
    )
    context = seat.trust(seat.offered_ca())
    for _ in range(3):  # a backend that answers before the body ends hides the error
        with (
            socket.create_connection((target.address, 443), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=node.names[0]) as secured,
        ):
            secured.sendall(request.encode())
            # Wait for the answer: a client that is gone is not an error that Caddy logs.
            answer = secured.recv(65536)
    journal = "journalctl -u caddy.service --no-pager -o cat -n 200"
    host.run(f"for i in 1 2 3 4 5 6 7 8 9; do {journal} | grep -q {mark} && break; sleep 0.3; done")
    text = host.check_output(journal)
    assert mark in text, answer
    assert planted not in text


def test_the_unit_survives_a_reboot_and_runs_as_caddy(host: Any) -> None:
    unit = host.service("caddy")
    assert unit.is_enabled
    assert unit.is_running
    pid = host.check_output("systemctl show -p MainPID --value caddy.service")
    assert host.check_output(f"stat -c %U /proc/{pid}") == "caddy"
    assert host.check_output("systemctl show -p NeedDaemonReload --value caddy.service") == "no"


def test_caddy_listens_where_it_should(node: Node, host: Any) -> None:
    sockets = host.check_output("ss -Hlnptu").splitlines()
    caddys = {line.split()[4] for line in sockets if '"caddy"' in line}
    ports = {address.rsplit(":", 1)[1] for address in caddys if "127.0.0.1" not in address}
    assert ports == {"80", "443"}
    assert not [line for line in sockets if line.startswith("udp") and '"caddy"' in line]


def test_no_authority_was_made_under_roots_home(host: Any) -> None:
    assert not host.file("/root/.local/share/caddy").exists
