"""The least that a check of one node can take: imports, an ssh handshake, one command.

    python -m homeport.lab.bench_drift.floor ADDRESS PORT KEY KNOWN_HOSTS

A process of its own, so that the start of Python counts. It imports what a pyinfra deploy of files,
packages, users and units imports, connects as Homeport does (host key checked, no Nagle's delay),
runs `true`, and ends.
"""

import pyinfra_cli  # isort: skip  # first of all: gevent patches what comes after
import socket
import sys
from typing import Any

import paramiko
import pyinfra_cli.util  # noqa: F401
from pyinfra.connectors import ssh  # noqa: F401
from pyinfra.operations import apt, files, server, systemd  # noqa: F401


def _nodelay(sock: Any, **kwargs: Any) -> paramiko.Transport:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return paramiko.Transport(sock, **kwargs)


def main(address: str, port: int, key: str, known_hosts: str) -> None:
    """Connect as root, run `true`, and see that it went well."""
    with paramiko.SSHClient() as client:
        client.load_host_keys(known_hosts)
        client.connect(
            address,
            port,
            "root",
            key_filename=key,
            allow_agent=False,
            look_for_keys=False,
            transport_factory=_nodelay,
        )
        _, stdout, _ = client.exec_command("true")
        if stdout.channel.recv_exit_status() != 0:
            raise SystemExit("`true` failed")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4])
