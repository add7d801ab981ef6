"""How a node is reached: pyinfra's SSH connector, without Nagle's delay and with live output.

Hosts are addressed `@homeport/NAME`; everything else comes from the host's data, as with
`@ssh/`. paramiko never sets TCP_NODELAY, which costs about 40 ms for every command.
"""

import contextlib
import hashlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
from pyinfra.api import StringCommand
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.connectors.ssh import SSHConnector
from typing_extensions import Unpack

# Seconds between two signs of life, and how long one may go unanswered: then the node is gone.
KEEPALIVE = 15
PEER_TIMEOUT = 90

# Called with the host's name and each line that a command of an operation prints on standard
# output, as it is printed: this is how a download's progress reaches the person who waits.
on_line: Callable[[str, str], None] | None = None


def nodelay(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport over `sock` that sends small packets at once."""
    if hasattr(sock, "setsockopt"):  # a ProxyCommand's pipe is no socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; elsewhere the system's own, minutes
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PEER_TIMEOUT * 1000)
    return paramiko.Transport(sock, **kwargs)


def keep_alive(client: paramiko.SSHClient) -> None:
    """Have a connection whose other end is gone fail, instead of waiting for it for ever."""
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(KEEPALIVE)


class _Lines:
    """A command's standard output, each line shown to `on_line` on its way through."""

    def __init__(self, host: str, buffer: Any) -> None:
        self.host = host
        self.buffer = buffer
        self.channel = buffer.channel

    def __iter__(self) -> Iterator[str]:
        for line in self.buffer:
            if on_line is not None:
                on_line(self.host, line.rstrip("\n"))
            yield line


class HomeportConnector(SSHConnector):
    """`@homeport/NAME`: a node of an inventory made by `homeport.inventory`."""

    _uploads = ""

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        yield name, {}, []

    def make_paramiko_kwargs(self) -> dict[str, Any]:
        kwargs = super().make_paramiko_kwargs()
        extra = dict(kwargs["_pyinfra_ssh_paramiko_connect_kwargs"] or {})
        extra.setdefault("transport_factory", nodelay)
        kwargs["_pyinfra_ssh_paramiko_connect_kwargs"] = extra
        return kwargs

    def connect(self) -> None:
        super().connect()
        client = self.client
        assert client is not None
        keep_alive(client)
        run = client.exec_command

        def exec_command(*args: Any, **kwargs: Any) -> Any:
            stdin, stdout, stderr = run(*args, **kwargs)
            return stdin, _Lines(self.host.name, stdout), stderr

        client.exec_command = exec_command  # type: ignore[method-assign]

    def disconnect(self) -> None:
        if self._uploads and self.client is not None:
            with contextlib.suppress(OSError, paramiko.SSHException):
                self.run_shell_command(StringCommand("rm", "-rf", self._uploads))
            self._uploads = ""
        super().disconnect()

    def put_file(
        self,
        filename_or_io: Any,
        remote_filename: str,
        remote_temp_filename: str | None = None,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Unpack[ConnectorArguments],
    ) -> bool:
        """Upload a file; for a user with sudo, by way of a directory that only that user enters.

        pyinfra's own way is a name in /tmp that can be foretold, and read by everybody.
        """
        if arguments.get("_sudo"):
            name = hashlib.sha256(remote_filename.encode()).hexdigest()[:16]
            remote_temp_filename = f"{self._upload_directory()}/{name}"
        return super().put_file(
            filename_or_io,
            remote_filename,
            remote_temp_filename,
            print_output,
            print_input,
            **arguments,
        )

    def _upload_directory(self) -> str:
        """A directory of this connection's on the node, 0700, gone when it is closed."""
        if not self._uploads:
            # No arguments: as the connecting user, who is the one that SFTP writes as.
            good, output = self.run_shell_command(
                StringCommand("mktemp", "-d", "/tmp/homeport-XXXXXXXXXX")
            )
            if not good or not output.stdout_lines:
                raise OSError(f"mktemp failed on {self.host.name}: {output.stderr}")
            self._uploads = output.stdout_lines[-1].strip()
        return self._uploads
