"""The scan finds an open port, and a closed one is not reported."""

import socket

from homeport.scan import open_ports


def test_an_open_port_is_found() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        near = range(max(1, port - 5), min(65535, port + 5))
        assert port in open_ports("127.0.0.1", ports=near)["127.0.0.1"]
    assert open_ports("127.0.0.1", ports=[port]) == {"127.0.0.1": []}
