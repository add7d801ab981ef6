"""Running one command on each host of an inventory, its output passed straight through."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import paramiko
from pyinfra.api.exceptions import PyinfraError
from pyinfra.api.host import Host

from homeport import alive
from homeport.reach import way_to, why_not
from homeport.run import begin
from homeport.spec import SpecError


def _where(host: Host) -> str:
    data = host.data
    return f"{data.ssh_user}@{data.ssh_hostname}:{data.ssh_port}"


def connect(host: Host) -> paramiko.SSHClient:
    """An ssh connection to `host`, made as a converge makes it: by ~/.ssh/config, and only to the
    known host key. Raises `SpecError` with the cause when there is none."""
    try:
        host.connect(show_errors=False, raise_exceptions=True)
    except PyinfraError as error:
        cause = error.__context__ or error
        raise SpecError(why_not(way_to(host.data.dict()), cause, "its targets file")) from error
    client: paramiko.SSHClient = host.connector.client  # type: ignore[attr-defined]
    return client


def run_on(
    inventory: Path,
    limit: tuple[str, ...],
    command: Callable[[Any], str],
    to: BinaryIO | None = None,
) -> Iterator[tuple[str, int]]:
    """Run `command(node)` as root on each host; yields (host name, exit status) as each ends.

    What it says goes to `to`, or to standard output for None.
    Raises `SpecError` with the causes, after the last host, when some could not be asked to the
    end.
    """
    state, _ = begin(inventory, limit, check_for_changes=False)
    causes = []
    for host in state.limit_hosts:
        try:
            status = _run(host, command(host.data.node), to or sys.stdout.buffer)
        except SpecError as error:
            causes.append(f"{host.name}: {error}")
        else:
            yield host.name, status
    if causes:
        raise SpecError("\n".join(causes))


def _run(host: Host, text: str, to: BinaryIO) -> int:
    """Run the shell `text` as root on `host`, and pass what it says on `to`. Its exit status."""
    client = connect(host)
    where = _where(host)
    try:
        with alive.in_words(client, where):
            shell = "sudo -n sh -s" if host.data.get("_sudo") else "sh -s"
            status = _pass_on(client, shell, text, to)
            if status < 0:
                alive.check(client, where)
                raise SpecError(f"{where}: the command was ended before it was done")
        return status
    except (alive.ConnectionLost, paramiko.SSHException) as error:
        raise SpecError(str(error)) from error
    finally:
        client.close()


def _pass_on(client: paramiko.SSHClient, shell: str, text: str, to: BinaryIO) -> int:
    """Give `shell` the `text`, and `to` what it says; its exit status, negative for none."""
    channel = client.get_transport().open_session()  # type: ignore[union-attr]
    channel.set_combine_stderr(True)
    channel.exec_command(shell)
    channel.sendall(text.encode())
    channel.shutdown_write()
    while chunk := channel.recv(65536):
        to.write(chunk)
        to.flush()
    return channel.recv_exit_status()
