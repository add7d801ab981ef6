"""A name server of the lab's that writes down what it is asked: it shows what leaks upstream."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager

from homeport.lab import LabError
from homeport.lab.driver import Driver
from homeport.lab.machine import Neighbour

ANSWER = "192.0.2.53"  # to every question for an address (RFC 5737: for documentation)
LOG = "/tmp/asked"

# Answers A queries with ANSWER and all others with nothing; every name and type goes into LOG.
PROGRAM = f"""
import json, socket, struct
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", 53))
log = open("{LOG}", "w")
while True:
    query, client = server.recvfrom(4096)
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode("ascii", "replace"))
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    print(json.dumps([".".join(labels).lower(), kind]), file=log, flush=True)
    head = query[:2] + struct.pack(">5H", 0x8180, 1, kind == 1, 0, 0)
    record = struct.pack(">HHHIH", 0xC00C, 1, 1, 0, 4) + socket.inet_aton("{ANSWER}")
    server.sendto(head + query[12 : at + 5] + (record if kind == 1 else b""), client)
"""


class Resolver:
    """A recording name server on a neighbour; made by `resolver`."""

    def __init__(self, neighbour: Neighbour) -> None:
        self.neighbour = neighbour

    def asked(self) -> list[tuple[str, int]]:
        """Every query since it began: name and type (1 A, 28 AAAA, 65 HTTPS), in order."""
        done = self.neighbour.run("cat", LOG)
        return [(name, kind) for name, kind in map(json.loads, done.stdout.decode().splitlines())]


@contextmanager
def resolver(neighbour: Neighbour, machine: Driver) -> Iterator[Resolver]:
    """The only name server of `machine`, at `neighbour`, for the length of the block."""
    before = machine.succeed("cat /etc/resolv.conf").encode() + b"\n"
    neighbour.engine.docker(
        "exec", "--detach", neighbour.container, "sh", "-c", 'exec python3 -c "$1"', "-", PROGRAM
    )
    made = Resolver(neighbour)
    try:
        _wait(neighbour)
        machine.put("/etc/resolv.conf", f"nameserver {neighbour.address}\n".encode())
        yield made
    finally:
        machine.put("/etc/resolv.conf", before)
        # Its own process, by the port that only it has.
        neighbour.python(STOP)


# The node's image has no tool that finds a process by its port.
STOP = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        words = open(f"/proc/{pid}/cmdline").read().split("\\0")
    except OSError:
        continue
    if words[0] == "python3" and "server.bind" in words[-2]:
        os.kill(int(pid), signal.SIGTERM)
"""


def _wait(neighbour: Neighbour) -> None:
    deadline = time.monotonic() + 20
    while neighbour.run("test", "-e", LOG).returncode:
        if time.monotonic() > deadline:
            raise LabError(f"{neighbour.container}: the recording name server does not start")
        time.sleep(0.1)
