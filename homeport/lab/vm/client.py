"""A Wi-Fi client of the node's network: the second radio, in a network namespace of its own.

It has nothing of the node's but the disk: its own interface, address, routes, name server and
hosts file. WPA2 by wpa_supplicant, DHCP by busybox; `iw` and `wpa_supplicant` come with the
capability `hotspot`, so that a client can join once a converge is over. Names are asked by a
program of the lab's own, which no cache and no file answers for.

After a reboot of the machine the namespace is gone and the radio is the kernel's again: `join`.
"""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from homeport.lab import LabError
from homeport.lab.driver import Driver

NAMESPACE = "sta"
OWN = f"/etc/netns/{NAMESPACE}"  # `ip netns exec` puts these files over those in /etc
STATE = "/run/lab-client"
ON_LEASE = "/var/lib/lab-client-lease"  # Debian's initramfs mounts /run with noexec

SCAN = (Path(__file__).resolve().parents[2] / "scan.py").read_text()

# $ip, $mask (a prefix length), $router and $dns are busybox's; see "udhcpc" in its README.
LEASE = f"""\
#!/bin/sh
case $1 in bound|renew)
  ip address replace "$ip/$mask" dev "$interface"
  ip route replace default via "${{router%% *}}"
  for one in $dns; do echo "nameserver $one"; done > {OWN}/resolv.conf ;;
esac
"""

# An HTTPS record is type 65 (RFC 9460). `ask NAME TYPE`; the server is resolv.conf's first.
ASK = r"""
import json, socket, struct, sys
name, kind = sys.argv[1], {"A": 1, "AAAA": 28, "HTTPS": 65}[sys.argv[2]]
servers = [l.split()[1] for l in open("/etc/resolv.conf") if l.startswith("nameserver")]
labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
question = struct.pack(">6H", 0x4C41, 256, 1, 0, 0, 0) + labels + struct.pack(">xHH", kind, 1)
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(5)
for trial in range(4):
    ask.sendto(question, (servers[0], 53))
    try:
        answer = ask.recv(4096)
        break
    except socket.timeout:
        continue
else:
    sys.exit(f"no answer from {servers[0]}")
flags, _, count = struct.unpack(">3H", answer[2:8])
at, found = len(question), []
for _ in range(count):
    while answer[at] and answer[at] < 192:
        at += answer[at] + 1
    at += 2 if answer[at] else 1
    of, _, _, length = struct.unpack(">HHIH", answer[at : at + 10])
    data = answer[at + 10 : at + 10 + length]
    at += 10 + length
    found.append(socket.inet_ntop({4: 2, 16: 10}[length], data) if of in (1, 28) else data.hex())
print(json.dumps({"code": flags & 15, "data": found}))
"""


class Refused(LabError):
    """The network refuses the passphrase, or has broken off the handshake: both look the same."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a name server said: `code` (0 no error, 3 no such name) and the records' `data`.

    Addresses are text, other data hexadecimal.
    """

    code: int
    data: tuple[str, ...]


class Client:
    """A Wi-Fi client on the second radio of `machine`."""

    def __init__(self, machine: Driver) -> None:
        if len(machine.radios) < 2:
            raise LabError(f"{machine.name}: has no second radio for a client")
        self.machine = machine
        self.mac = machine.radios[1]

    def join(self, ssid: str, psk: str, *, timeout: float = 30) -> str:
        """Join `ssid` by WPA2 and get an address by DHCP: the address.

        Raises `Refused` when the passphrase is refused, `LabError` when no such network is there,
        or no lease comes, within `timeout` seconds (of a container's pace) each. Leaves a network
        first.
        """
        self.leave()
        settings = f'network={{\nssid="{ssid}"\nkey_mgmt=WPA-PSK\nproto=RSN\npsk="{psk}"\n}}\n'
        self.machine.succeed(f"mkdir -p {STATE} {OWN} && chmod 700 {STATE}")
        self.machine.put(f"{STATE}/wpa.conf", settings.encode(), mode=0o600)
        self.machine.put(ON_LEASE, LEASE.encode(), mode=0o755)
        self.machine.put(f"{OWN}/hosts", b"127.0.0.1\tlocalhost\n")
        self.machine.put(f"{OWN}/resolv.conf", b"")
        self.machine.succeed(
            f"phy=$(grep -lxF {self.mac} /sys/class/ieee80211/*/macaddress) && "
            f"ip netns add {NAMESPACE} && "
            f'iw phy "$(basename "${{phy%/macaddress}}")" set netns name {NAMESPACE}'
        )
        interface = self._interface()
        self._inside(
            f"wpa_supplicant -B -t -D nl80211 -i {interface} -c {STATE}/wpa.conf "
            f"-P {STATE}/pid -f {STATE}/log"
        )
        self._associated(timeout)
        patience = max(1, round(timeout * self.machine.patience / 3))
        self._inside(f"busybox udhcpc -n -q -f -i {interface} -t {patience} -T 3 -s {ON_LEASE}")
        for link in json.loads(self._inside(f"ip -json -4 address show {interface}")):
            for address in link.get("addr_info", ()):
                return str(address["local"])
        raise LabError(f"{self.machine.name}: {interface} has a lease and no address")

    def leave(self) -> None:
        """Leave the network; the radio is the kernel's again, and nothing of the client is left."""
        self.machine.succeed(
            f"if [ -e {STATE}/pid ]; then kill $(cat {STATE}/pid) 2>/dev/null; fi; "
            f"! [ -e /run/netns/{NAMESPACE} ] || ip netns delete {NAMESPACE}; "
            f"rm -rf {STATE} {OWN} {ON_LEASE}"
        )
        # The kernel hands the radio back when the last process of the namespace is gone.
        self.machine.wait_until(
            f"grep -lxF {self.mac} /sys/class/ieee80211/*/macaddress",
            timeout=10,
            what="the client's radio did not come back",
        )

    def resolve(self, name: str, kind: str = "A") -> Answer:
        """What the network's name server answers for `name`; `kind` is "A", "AAAA" or "HTTPS"."""
        said = json.loads(self.python(ASK, name, kind))
        return Answer(said["code"], tuple(said["data"]))

    def get(self, url: str, ca: str = "", *, more: tuple[str, ...] = (), timeout: int = 60) -> str:
        """The body behind `url`, by curl; `LabError` for any fault or a status of 400 or above.

        `ca` is the path on the machine of the only authority that is trusted, and `more` are
        further arguments for curl. `timeout` in seconds.
        """
        words = ["curl", "-fsS", "--max-time", str(timeout), *more]
        words += ["--cacert", ca, "--capath", "/var/empty"] if ca else []
        return self._inside(shlex.join([*words, url]), timeout=timeout + 30)

    def scan(self, *addresses: str, ports: tuple[int, ...] = ()) -> dict[str, list[int]]:
        """The open TCP ports of each of `addresses`: of all 65,535, or among `ports`."""
        said = self.python(SCAN, *addresses, *map(str, ports), "gently", timeout=900)
        found: dict[str, list[int]] = json.loads(said)
        return found

    def python(self, program: str, *arguments: str, timeout: float = 60) -> str:
        """What a Python program prints in the client's namespace."""
        words = shlex.join(["python3", "-", *arguments])
        return self._inside(words, stdin=program.encode(), timeout=timeout)

    def _inside(self, command: str, **more: Any) -> str:
        return self.machine.succeed(f"ip netns exec {NAMESPACE} {command}", **more)

    def _interface(self) -> str:
        """The interface of the client's radio, once it is in the namespace."""
        for link in json.loads(self._inside("ip -json link")):
            if link.get("address") == self.mac:
                return str(link["ifname"])
        raise LabError(f"{self.machine.name}: the radio {self.mac} has no interface")

    def _associated(self, timeout: float) -> None:
        """Wait until wpa_supplicant has joined; its refusal of the passphrase ends it at once."""
        self.machine.wait_until(
            f"grep -E 'CTRL-EVENT-CONNECTED|WRONG_KEY' {STATE}/log",
            timeout=timeout,
            what="no network joined",
        )
        log = self.machine.succeed(f"tail -n 20 {STATE}/log")
        if "CTRL-EVENT-CONNECTED" not in log:
            raise Refused(f"the network refuses the passphrase: {log.splitlines()[-1]}")
