"""Why a machine was not reached, in one line that ends with the next command to type."""

import functools
import shlex
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import paramiko
from pyinfra.api.exceptions import PyinfraError
from pyinfra.connectors.ssh_util import load_key_with_certificate

from homeport.describe import Reached
from homeport.spec import SpecError


def way_to(data: Mapping[str, Any]) -> Reached:
    """The way to the host with this pyinfra data."""
    return Reached(
        address=data["ssh_hostname"],
        user=data["ssh_user"],
        port=data["ssh_port"],
        key=data.get("ssh_key", ""),
    )


def why_not(way: Reached, error: BaseException, known_hosts: str = "") -> str:
    """One line: what stood in the way of the connection, and the next command to type.

    `known_hosts` says where the key that was expected is written, when not in ~/.ssh/known_hosts.
    """
    where = f"{way.user}@{way.address}:{way.port}"
    bracketed = way.address if way.port == 22 else f"[{way.address}]:{way.port}"
    port = f"-p {way.port} " if way.port != 22 else ""
    if isinstance(error, socket.gaierror):
        return f"{where}: the name does not resolve: `getent hosts {shlex.quote(way.address)}`"
    if isinstance(error, paramiko.BadHostKeyException):
        if known_hosts:
            return (
                f"{where}: shows another host key than {known_hosts} has; if the machine was "
                f"really built anew: `ssh-keyscan {port}{shlex.quote(way.address)}` prints its keys"
            )
        return (
            f"{where}: shows another host key than ~/.ssh/known_hosts has; if the machine was "
            f"really built anew: `ssh-keygen -R {shlex.quote(bracketed)}`"
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        add = shlex.join(["ssh-add", *([str(Path(way.key).expanduser())] if way.key else [])])
        return f"{where}: the key has a passphrase: `{add}`"
    if isinstance(error, paramiko.AuthenticationException) or "No authentication" in str(error):
        other = "name another as its ssh_key" if known_hosts else "name one by --key"
        return (
            f"{where}: accepts none of your ssh keys: "
            f"`ssh-copy-id {port}{shlex.quote(f'{way.user}@{way.address}')}`, or {other}"
        )
    verbose = way.ssh.replace("ssh ", "ssh -v ", 1)
    return f"{where}: no ssh connection: {_words(error)}: `{verbose} true` shows how far it gets"


def _words(error: BaseException) -> str:
    """What the system says of `error`: paramiko wraps one error for each address of a name."""
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        each = (getattr(inner, "strerror", None) or str(inner) for inner in error.errors.values())
        return ", ".join(dict.fromkeys(each))
    return str(error) or type(error).__name__


@functools.cache
def _has_passphrase(path: Path) -> bool:
    """Whether the private key at `path` has one. Raises `PyinfraError` for what is no key."""
    try:
        load_key_with_certificate(str(path), allow_prompt=False)
    except PyinfraError as error:
        if isinstance(error.__context__, paramiko.PasswordRequiredException):
            return True
        raise
    return False


def private_key(name: str, given: str) -> Path:
    """The path of the private key that host `name` is reached with. Raises `SpecError`."""
    path = Path(given).expanduser()
    where = f"hosts.{name}.ssh_key: {given!r}"
    if not path.is_file():
        raise SpecError(f"{where}: there is no such file (`ls ~/.ssh` shows yours)")
    try:
        _has_passphrase(path)
    except OSError as error:
        raise SpecError(f"{where}: {error.strerror}") from error
    except (PyinfraError, ValueError) as error:
        raise SpecError(
            f"{where}: must be a private key, RSA, ECDSA or Ed25519, as ssh-keygen makes it"
        ) from error
    return path


def check_passphrase(name: str, given: str) -> None:
    """Refuse a key whose passphrase pyinfra would ask for where nobody can answer."""
    path = Path(given).expanduser()
    if _has_passphrase(path) and not sys.stdin.isatty():
        raise SpecError(
            f"hosts.{name}.ssh_key: {given!r}: has a passphrase, and there is no terminal to ask "
            f"for it: `ssh-add {shlex.quote(str(path))}`, and take ssh_key out: the agent's keys "
            "are tried instead"
        )
