"""A connection whose other end is gone ends, by signs of life and by the kernel."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.connectors import ssh
from pyinfra.connectors.ssh import SSHConnector

from homeport import alive
from homeport import connector as connectors
from homeport.alive import PEER_TIMEOUT, nodelay
from homeport.connector import HomeportConnector


def test_the_kernel_gives_up_a_peer_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        transport = nodelay(near)
        try:
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            limit = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert limit == PEER_TIMEOUT * 1000
        finally:
            transport.close()
            near.close()


def test_signs_of_life_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def request(kind: str, wait: bool) -> None:
        asked.append(kind)
        assert wait
        transport.is_active = lambda: False

    transport = SimpleNamespace(is_active=lambda: True, global_request=request)
    client = SimpleNamespace(get_transport=lambda: transport, exec_command=print)
    monkeypatch.setattr(alive, "KEEPALIVE", 0.01)

    def connect(self: Any) -> None:
        self.client = client

    monkeypatch.setattr(SSHConnector, "connect", connect)
    connector = HomeportConnector.__new__(HomeportConnector)
    connector.connect()
    deadline = time.monotonic() + 5
    while not asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == ["keepalive@openssh.com"]


def test_after_a_reconnect_files_go_over_the_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = [
        SimpleNamespace(get_transport=lambda n=n: f"transport {n}", exec_command=print)
        for n in (1, 2)
    ]

    def connect(self: Any) -> None:
        self.client = clients.pop(0)

    monkeypatch.setattr(SSHConnector, "connect", connect)
    monkeypatch.setattr(connectors, "keep_alive", lambda _: None)
    monkeypatch.setattr(ssh.SFTPClient, "from_transport", lambda transport: f"files by {transport}")
    connector = HomeportConnector.__new__(HomeportConnector)
    connector.data = {"ssh_file_transfer_protocol": "sftp"}  # type: ignore[typeddict-item]
    for wanted in ("files by transport 1", "files by transport 2"):
        connector.connect()
        assert connector.get_file_transfer_connection() == wanted
        assert connector.get_file_transfer_connection() == wanted
