"""Finds the open TCP ports of addresses, as another machine sees them.

`python3 scan.py 192.0.2.1 192.0.2.2 …` prints {"192.0.2.1": [22, 80], …}. Runs by itself on any
machine with Python 3.9: standard library only.
"""

import errno
import json
import selectors
import socket
import sys
import time

AT_ONCE = 512


def _attempt(address: str, port: int) -> "tuple[socket.socket | None, bool]":
    """(a connection under way, or None; whether it is open already)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attempt = socket.socket(family, socket.SOCK_STREAM)
    attempt.setblocking(False)
    code = attempt.connect_ex((address, port))
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        return attempt, False
    attempt.close()
    return None, code == 0


def open_ports(address: str, ports: "range" = range(1, 65536), timeout: float = 1.0) -> "list[int]":
    """The ports among `ports` on which `address` accepts a TCP connection within `timeout` s.

    A port whose packets are dropped costs `timeout`, 512 of them at once: all 65,535 of an address
    that drops everything take about two minutes at 1 s.
    """
    found = []
    waiting = iter(ports)
    selector = selectors.DefaultSelector()
    deadlines: dict[socket.socket, tuple[int, float]] = {}
    exhausted = False
    while deadlines or not exhausted:
        while not exhausted and len(deadlines) < AT_ONCE:
            port = next(waiting, None)
            if port is None:
                exhausted = True
                break
            attempt, opened = _attempt(address, port)
            if opened:
                found.append(port)
            if attempt is not None:
                selector.register(attempt, selectors.EVENT_WRITE)
                deadlines[attempt] = (port, time.monotonic() + timeout)
        for key, _ in selector.select(0.05):
            attempt = key.fileobj  # type: ignore[assignment]
            assert attempt is not None
            if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                found.append(deadlines[attempt][0])
            _drop(selector, deadlines, attempt)
        now = time.monotonic()
        for attempt in [a for a, (_, end) in deadlines.items() if end < now]:
            _drop(selector, deadlines, attempt)
    return sorted(found)


def _drop(
    selector: selectors.BaseSelector,
    deadlines: "dict[socket.socket, tuple[int, float]]",
    attempt: socket.socket,
) -> None:
    selector.unregister(attempt)
    del deadlines[attempt]
    attempt.close()


if __name__ == "__main__":
    print(json.dumps({address: open_ports(address) for address in sys.argv[1:]}))
