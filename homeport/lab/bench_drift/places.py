"""The nodes of a measurement: sshds of its own on a lab machine, near or behind a delay.

Each sshd listens on a port of its own and logs every session that it starts. So what a tool asked
of the node is counted on the node, the same way for every tool: a session is one remote command,
or one start of the file transfer. Each has a mount namespace of its own too, so that a drift can
be put in for one of them alone.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from homeport.lab.driver import Driver

FIRST_PORT = 2201
LOGS = "/run/bench-sshd"
UNIT = "bench-sshd-{port}"

# Debian's own settings, but for what the measurement needs. VERBOSE logs each session.
START = """
mkdir -p {logs}
for port in $(seq {first} {last}); do
    systemd-run --quiet --collect --unit=bench-sshd-$port --property=PrivateMounts=yes \
        /usr/sbin/sshd -D -p $port -E {logs}/$port -o LogLevel=VERBOSE -o PidFile=none
done
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A node as tools reach it, as root: `name` in inventories, address and port, keys' paths.

    `machine` and `node_port` are what lies behind a delay.
    """

    name: str
    address: str
    port: int
    key: Path
    known_hosts: Path
    machine: Driver
    node_port: int

    @property
    def data(self) -> dict[str, Any]:
        """pyinfra's data of such a host."""
        return {
            "ssh_hostname": self.address,
            "ssh_port": self.port,
            "ssh_user": "root",
            "ssh_key": str(self.key),
            "ssh_known_hosts_file": str(self.known_hosts),
            "ssh_strict_host_key_checking": "yes",
        }

    def at(self, port: int) -> "Place":
        """The same node behind the proxy at `port` of this machine."""
        far = replace(self, address="127.0.0.1", port=port)
        far.trust()
        return far

    def trust(self) -> None:
        """Have the node's key in the known hosts, under this address."""
        line = f"[{self.address}]:{self.port} {self.machine.host_key}\n"
        with self.known_hosts.open("a") as file:
            file.write(line)

    def sessions(self) -> int:
        """How many sessions the node has started for whoever connected."""
        log = f"{LOGS}/{self.node_port}"
        return int(self.machine.run(f"grep -c 'Starting session: ' {log}").stdout or 0)

    def alone(self, command: str) -> None:
        """Run `command` on the machine in this sshd's mount namespace."""
        unit = UNIT.format(port=self.node_port)
        pid = self.machine.succeed(f"systemctl show --value --property MainPID {unit}")
        self.machine.succeed(f"nsenter --target {pid} --mount sh -c {shlex.quote(command)}")


@contextmanager
def places(machine: Driver, directory: Path, count: int = 1) -> Iterator[tuple[Place, ...]]:
    """`count` nodes, which are sshds on `machine`; `directory` gets the known hosts."""
    last = FIRST_PORT + count - 1
    try:
        machine.succeed(START.format(logs=LOGS, first=FIRST_PORT, last=last))
        made = []
        for number in range(count):
            port = FIRST_PORT + number
            machine.wait_for_open_port(port)
            made.append(
                Place(
                    name=f"node{number + 1}",
                    address=machine.address,
                    port=port,
                    key=machine.ssh_key,
                    known_hosts=directory / "known_hosts",
                    machine=machine,
                    node_port=port,
                )
            )
            made[-1].trust()
        yield tuple(made)
    finally:
        units = UNIT.format(port="*")
        machine.run(f"systemctl stop '{units}'; rm -rf {LOGS}")


def homeport_inventory(path: Path, nodes: Sequence[Place]) -> Path:
    """Write an inventory of `nodes` for Homeport's connector."""
    hosts = [(f"@homeport/{one.name}", {**one.data, "inventory_file": str(path)}) for one in nodes]
    path.write_text(f"hosts = {hosts!r}\n")
    return path


def pyinfra_inventory(path: Path, nodes: Sequence[Place]) -> Path:
    """Write an inventory of `nodes` for pyinfra's own ssh connector."""
    path.write_text(f"hosts = {[(one.name, one.data) for one in nodes]!r}\n")
    return path


def ansible_inventory(path: Path, nodes: Sequence[Place]) -> Path:
    """Write an inventory of `nodes` for Ansible: JSON, which is YAML."""
    hosts = {
        one.name: {
            "ansible_host": one.address,
            "ansible_port": one.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(one.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={one.known_hosts}",
            "ansible_python_interpreter": "/usr/bin/python3",
        }
        for one in nodes
    }
    path.write_text(json.dumps({"all": {"hosts": hosts}}, indent=1))
    return path
