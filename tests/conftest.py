"""What every test may use; and the fixtures of the checks that run against live nodes.

Checks marked `node` run once for each host of the inventory that `bin/homeport verify` names, and
not at all otherwise.
"""

import os
import socket
import ssl
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if not os.environ.get("HOMEPORT_VERIFY"):
    # Tests of the machinery drive pyinfra, and gevent must patch the standard library before
    # anything else has imported it. Checks of live nodes do not, and want it as it is.
    import pyinfra_cli  # noqa: F401  # isort: skip

import httpx2
import pytest

from deploys.node import Node
from homeport.inventory import HostEntry
from homeport.targets import Target
from homeport.verify import INVENTORY_VARIABLE, LIMIT_VARIABLE


def _entries() -> list[HostEntry]:
    path = os.environ.get(INVENTORY_VARIABLE)
    if not path:
        return []
    import runpy

    hosts: list[HostEntry] = runpy.run_path(path)["hosts"]
    limit = os.environ.get(LIMIT_VARIABLE, "").split()
    return [(name.removeprefix("@homeport/"), data) for name, data in hosts if _chosen(name, limit)]


def _chosen(name: str, limit: list[str]) -> bool:
    return not limit or name.removeprefix("@homeport/") in limit


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "entry" in metafunc.fixturenames:
        entries = _entries()
        metafunc.parametrize(
            "entry", entries, ids=[name for name, _ in entries], indirect=True, scope="session"
        )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without an inventory to verify, the checks on live nodes are not part of the run."""
    if os.environ.get(INVENTORY_VARIABLE):
        return
    live = [item for item in items if item.get_closest_marker("node")]
    if live:
        config.hook.pytest_deselected(items=live)
        items[:] = [item for item in items if item not in live]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Prints a line at once, whatever pytest keeps for itself."""

    def told(line: str) -> None:
        with capsys.disabled():
            print(f"\n  {line}", flush=True)

    return told


@pytest.fixture(scope="session")
def entry(request: pytest.FixtureRequest) -> HostEntry:
    """(name, pyinfra host data) of the host under verification."""
    value: HostEntry = request.param
    return value


@pytest.fixture(scope="session")
def node(entry: HostEntry) -> Node:
    """What the inventory says of the host, with GPUs, images and models resolved."""
    value: Node = entry[1]["node"]
    return value


@pytest.fixture(scope="session")
def target(entry: HostEntry) -> Target:
    """Which machine the host is."""
    value: Target = entry[1]["target"]
    return value


@pytest.fixture(scope="session")
def host(entry: HostEntry, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """testinfra's host, as root, over ssh with the host key that the targets file names."""
    import testinfra

    data = entry[1]
    config = tmp_path_factory.mktemp("ssh") / "config"
    lines = [
        "Host node",
        f"  HostName {data['ssh_hostname']}",
        f"  Port {data['ssh_port']}",
        f"  User {data['ssh_user']}",
    ]
    if data.get("ssh_key"):
        lines += [f"  IdentityFile {data['ssh_key']}", "  IdentitiesOnly yes"]
    config.write_text("\n".join(lines) + "\n")
    machine = testinfra.get_host(
        "paramiko://node", ssh_config=str(config), sudo=bool(data.get("_sudo"))
    )
    # Without this each check waits 40 ms for Nagle's algorithm and the delayed ACK.
    backend: Any = machine.backend
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # testinfra knows no host key; it is compared below
        transport = backend.client.get_transport()
    key = transport.get_remote_server_key()
    assert f"{key.get_name()} {key.get_base64()}" == entry[1]["target"].host_key
    transport.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return machine


@dataclass
class Seat:
    """A user's seat: another machine than the node, on which the node's names resolve to it."""

    address: str
    names: tuple[str, ...]
    directory: Path

    def offered_ca(self) -> bytes:
        """The CA certificate that the node offers over plain HTTP, in PEM."""
        answer = httpx2.get(f"http://{self.address}/ca.crt", timeout=10)
        answer.raise_for_status()
        return answer.content

    def trust(self, pem: bytes) -> ssl.SSLContext:
        """A TLS context that trusts `pem` and nothing else."""
        return ssl.create_default_context(cadata=pem.decode())

    def client(self, verify: bool | ssl.SSLContext | str = "offered") -> httpx2.Client:
        """An HTTP client; `verify="offered"` trusts the CA that the node offers, alone."""
        context = self.trust(self.offered_ca()) if isinstance(verify, str) else verify
        return httpx2.Client(verify=context, timeout=60, trust_env=False)


@pytest.fixture(scope="session")
def seat(node: Node, target: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seat]:
    """The seat of a client of `node`: this process resolves the node's names to its address."""
    if node.caddy is None:
        pytest.skip("this node serves no names")
    resolve = socket.getaddrinfo
    names = set(node.names)

    def getaddrinfo(name: Any, *args: Any, **kwargs: Any) -> Any:
        text = name.decode() if isinstance(name, bytes) else name
        return resolve(target.address if text in names else name, *args, **kwargs)

    socket.getaddrinfo = getaddrinfo  # type: ignore[assignment]
    try:
        yield Seat(
            address=target.address,
            names=node.names,
            directory=tmp_path_factory.mktemp("seat"),
        )
    finally:
        socket.getaddrinfo = resolve
