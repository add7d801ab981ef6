"""What a first converge leaves on a machine, by name: what any other way to it must leave too."""

import re
from collections import Counter
from dataclasses import dataclass

from homeport.lab.driver import Driver

# All that Homeport writes, programs and models included; compiled bytecode appears by itself.
OWNED = (
    "/etc/homeport /var/lib/homeport /opt/homeport /srv/homeport /etc/docker /etc/hosts "
    "/etc/systemd/system /usr/local/share/ca-certificates /etc/apt/sources.list.d "
    "/usr/share/keyrings"
)

# By name: contents differ from machine to machine (keys, addresses).
STATE = f"""
find {OWNED} -name __pycache__ -prune -o -printf 'file %y %m %u:%g %p -> %l\\n'
dpkg-query -W -f 'package ${{Package}} ${{Version}} ${{db:Status-Abbrev}}\\n'
apt-mark showmanual | sed 's/^/asked for /'
systemctl list-unit-files --state=enabled --no-legend | awk '{{print "enabled", $1}}'
docker ps -a --format 'container {{{{.Names}}}} {{{{.Image}}}} {{{{.State}}}}'
docker volume ls --format 'volume {{{{.Name}}}}'
docker network ls --format 'network {{{{.Name}}}}'
docker image ls --digests --format 'image {{{{.Repository}}}} {{{{.Digest}}}}'
nft list tables
"""
# A commit, a digest or a registry's address is as good as another.
ANONYMOUS = re.compile(r"[0-9a-f]{16,}|\b\d+\.\d+\.\d+\.\d+(?=:\d)")
DPKG_LINES = "cat /var/log/dpkg.log | wc -l"


def state(machine: Driver) -> Counter[str]:
    """What is on `machine`, as lines, and how often; without commits, digests and addresses."""
    return Counter(ANONYMOUS.sub("…", line) for line in machine.succeed(STATE).splitlines())


def packaged(machine: Driver) -> int:
    """How many lines dpkg's log has: steps of packages."""
    return int(machine.succeed(DPKG_LINES))


@dataclass(frozen=True, kw_only=True, slots=True)
class Left:
    """What is there; how many steps of packages and how many containers it took."""

    state: Counter[str]
    packaged: int
    containers: int

    def differs(self, machine: Driver) -> tuple[list[str], list[str]]:
        """What is on `machine` too much, and what is missing there."""
        now = state(machine)
        return sorted(now - self.state), sorted(self.state - now)


def left(machine: Driver, packaged_before: int) -> Left:
    """What is on `machine` after its first converge, before which `packaged` was that."""
    return Left(
        state=state(machine),
        packaged=packaged(machine) - packaged_before,
        containers=int(machine.succeed("docker ps -q | wc -l")),
    )
