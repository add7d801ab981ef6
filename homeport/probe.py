"""Reads a machine over ssh and writes its targets file: what it is, as comments, and the handles.

One connection and one command, which runs `homeport_node/probe.py` from standard input: nothing is
put on the machine. The host key is trusted on this first use, unless ~/.ssh/known_hosts has it
already, and the text says so.
"""

import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paramiko

from homeport.alive import nodelay
from homeport.describe import Observed, Reached, Seen, render
from homeport.observe import program
from homeport.reach import why_not
from homeport.spec import SpecError

# paramiko logs what it raises as well, with a traceback: the one line of ours is enough.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

CONNECT_TIMEOUT = 15  # seconds
READ_TIMEOUT = 120  # seconds: nvidia-smi without the persistence daemon may take 20 by itself

NO_PYTHON, NO_SUDO = 3, 4  # exit statuses of the command below
COMMAND = (
    f"command -v python3 >/dev/null || exit {NO_PYTHON}; "
    f'if [ "$(id -u)" = 0 ]; then exec python3 -; fi; '
    f"sudo -n true 2>/dev/null || exit {NO_SUDO}; exec sudo -n python3 -"
)


def probe(
    address: str,
    *,
    user: str = "root",
    port: int = 22,
    key: str = "",
    name: str = "",
    handles: Mapping[str, Sequence[str]] | None = None,
    known: Mapping[str, str] | None = None,
) -> str:
    """The text of a targets file for the machine at `address`, called `name` in the inventory.

    `handles` are what an inventory asks for: {"gpus": ["left", …], "radios": ["hotspot"]}; `known`
    is what its targets file says so far, as `targets_text.known` reads it. Raises `SpecError`, one
    line with the next command to type, when the machine cannot be read.
    """
    way = Reached(address=address, user=user, port=port, key=key)
    client = _connect(way)
    try:
        seen = _seen(client, way)
        observed = _read(client, way)
    finally:
        client.close()
    return render(way, seen, observed, name or address.split(".")[0], handles or {}, known)


def _connect(way: Reached) -> paramiko.SSHClient:
    """A connection, with any host key that ~/.ssh/known_hosts does not contradict."""
    if way.key and not Path(way.key).expanduser().is_file():
        raise SpecError(f"--key {way.key}: there is no such file: `ls ~/.ssh` shows your keys")
    client = paramiko.SSHClient()
    client.load_system_host_keys()
    client.set_missing_host_key_policy(_Accept())
    try:
        client.connect(
            way.address,
            port=way.port,
            username=way.user,
            key_filename=str(Path(way.key).expanduser()) if way.key else None,
            allow_agent=not way.key,
            look_for_keys=not way.key,
            timeout=CONNECT_TIMEOUT,
            banner_timeout=CONNECT_TIMEOUT,
            auth_timeout=CONNECT_TIMEOUT,
            transport_factory=nodelay,
        )
    except (OSError, UnicodeError, paramiko.SSHException) as error:  # UnicodeError: a wrong name
        client.close()
        raise SpecError(why_not(way, error)) from error
    return client


class _Accept(paramiko.MissingHostKeyPolicy):
    """Takes any key of a machine that is not known yet: what it was is part of the answer."""

    def missing_host_key(self, client: Any, hostname: str, key: paramiko.PKey) -> None:
        pass


def _seen(client: paramiko.SSHClient, way: Reached) -> Seen:
    transport = client.get_transport()
    assert transport is not None
    key = transport.get_remote_server_key()
    host = way.address if way.port == 22 else f"[{way.address}]:{way.port}"
    known = paramiko.HostKeys()
    path = Path("~/.ssh/known_hosts").expanduser()
    if path.is_file():
        known.load(str(path))
    return Seen(host_key=f"{key.get_name()} {key.get_base64()}", known=known.check(host, key))


def _read(client: paramiko.SSHClient, way: Reached) -> Observed:
    """What the program aboard says of the machine."""
    transport = client.get_transport()
    assert transport is not None
    try:
        channel = transport.open_session(timeout=CONNECT_TIMEOUT)
        channel.settimeout(READ_TIMEOUT)
        channel.exec_command(f"sh -c {shlex.quote(COMMAND)}")
        try:
            channel.sendall(program("probe", {}).encode())
            channel.shutdown_write()
        except OSError:  # the command ended before it read; its status says why
            pass
        output = channel.makefile("rb").read()
        words = channel.makefile_stderr("rb").read().decode(errors="replace")
        status = channel.recv_exit_status()
    except (OSError, paramiko.SSHException) as error:
        raise SpecError(f"{way.address}: broke off while it was read: {error}") from error
    where = f"{way.user}@{way.address}"
    sudo = "" if way.user == "root" else "sudo "
    if status == NO_PYTHON:
        install = f"`{way.ssh} {shlex.quote(f'{sudo}apt-get install -y python3')}`"
        raise SpecError(f"{where}: has no python3, which Homeport needs there: {install}")
    if status == NO_SUDO:
        raise SpecError(
            f"{where}: needs sudo without a password: as root there, "
            f"`echo '{way.user} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{way.user}`"
        )
    try:
        observed: Observed = json.loads(output)
    except ValueError as error:
        last = (words.strip().splitlines() or ["no output"])[-1]
        raise SpecError(
            f"{where}: could not be read (exit status {status}): {last}: `{way.ssh} python3 -V`"
        ) from error
    return observed
