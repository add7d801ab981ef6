"""The addresses of the lab: a /16 that nothing here uses, and a /24 of it for every lab.

With IPv6 as well where the kernel has it.
"""

import contextlib
import ipaddress
import json
import secrets
import subprocess

from homeport.lab import LabError

# The lab's networks are cut from one of these /16. Docker's usual 172.16/12 and 192.168/16 are left
# out, and so are 10.213 (the pool of the node's own Docker) and 10.42 (its hotspot).
POOLS = tuple(f"10.{n}" for n in range(214, 250))
# A wider route, as a VPN sets it for everything, is no obstacle: the lab's are more specific.
NARROW = 9


class Network:
    """A lab's network: `name`, `subnet`, and addresses handed out one by one."""

    def __init__(
        self,
        *,
        name: str,
        subnet: ipaddress.IPv4Network,
        by_ipv6: ipaddress.IPv6Network | None = None,
    ) -> None:
        self.name = name
        self.subnet = subnet
        self.by_ipv6 = by_ipv6
        self._next = 10

    def address(self) -> str:
        """A free address on the network."""
        self._next += 1
        return str(self.subnet[self._next])

    def at(self, address: str) -> list[str]:
        """Docker's words for a container at `address`, and at one of IPv6 that stays the same: left
        to itself, Docker hands out another when the container starts again."""
        words = ["--network", self.name, "--ip", address]
        number = int(ipaddress.IPv4Address(address)) - int(self.subnet.network_address)
        return words + (["--ip6", str(self.by_ipv6[number])] if self.by_ipv6 else [])


def shuffled() -> list[int]:
    """Third numbers of /24 networks to try; beginning anywhere, as other labs may be up."""
    start = secrets.randbelow(60)
    return [1 + (start + n) % 60 for n in range(60)]


def free_pool() -> str:
    """The first half of a /16 that no address of this machine and no narrow route touches."""
    done = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"ip route: {done.stderr.strip()}: `sudo apt-get install iproute2`")
    taken: dict[ipaddress.IPv4Network, str] = {}
    for route in json.loads(done.stdout or "[]"):
        with contextlib.suppress(ValueError):
            net = ipaddress.IPv4Network(route["dst"], strict=False)
            if net.prefixlen >= NARROW:
                taken[net] = f"{net} on {route.get('dev', 'no interface')}"
    in_the_way: dict[ipaddress.IPv4Network, str] = {}
    for pool in POOLS:
        network = ipaddress.IPv4Network(f"{pool}.0.0/16")
        over = {net: words for net, words in taken.items() if net.overlaps(network)}
        if not over:
            return pool
        in_the_way |= over
    raise LabError(
        f"no free network for the lab, {POOLS[0]} to {POOLS[-1]} are routed: "
        f"{', '.join(in_the_way[net] for net in sorted(in_the_way)[:5])}"
    )
