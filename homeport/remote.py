"""Running one command on each host of an inventory, its output passed straight through."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paramiko

from homeport.alive import keep_alive, nodelay
from homeport.run import load
from homeport.spec import SpecError


def connect(data: dict[str, Any], timeout: float = 20) -> paramiko.SSHClient:
    """An ssh connection to the host with this pyinfra data; its host key must be the known one.

    `timeout` is in seconds. Raises `SpecError` with the cause when there is no connection.
    """
    client = paramiko.SSHClient()
    client.load_host_keys(data["ssh_known_hosts_file"])
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    try:
        client.connect(
            data["ssh_hostname"],
            port=data["ssh_port"],
            username=data["ssh_user"],
            key_filename=data.get("ssh_key"),
            timeout=timeout,
            transport_factory=nodelay,
        )
    except (OSError, paramiko.SSHException) as error:
        where = f"{data['ssh_user']}@{data['ssh_hostname']}:{data['ssh_port']}"
        raise SpecError(f"{where}: cannot connect: {error}") from error
    keep_alive(client)
    return client


def check_reachable(inventory: Path, limit: tuple[str, ...]) -> None:
    """Connect to each host once. Raises `SpecError` with the cause for the first that cannot be."""
    for host in load(inventory, limit):
        if not limit or host.name in limit:
            connect(host.data.dict()).close()


def run_on(
    inventory: Path, limit: tuple[str, ...], command: Callable[[Any], str]
) -> Iterator[tuple[str, int]]:
    """Run `command(node)` as root on each host; yields (host name, exit status) as each ends."""
    for host in load(inventory, limit):
        if limit and host.name not in limit:
            continue
        data = host.data.dict()
        client = connect(data)
        text = command(data["node"])
        prefix = "sudo -n " if data.get("_sudo") else ""
        channel = client.get_transport().open_session()  # type: ignore[union-attr]
        channel.set_combine_stderr(True)
        channel.exec_command(f"{prefix}sh -s")
        channel.sendall(text.encode())
        channel.shutdown_write()
        while chunk := channel.recv(65536):
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        yield host.name, channel.recv_exit_status()
        client.close()
