"""The scan finds an open port, and a closed one is not reported."""

import socket
import threading

import pytest

from homeport.scan import open_ports


def test_an_open_port_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        near = range(max(1, port - 5), min(65535, port + 5))
        assert port in open_ports("127.0.0.1", ports=near)["127.0.0.1"]
    assert open_ports("127.0.0.1", ports=[port]) == {"127.0.0.1": []}


def test_a_port_whose_packet_was_lost_is_tried_again() -> None:
    """A queue that is full drops what comes, until somebody takes from it."""
    with socket.socket() as server, socket.socket() as first:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        first.connect(server.getsockname())
        port = server.getsockname()[1]
        assert open_ports("127.0.0.1", ports=[port], timeout=0.3) == {"127.0.0.1": []}
        threading.Timer(0.45, server.accept).start()
        # The port after it is closed, and says so: the address is alive.
        closed = range(port, min(65535, port + 5))
        assert port in open_ports("127.0.0.1", ports=closed, timeout=0.3)["127.0.0.1"]


def test_a_host_name_is_scanned_at_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def resolve(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        return [(0, 0, 0, "", (place, 0)) for place in ("127.0.0.1", "127.0.0.2", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with socket.socket() as first, socket.socket() as second:
        ports = []
        for server, place in ((first, "127.0.0.1"), (second, "127.0.0.2")):
            server.bind((place, 0))
            server.listen()
            ports.append(server.getsockname()[1])
        assert open_ports("iona.example", ports=ports) == {"iona.example": sorted(ports)}
    assert asked == ["iona.example"]


def test_a_name_without_an_address_is_an_error() -> None:
    with pytest.raises(OSError, match="."):
        open_ports("no-such-host.invalid", ports=[1])
