"""What a person at the desk types and sees, on a stage: each command in a process of its own.

The lab's targets file and lock are in its environment. Nothing is done to a machine by any other
way.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from homeport.inventory import unbound
from homeport.lab import StepFailed
from homeport.lab.stage import Stage

ROOT = Path(__file__).resolve().parents[2]


def homeport(on: Stage, *words: str, quiet: bool = True) -> subprocess.CompletedProcess[str]:
    """Run `bin/homeport WORDS` against the stage; its output is shown unless `quiet`."""
    command = [sys.executable, "-m", "homeport.cli", *words]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=on.environment,
        capture_output=quiet,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def pyinfra(on: Stage, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run pyinfra itself on the stage: `pyinfra inventory/iona.py deploys/full.py WORDS`.

    `more` is added to its environment.
    """
    command = [sys.executable, "-m", "pyinfra", str(on.inventory), "deploys/full.py", *words]
    # PYINFRA_YES would make `--dry` skip change detection and call everything clean.
    environment = {k: v for k, v in on.environment.items() if k != "PYINFRA_YES"} | more
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def converge(on: Stage, *, quiet: bool = False) -> dict[str, Any]:
    """Converge the stage. What `converge --json` wrote; raises `StepFailed` when it failed."""
    to = on.directory / "converge.json"
    to.unlink(missing_ok=True)
    done = homeport(on, "converge", str(on.inventory), "--json", str(to), quiet=quiet)
    if done.returncode != 0:
        raise StepFailed(f"converge exited {done.returncode}\n{done.stderr or ''}".strip())
    value: dict[str, Any] = json.loads(to.read_text())
    return value


def pending(on: Stage) -> list[str]:
    """The operations that pyinfra's own `--dry` would run or may run, by its own account."""
    done = pyinfra(on, "--dry", "--json")
    if done.returncode != 0:
        raise StepFailed(f"pyinfra --dry exited {done.returncode}\n{done.stderr[-3000:]}")
    plan = json.loads(done.stdout)["plan"]
    return [
        str(operation["name"])
        for operation in plan
        if operation["hosts_with_change"] or operation["hosts_with_conditional_change"]
    ]


def containers(on: Stage) -> str:
    """Id, start time and name of every container on the machines, one a line."""
    listed = "docker ps -q | xargs -r docker inspect -f '{{.Id}} {{.State.StartedAt}} {{.Name}}'"
    return "\n".join(machine.succeed(f"{listed} | sort") for machine in on.machines.values())


def secrets(on: Stage) -> dict[str, str]:
    """Every secret on the machines, by name."""
    found = {}
    for machine in on.machines.values():
        for name in machine.succeed("ls /etc/homeport/secrets").split():
            found[name] = machine.succeed(f"cat /etc/homeport/secrets/{name}").strip()
    return found


def places(on: Stage) -> dict[str, str]:
    """Every text in which a secret must not show: on the machines, and what the desk prints."""
    texts = {"the lock": on.lock.read_text(), "the targets": on.targets.read_text()}
    for name, machine in on.machines.items():
        # Arguments, which every user of the machine sees. What an entrypoint exports to the one
        # program that knows only its environment is root's alone, and not looked at.
        arguments = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' '"
        texts[f"{name}: ps"] = machine.succeed(arguments)
        texts[f"{name}: docker inspect"] = machine.succeed(
            "docker ps -aq | xargs -r docker inspect; docker image ls -q | xargs -r docker inspect"
        )
        texts[f"{name}: the journal"] = machine.succeed("journalctl --no-pager -o cat")
        texts[f"{name}: /etc/homeport"] = machine.succeed(
            "find /etc/homeport -path /etc/homeport/secrets -prune -o -type f -exec cat {} +"
        )
    for words in (("--dry", "-vvv"), ("--dry", "--diff", "-vvv"), ("-y", "-vvv", "--diff")):
        done = pyinfra(on, *words)
        if done.returncode:
            raise StepFailed(
                f"pyinfra {' '.join(words)} exited {done.returncode}\n{done.stderr[-3000:]}"
            )
        texts[f"pyinfra {' '.join(words)}"] = done.stdout + done.stderr
    return texts


SCAN = (ROOT / "homeport" / "scan.py").read_text()


def neighbour_sees(on: Stage, *ports: int) -> dict[str, list[int]]:
    """Open TCP ports by address, from another host on the network: the machines' own addresses,
    IPv6 too, and every container's, with a route to it through its machine.

    All 65,535 ports are tried, or `ports` alone.
    """
    addresses: list[str] = []
    for machine in on.machines.values():
        addresses += machine.addresses
        networks = machine.succeed(
            "docker network ls -q | xargs -r docker network inspect "
            "-f '{{range .IPAM.Config}}{{.Subnet}} {{end}}'"
        )
        inside = machine.succeed(
            "docker ps -q | xargs -r docker inspect "
            "-f '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{end}}'"
        )
        for subnet in networks.split():
            if ":" not in subnet:
                on.neighbour.route(subnet, machine.address)
        addresses += dict.fromkeys(inside.split())
    slow = any(machine.patience > 1 for machine in on.machines.values())
    words = [*addresses, *map(str, ports), *(["gently"] if slow else [])]
    seen: dict[str, list[int]] = json.loads(on.neighbour.python(SCAN, *words))
    return seen


def declared_ports(on: Stage) -> dict[str, set[int]]:
    """By address, the TCP ports that the inventory shows the network, ssh included."""
    nodes: dict[str, Any] = {**unbound(on.inventory)}
    ports = {name: node.open_ports for name, node in nodes.items()}
    return {
        address: {22, *ports[name]}
        for name, machine in on.machines.items()
        for address in machine.addresses
    }
