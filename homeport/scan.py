"""Finds the open TCP ports of addresses, as another machine sees them.

`python3 scan.py 192.0.2.1 192.0.2.2 …` prints {"192.0.2.1": [22, 80], …}; numbers behind the
addresses are the ports to try instead of all, and `gently` spares a slow machine. Runs by itself on
any machine with Python 3.9: standard library only.
"""

import contextlib
import errno
import json
import resource
import selectors
import socket
import sys
import time
from collections.abc import Iterable

AT_ONCE = 8192
# What a slow machine's queue of packets does not lose any of: Linux's own holds 1,000.
GENTLY = 900


def _room() -> int:
    """How many connections may be tried at once, after asking for as many files as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return AT_ONCE if soft == resource.RLIM_INFINITY else max(16, min(AT_ONCE, soft - 64))


def _resolved(name: str) -> "list[str]":
    """The addresses of `name`, which may be one itself."""
    found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    return sorted({str(place[0]) for *_, place in found})


def _attempt(address: str, port: int) -> "tuple[socket.socket | None, int]":
    """(a connection under way, or None; the error with which it ended, 0 when it is open)."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    attempt = socket.socket(family, socket.SOCK_STREAM)
    attempt.setblocking(False)
    code = attempt.connect_ex((address, port))
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK):
        return attempt, code
    attempt.close()
    return None, code


class _Scan:
    """Connections under way, and what was found."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.selector = selectors.DefaultSelector()
        # In the order in which they were begun, which is the order in which they run out.
        self.waiting: dict[socket.socket, tuple[str, int, float]] = {}
        self.found: list[tuple[str, int]] = []
        self.silent: list[tuple[str, int]] = []
        self.alive: set[str] = set()

    def begin(self, address: str, port: int) -> None:
        attempt, code = _attempt(address, port)
        if attempt is None:
            self.take(address, port, code)
        else:
            self.selector.register(attempt, selectors.EVENT_WRITE)
            self.waiting[attempt] = (address, port, time.monotonic() + self.timeout)

    def settle(self) -> None:
        """Take in the connections that were answered, and give up those that ran out of time."""
        for key, _ in self.selector.select(0.02):
            attempt = key.fileobj
            assert isinstance(attempt, socket.socket)
            address, port, _ = self.waiting[attempt]
            code = attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            self.take(address, port, code)
            self.drop(attempt)
        now = time.monotonic()
        while self.waiting:
            oldest = next(iter(self.waiting))
            address, port, until = self.waiting[oldest]
            if until > now:
                break
            self.silent.append((address, port))
            self.drop(oldest)

    def take(self, address: str, port: int, code: int) -> None:
        """Take in how an attempt ended."""
        if code == 0:
            self.found.append((address, port))
        if code in (0, errno.ECONNREFUSED):
            self.alive.add(address)

    def drop(self, attempt: socket.socket) -> None:
        self.selector.unregister(attempt)
        del self.waiting[attempt]
        attempt.close()

    def run(self, wanted: "Iterable[tuple[str, int]]", at_once: int) -> None:
        """Try each of `wanted`, so many at once."""
        left = iter(wanted)
        exhausted = False
        while self.waiting or not exhausted:
            while not exhausted and len(self.waiting) < at_once:
                pair = next(left, None)
                if pair is None:
                    exhausted = True
                else:
                    self.begin(*pair)
            self.settle()


def open_ports(
    *addresses: str,
    ports: "Iterable[int]" = range(1, 65536),
    timeout: float = 1.0,
    at_once: int = AT_ONCE,
) -> "dict[str, list[int]]":
    """By address, the ports among `ports` on which it accepts a TCP connection within `timeout` s.

    A host name counts for every address it has, IPv4 and IPv6, and is resolved once. Raises
    OSError when it has none.

    A port whose packets are dropped costs `timeout`, `at_once` of them together where the limit on
    open files allows: all 65,535 of an address that drops everything take about ten seconds at 1 s
    and 8,192. Where an address answers at all, a port that is silent is tried once more, in smaller
    numbers: its packet may have been lost among so many.
    """
    scan = _Scan(timeout)
    places = {name: _resolved(name) for name in addresses}
    every = sorted({place for found in places.values() for place in found})
    tried = list(ports)
    # One first: while a neighbour's own address is asked for, the kernel keeps a few packets only.
    scan.run(((place, port) for place in every for port in tried[:1]), at_once)
    scan.silent.clear()
    wanted = ((place, port) for place in every for port in tried)
    scan.run(wanted, min(_room(), at_once))
    again = [(place, port) for place, port in scan.silent if place in scan.alive]
    scan.run(again, min(_room(), GENTLY))
    result: dict[str, list[int]] = {address: [] for address in addresses}
    for place, port in sorted(scan.found, key=lambda one: one[1]):
        for name in addresses:
            if place in places[name] and port not in result[name]:
                result[name].append(port)
    return result


if __name__ == "__main__":
    words = sys.argv[1:]
    chosen = [int(word) for word in words if word.isdigit()] or range(1, 65536)
    names = [word for word in words if not word.isdigit() and word != "gently"]
    number = GENTLY if "gently" in words else AT_ONCE
    print(json.dumps(open_ports(*names, ports=chosen, timeout=0.5, at_once=number)))
