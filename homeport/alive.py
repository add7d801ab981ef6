"""Whether the other end of an ssh connection is still there, and words for when it is not.

The kernel knows only the connection's next hop: behind a jump host, a VPN's client or a proxy that
still acknowledges, a node that is gone looks like one that has nothing to say. So the node's own
sshd is asked, as OpenSSH's ServerAliveInterval does.
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import paramiko

from homeport.spec import fail

# Seconds for which a node may give no sign of life before it is given up. A person on a line with
# long gaps sets more, for one run.
PEER_TIMEOUT = 90
PEER_TIMEOUT_VARIABLE = "HOMEPORT_PEER_TIMEOUT"
# Seconds between two questions, at most.
KEEPALIVE = 15.0


class ConnectionLost(OSError):
    """The connection to the node broke; the text is for a person."""


def peer_timeout() -> int:
    """Seconds to wait for a sign of life. Raises `SpecError` when the environment says nonsense."""
    given = os.environ.get(PEER_TIMEOUT_VARIABLE) or str(PEER_TIMEOUT)
    if not given.isdecimal() or int(given) < 1:
        fail(PEER_TIMEOUT_VARIABLE, given, "must be a whole number of seconds, 1 or more")
    return int(given)


def nodelay(sock: Any, **kwargs: Any) -> paramiko.Transport:
    """A paramiko transport over `sock` that sends small packets at once."""
    if hasattr(sock, "setsockopt"):  # a ProxyCommand's pipe is no socket
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; it also ends an upload that is stuck
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, peer_timeout() * 1000)
    return paramiko.Transport(sock, **kwargs)


def keep_alive(client: paramiko.SSHClient) -> None:
    """Have a connection whose other end is gone fail, instead of waiting for it for ever."""
    transport = client.get_transport()
    if transport is not None:
        patience = peer_timeout()
        pause = min(KEEPALIVE, patience / 3)
        threading.Thread(target=_beat, args=(transport, pause, patience), daemon=True).start()


def _beat(transport: Any, pause: float, patience: float) -> None:
    """Ask for a sign of life every `pause` seconds; when none comes for `patience` s, give up."""
    time.sleep(pause)
    while transport.is_active():
        limit = threading.Timer(patience, _give_up, (transport, patience))
        limit.daemon = True
        limit.start()
        try:
            # A server refuses requests that it does not know (RFC 4254, 4): that is an answer.
            transport.global_request("keepalive@openssh.com", wait=True)
        except (OSError, EOFError, paramiko.SSHException):
            return  # whoever uses the connection is told
        finally:
            limit.cancel()
        time.sleep(pause)


def _give_up(transport: Any, patience: float) -> None:
    # paramiko's own note of what went wrong is overwritten while it closes.
    transport.given_up = f"no sign of life for {patience:g} s"
    transport.close()


def why_lost(transport: Any, cause: BaseException | None = None) -> str:
    """Why the connection is no more, in words; "" while it stands.

    `cause` is what its user was told, which may be the only one who knows.
    """
    if transport is None:
        return ""
    if given_up := getattr(transport, "given_up", ""):
        return str(given_up)
    # A channel ends a moment before the connection says that it is not active.
    known = transport.saved_exception
    if transport.is_active() and known is None:
        return ""
    for error in (known, cause):
        if isinstance(error, OSError) and error.errno:
            return (error.strerror or os.strerror(error.errno)).lower()
    return "the node or something on the way closed it"


@contextlib.contextmanager
def in_words(client: paramiko.SSHClient | None, where: str) -> Iterator[None]:
    """Raise `ConnectionLost` when the connection of `client` to `where` breaks in the block.

    paramiko raises EOFError for some of the ways in which it does, which pyinfra does not expect.
    """
    try:
        yield
    except (OSError, EOFError, paramiko.SSHException) as error:
        check(client, where, error)
        if isinstance(error, EOFError):
            raise paramiko.SSHException(f"{where} closed the channel") from error
        raise


def check(
    client: paramiko.SSHClient | None, where: str, cause: BaseException | None = None
) -> None:
    """Raise `ConnectionLost` when the connection of `client` to `where` is no more."""
    reason = why_lost(client.get_transport() if client else None, cause)
    if reason:
        raise ConnectionLost(
            f"the connection to {where} broke: {reason}. What was begun there may still go on; "
            "the next converge waits for that, and goes on from there"
        ) from cause
