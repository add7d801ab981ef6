"""Which packages make Docker with Compose, and what its engine needs done."""

from typing import Any

from homeport.differs import listed
from homeport_node.docker_daemon_json import DAEMON_JSON

# (ID, VERSION_ID) of os-release → packages. Debian 12's Compose is v1 (`docker-compose`); Debian
# 13 puts the client apart; Ubuntu's Compose v2 came to 22.04 as an update.
DISTRIBUTIONS = {
    ("debian", "12"): ("docker.io", "docker-compose"),
    ("debian", "13"): ("docker.io", "docker-cli", "docker-compose"),
    ("ubuntu", "22.04"): ("docker.io", "docker-compose-v2"),
    ("ubuntu", "24.04"): ("docker.io", "docker-compose-v2"),
}
DOCKER_COM = ("docker-ce", "docker-ce-cli", "docker-compose-plugin")
GUARD = "nftables"
RESTART = "systemctl restart docker.service"
# Units without which the engine does not run, or not at the next boot.
NEEDED = ("docker.service", "docker.socket", "containerd.service")


def packages(os_release: dict[str, str], installed: dict[str, str]) -> tuple[str, ...] | None:
    """The packages that this node is to have; None for a distribution that is not known.

    A docker-ce that is there is kept, and what is missing comes from the same source.
    """
    if "docker-ce" in installed:
        return (GUARD, *DOCKER_COM)
    names = DISTRIBUTIONS.get((os_release.get("id", ""), os_release.get("version", "")))
    return (GUARD, *names) if names else None


def engine_commands(observed: dict[str, Any]) -> list[str]:
    """What brings the engine to run, enabled, with the configuration that is on the disk."""
    units = observed.get("units", {})
    unit = units.get("docker.service", {})
    commands = []
    for name in NEEDED:
        if units.get(name, {}).get("masked"):
            commands.append(f"systemctl unmask {name}")
            commands.append(f"systemctl unmask --runtime {name}")
    if unit.get("stale"):
        commands.append("systemctl daemon-reload")
    if not unit.get("enabled"):
        commands.append("systemctl enable docker.service")
    if not unit.get("active"):
        # After three failures in a minute systemd starts nothing until it is told to forget them.
        commands.append("systemctl reset-failed docker.service docker.socket 2>/dev/null || true")
        commands.append("systemctl start docker.service")
    elif observed.get("daemon", {}).get("not_running"):
        commands.append(RESTART)
    return commands


def exposure(observed: dict[str, Any]) -> tuple[str, str]:
    """(cause, remedy) where dockerd takes orders from the network without a certificate."""
    unit = observed.get("units", {}).get("docker.service", {})
    foreign = [one for one in unit.get("dropins", ()) if "/homeport" not in one]
    where = " or ".join([str(DAEMON_JSON), *foreign])
    return (
        f"dockerd listens at {listed(observed['exposed'])}, and whoever reaches that is root here",
        f"take it out of {where}, `systemctl daemon-reload && systemctl restart docker.service`, "
        "then converge again; or have it ask for certificates (tlsverify)",
    )
