"""Tries to reach a TCP port through a node, as a hostile neighbour on its network would.

Run as root on a machine of the same network segment, with nothing but Python:

    python3 neighbour.py INTERFACE NODE_ADDRESS DESTINATION PORT [SOURCE]

It sends SYN segments for DESTINATION:PORT in frames addressed to the node's own network card,
whatever the routing tables say: so DESTINATION may be a container's address, or 127.0.0.1, which
no ordinary program can send to from outside. Prints "open" when a SYN with ACK comes back, "shut"
for a reset, "silent" when nothing does within 3 s; exit status 0, 1, 2.
"""

import random
import socket
import struct
import sys
import time
from pathlib import Path

WAIT = 3.0  # seconds
SYN, RST, ACK = 0x02, 0x04, 0x10


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def syn(source: str, destination: str, sport: int, dport: int) -> bytes:
    """An IPv4 packet that holds a TCP SYN segment."""
    ends = socket.inet_aton(source) + socket.inet_aton(destination)
    segment = struct.pack(">HHIIBBHHH", sport, dport, 1, 0, 5 << 4, SYN, 64240, 0, 0)
    pseudo = ends + struct.pack(">BBH", 0, socket.IPPROTO_TCP, len(segment))
    segment = segment[:16] + struct.pack(">H", checksum(pseudo + segment)) + segment[18:]
    head = struct.pack(">BBHHHBBH", 0x45, 0, 40, sport, 0, 64, socket.IPPROTO_TCP, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + segment


def card(address: str) -> bytes:
    """The link-layer address of the neighbour `address`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as poke:
        poke.sendto(b"", (address, 9))  # the kernel asks for the card to send this
    time.sleep(0.3)
    for line in Path("/proc/net/arp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[0] == address and fields[3] != "00:00:00:00:00:00":
            return bytes.fromhex(fields[3].replace(":", ""))
    raise SystemExit(f"{address} is no neighbour of this machine")


def own_address(node: str) -> str:
    """The address from which this machine speaks to `node`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((node, 9))
        return str(probe.getsockname()[0])


def attempt(interface: str, node: str, destination: str, port: int, source: str) -> str:
    """ "open", "shut" or "silent"."""
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
    wire.bind((interface, 0))
    sport = random.randrange(20000, 60000)
    packet = syn(source or own_address(node), destination, sport, port)
    wire.send(card(node) + wire.getsockname()[4] + b"\x08\x00" + packet)
    deadline = time.monotonic() + WAIT
    while (left := deadline - time.monotonic()) > 0:
        wire.settimeout(left)
        try:
            frame = wire.recv(2048)
        except TimeoutError:
            break
        start = 14 + (frame[14] & 15) * 4
        if frame[23] != socket.IPPROTO_TCP or len(frame) < start + 14:
            continue
        theirs, ours = struct.unpack(">HH", frame[start : start + 4])
        if (theirs, ours) == (port, sport):
            return "open" if frame[start + 13] & SYN and frame[start + 13] & ACK else "shut"
    return "silent"


if __name__ == "__main__":
    interface, node, destination, port, *source = sys.argv[1:]
    result = attempt(interface, node, destination, int(port), source[0] if source else "")
    print(result)
    sys.exit(["open", "shut", "silent"].index(result))
