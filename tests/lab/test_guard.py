"""The guard's unit, on Iona: what a forging neighbour reaches while it is stopped, and flushed."""

from pathlib import Path

import pytest

from tests.lab.iona import Iona

pytestmark = pytest.mark.container

FORGER = (Path(__file__).parents[1] / "docker" / "neighbour.py").read_bytes()
GUARD = "homeport-docker-guard.service"
HELD = "nft list table inet homeport_docker >/dev/null 2>&1"


def answers(iona: Iona) -> list[str]:
    """What forged packets get for each published port on 127.0.0.1, and the container behind it."""
    found = []
    for service in ("llama-server", "open-webui"):
        shown = iona.container(service)["NetworkSettings"]
        (place,) = (one["IPAddress"] for one in shown["Networks"].values())
        ((inner, (outer,)),) = ((k, v) for k, v in shown["Ports"].items() if v)
        for to, port in ((outer["HostIp"], outer["HostPort"]), (place, inner.split("/")[0])):
            words = ("python3", "-", "eth0", iona.machine.address, to, port)
            done = iona.stage.neighbour.run(*words, stdin=FORGER)
            found.append(done.stdout.decode().strip())
    return found


def test_a_stopped_guard_lets_forged_packets_in_and_a_started_one_none(iona: Iona) -> None:
    assert answers(iona) == ["silent"] * 4
    iona.machine.succeed(f"systemctl stop {GUARD}")
    # Who sends to a container's own address needs Docker's rules to let it through as well.
    opened = answers(iona)
    assert opened[0] == opened[2] == "open", opened
    iona.machine.succeed(f"systemctl start {GUARD}")
    assert answers(iona) == ["silent"] * 4


def test_the_guard_outlives_a_flush_of_nftables(iona: Iona) -> None:
    """Debian's own rules begin with `flush ruleset`; that takes Docker's rules too."""
    for verb in ("start", "reload", "restart", "stop"):
        iona.machine.succeed(f"systemctl {verb} nftables.service")
        iona.machine.wait_until(HELD, timeout=10, what=f"no guard after {verb} of nftables")
    assert answers(iona) == ["silent"] * 4
    # What is stopped on purpose is not brought back.
    iona.machine.succeed(f"systemctl stop {GUARD} && systemctl start nftables && sleep 1")
    iona.machine.fail(HELD)
    iona.machine.succeed("systemctl stop nftables && systemctl restart docker")
    iona.heal()
