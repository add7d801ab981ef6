"""What an inventory says about Docker, and what that means in daemon.json."""

import ipaddress
import re
from dataclasses import dataclass
from typing import Any

from homeport.spec import Spec

# The private ranges of RFC 1918; Docker masks addresses of other ranges that may be needed.
PRIVATE = tuple(map(ipaddress.IPv4Network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")))
NETWORK_BITS = 24  # the size of each network that Docker takes from the pool


@dataclass(frozen=True, kw_only=True, slots=True)
class Docker(Spec):
    """Docker. All its networks come from `address_pool`, /24 by /24; the first is docker0's.

    Each container keeps at most `log_files` log files of `log_max_size` (a number with k, m or g,
    in the powers of 1024 that Docker means by them).
    """

    STEM = "docker"

    address_pool: str = "10.213.0.0/16"
    log_max_size: str = "10m"
    log_files: int = 3

    def validate(self) -> None:
        allowed = (
            "must be a private IPv4 network (RFC 1918) of /22 or more, without host bits, such as "
            "'10.213.0.0/16': every Compose project takes a /24 of it"
        )
        try:
            pool = ipaddress.IPv4Network(self.address_pool)
        except ValueError:
            self.require("address_pool", False, allowed)
            return
        private = any(pool.subnet_of(one) for one in PRIVATE)
        self.require("address_pool", private and 8 <= pool.prefixlen <= 22, allowed)
        self.require(
            "log_max_size",
            re.fullmatch(r"[1-9][0-9]{0,5}[kmg]", self.log_max_size) is not None,
            "must be a size such as '10m': a number with k, m or g",
        )
        self.require("log_files", 1 <= self.log_files <= 100, "must be 1 to 100 files")

    @property
    def pool(self) -> ipaddress.IPv4Network:
        return ipaddress.IPv4Network(self.address_pool)


def daemon_values(spec: Docker) -> dict[str, Any]:
    """{path in daemon.json: value}; "a/b" is key b in the object at a."""
    first = next(spec.pool.subnets(new_prefix=NETWORK_BITS))
    return {
        "bip": f"{first[1]}/{NETWORK_BITS}",
        "default-address-pools": [{"base": str(spec.pool), "size": NETWORK_BITS}],
        "features/cdi": True,
        "log-driver": "local",
        "log-opts": {"max-size": spec.log_max_size, "max-file": str(spec.log_files)},
    }
