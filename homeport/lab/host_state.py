"""What of the host a lab must leave as it was, as one value to compare before and after.

A snapshot holds lines of text by subject. Two snapshots of an unchanged host are equal, apart from
what the host does by itself: `changes` says what differs.
"""

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

# Sysctls that a container engine or a machine inside it might set.
SYSCTLS = (
    "kernel/hostname",
    "kernel/panic",
    "kernel/sysrq",
    "kernel/core_pattern",
    "kernel/dmesg_restrict",
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/send_redirects",
    "net/ipv4/ip_unprivileged_port_start",
    "net/ipv6/conf/all/forwarding",
    "net/ipv6/conf/all/disable_ipv6",
    "net/bridge/bridge-nf-call-iptables",
    "vm/overcommit_memory",
    "vm/max_map_count",
    "vm/swappiness",
)

# Modules that the kernel loads by itself for any container network or overlay, and keeps: they
# change nothing for others, and removing them could.
MODULES_THAT_MAY_COME = frozenset(
    [
        "overlay",
        "bridge",
        "stp",
        "llc",
        "veth",
        "br_netfilter",
        "tun",
        "nf_conntrack",
        "nf_conntrack_netlink",
        "nf_defrag_ipv4",
        "nf_defrag_ipv6",
        "nf_nat",
        "nf_tables",
        "nfnetlink",
        "nft_chain_nat",
        "nft_compat",
        "x_tables",
        "ip_tables",
        "iptable_filter",
        "iptable_nat",
        "xt_MASQUERADE",
        "xt_addrtype",
        "xt_comment",
        "xt_conntrack",
        "xt_tcpudp",
        "xfrm_user",
        "xfrm_algo",
    ]
)

# How far the wall clock may move against the monotonic one, in seconds: NTP slews by less.
CLOCK_TOLERANCE = 0.5


@dataclass(frozen=True, slots=True)
class HostState:
    """A snapshot: subject to its lines, and the wall clock's lead over the monotonic one in s."""

    facts: dict[str, frozenset[str]]
    clock: float


def _lines(*command: str, environment: dict[str, str] | None = None) -> frozenset[str]:
    """What a command prints, as a set of lines; one line that says so when it cannot be run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return frozenset({f"cannot run {command[0]}: {type(error).__name__}"})
    return frozenset(line.strip() for line in done.stdout.splitlines() if line.strip())


def _sysctls() -> frozenset[str]:
    found = set()
    for name in SYSCTLS:
        path = Path("/proc/sys", name)
        if path.exists():
            found.add(f"{name} = {path.read_text().strip()}")
    return frozenset(found)


def _interfaces() -> frozenset[str]:
    """Name, type, and the addresses of every interface; without state and peer indexes."""
    done = _lines("ip", "-json", "address")
    found = set()
    for link in json.loads("".join(done) or "[]"):
        kept = [
            f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"] if a["scope"] == "global"
        ]
        found.add(" ".join([link["ifname"], link["link_type"], *sorted(kept)]))
    return frozenset(found)


def _rules() -> frozenset[str]:
    """The packet filter without its counters and the dates in iptables-save's comments."""
    found: set[str] = set()
    for program in ("iptables-save", "ip6tables-save"):
        table = ""
        for line in _ordered(program):
            if line.startswith("*"):
                table = line
            elif not line.startswith("#") and line != "COMMIT":
                found.add(f"{program} {table} {line.split(' [')[0]}")
    return frozenset(found)


def _ordered(command: str) -> list[str]:
    try:
        done = subprocess.run([command], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return []
    return done.stdout.splitlines()


def _listening() -> frozenset[str]:
    """Protocol and local address of every listening socket, Unix sockets by path.

    Without loopback ports that the kernel picked: any program opens such for itself at any time.
    """
    lowest, highest = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    found = set()
    for line in _lines("ss", "--no-header", "--listening", "--numeric", "--tcp", "--udp"):
        words = line.split()
        address, _, port = words[4].rpartition(":")
        picked = port.isdigit() and lowest <= int(port) <= highest
        if not (picked and address.startswith(("127.", "[::1]"))):
            found.add(f"{words[0]} {words[4]}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        words = line.split()
        if len(words) == 8 and words[3] == "00010000" and not words[7].startswith("@"):
            found.add(f"unix {words[7]}")
    return frozenset(found)


def _processes() -> frozenset[str]:
    """The lab's processes: those in its cgroups, its keeper, and its private daemon's."""
    marks = (f"{tempfile.gettempdir()}/homeport-".encode(), b"lab/keeper.py")
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes()
            ours = b"homeport-lab" in (path / "cgroup").read_bytes()
        except OSError:
            continue  # it has just ended
        if ours or any(mark in words for mark in marks):
            found.add(f"{path.name} {words.split(bytes(1))[0].decode(errors='replace')}")
    return frozenset(found)


def _cgroups() -> frozenset[str]:
    return frozenset(str(path) for path in Path("/sys/fs/cgroup").glob("**/homeport-lab*"))


def _modules() -> frozenset[str]:
    path = Path("/proc/modules")
    names = {line.split()[0] for line in path.read_text().splitlines()} if path.exists() else set()
    return frozenset(names - MODULES_THAT_MAY_COME)


def _mounts() -> frozenset[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # Place, and what is mounted there; ids and optional fields are the kernel's own business.
    return frozenset(f"{w[4]} {w[w.index('-') + 1]}" for w in (line.split() for line in lines))


def _directories() -> frozenset[str]:
    """Directories outside its cache that a container engine writes without being asked."""
    places = ("/etc/docker", "/run/docker", "/run/containerd", "/var/lib/docker", "/etc/containerd")
    found = set()
    for place in map(Path, places):
        if place.exists():
            found.add(str(place))
            found |= {str(path) for path in place.iterdir()}
    found |= {str(path) for path in Path(tempfile.gettempdir()).glob("homeport-*")}
    return frozenset(found)


def snapshot(environment: dict[str, str] | None = None) -> HostState:
    """The host as it is now; `environment` says which Docker daemon is asked."""
    docker = ("docker", "--log-level", "error")
    form = "{{.ID}} {{.Name}}"
    facts = {
        "containers": _lines(
            *docker, "ps", "--all", "--format", "{{.ID}} {{.Names}}", environment=environment
        ),
        "networks": _lines(*docker, "network", "ls", "--format", form, environment=environment),
        "volumes": _lines(
            *docker, "volume", "ls", "--format", "{{.Name}}", environment=environment
        ),
        "mounts": _mounts(),
        "interfaces": _interfaces(),
        "routes": _lines("ip", "route", "show", "table", "all"),
        "rules": _rules(),
        "listening": _listening(),
        "processes": _processes(),
        "cgroups": _cgroups(),
        "sysctls": _sysctls(),
        "modules": _modules(),
        "directories": _directories(),
    }
    return HostState(facts=facts, clock=time.time() - time.monotonic())


def changes(before: HostState, after: HostState) -> list[str]:
    """What differs, one line each; empty when the host is as it was."""
    found = []
    for subject, old in before.facts.items():
        new = after.facts[subject]
        found += [f"{subject}: new: {line}" for line in sorted(new - old)]
        found += [f"{subject}: gone: {line}" for line in sorted(old - new)]
    drift = after.clock - before.clock
    if abs(drift) > CLOCK_TOLERANCE:
        found.append(f"clock: moved by {drift:+.1f} s")
    return found
