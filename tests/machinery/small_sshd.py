"""An ssh server in this process, and a way to it that can be cut, for tests of broken connections.

Commands run on this machine, as this user, whatever key is offered.
"""

import contextlib
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import paramiko
from paramiko.common import AUTH_SUCCESSFUL, OPEN_SUCCEEDED


class _Server(paramiko.ServerInterface):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command.decode()), daemon=True).start()
        return True


def _feed(channel: paramiko.Channel, sink: IO[bytes]) -> None:
    """Pass on what the client sends, and its end."""
    with contextlib.suppress(OSError):
        while chunk := channel.recv(4096):
            sink.write(chunk)
            sink.flush()
    with contextlib.suppress(OSError):
        sink.close()


def _run(channel: paramiko.Channel, command: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, shell=True, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True).start()
        with contextlib.suppress(OSError):
            while chunk := process.stdout.read1(4096):  # type: ignore[attr-defined]
                channel.sendall(chunk)
            channel.send_exit_status(process.wait())
        process.kill()
    channel.close()


@dataclass
class Way:
    """The way to a server: `port` of 127.0.0.1, and how to cut it."""

    port: int
    host_key: str
    silent: bool = False
    pairs: list[socket.socket] = field(default_factory=list)

    def reset(self) -> None:
        """End every connection as a broken one ends: with a reset on both sides."""
        for end in self.pairs:
            linger = struct.pack("ii", 1, 0)
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                end.shutdown(socket.SHUT_RD)
            end.close()

    def carry(self, source: socket.socket, sink: socket.socket) -> None:
        """Pass on what comes; while `silent`, swallow it."""
        with contextlib.suppress(OSError):
            while chunk := source.recv(65536):
                if not self.silent:
                    sink.sendall(chunk)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


def host_data(way: Way, directory: Path) -> dict[str, Any]:
    """pyinfra's data for a host that is this server, with its key and known host in `directory`."""
    known = directory / "known_hosts"
    known.write_text(f"[127.0.0.1]:{way.port} {way.host_key}\n")
    return {
        "ssh_hostname": "127.0.0.1",
        "ssh_port": way.port,
        "ssh_user": "kim",
        "ssh_key": str(write_key(directory)),
        "ssh_known_hosts_file": str(known),
        "ssh_allow_agent": False,
    }


def write_key(directory: Path) -> Path:
    """A client's private key in `directory`: its path."""
    path = directory / "key"
    paramiko.RSAKey.generate(1024).write_private_key_file(str(path))
    return path


@contextlib.contextmanager
def small_sshd() -> Iterator[Way]:
    """A server and a way to it, for the length of the block."""
    host_key = paramiko.RSAKey.generate(1024)
    listening = socket.create_server(("127.0.0.1", 0))
    way = Way(listening.getsockname()[1], f"{host_key.get_name()} {host_key.get_base64()}")
    transports = []

    def accept() -> None:
        while True:
            try:
                near, _ = listening.accept()
            except OSError:
                return
            far, server = socket.socketpair()
            way.pairs += [near, far]
            for ends in ((near, far), (far, near)):
                threading.Thread(target=way.carry, args=ends, daemon=True).start()
            transport = paramiko.Transport(server)
            transport.add_server_key(host_key)
            transports.append(transport)
            with contextlib.suppress(EOFError, paramiko.SSHException):
                transport.start_server(threading.Event(), _Server())

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield way
    finally:
        listening.close()
        way.reset()
        for transport in transports:
            transport.close()
