"""A connection whose other end is gone ends, by signs of life and by the kernel."""

import socket
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.connectors.ssh import SSHConnector

from homeport.connector import KEEPALIVE, PEER_TIMEOUT, HomeportConnector, nodelay


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
    asked: list[int] = []
    client = SimpleNamespace(
        get_transport=lambda: SimpleNamespace(set_keepalive=asked.append), exec_command=print
    )

    def connect(self: Any) -> None:
        self.client = client

    monkeypatch.setattr(SSHConnector, "connect", connect)
    connector = HomeportConnector.__new__(HomeportConnector)
    connector.connect()
    assert asked == [KEEPALIVE]
