"""The operations, and `apply`."""

import shlex
from collections.abc import Generator
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from deploys.docker import engine, guard, words
from deploys.docker.facts import DockerState
from deploys.docker.guard import GUARD_UNIT
from deploys.docker.spec import Docker, daemon_values
from homeport import apt, own_files
from homeport.differs import Pair, differs
from homeport.observe import act
from homeport.refuse import refuse
from homeport.targets import Sources, Target
from homeport_node.docker import CERTIFICATES, RULES
from homeport_node.docker_daemon_json import DAEMON_JSON, STARTED_WITH

FILES = Path(__file__).resolve().parents[2] / "files/docker"
UNIT_FILE = f"/etc/systemd/system/{GUARD_UNIT}"
DROP_IN = "/etc/systemd/system/docker.service.d/homeport.conf"
NFTABLES_DROP_IN = "/etc/systemd/system/nftables.service.d/homeport.conf"
OWN_FILES = {
    UNIT_FILE: FILES / GUARD_UNIT,
    DROP_IN: FILES / "homeport.conf",
    NFTABLES_DROP_IN: FILES / "nftables.conf",
}

Commands = Generator[Any, None, None]


Values = dict[str, Any] | None  # of daemon.json: {path: value}


def _observed(wanted: dict[str, Any], without_cdi: Values = None) -> dict[str, Any]:
    state: dict[str, Any] = host.get_fact(
        DockerState,
        wanted=wanted,
        files=[*OWN_FILES, str(RULES)],
        without_cdi=without_cdi or {},
    )
    return state


def wanted_files(sources: Sources) -> dict[str, str]:
    """{path: text} of the files of ours that depend on the spec and the target alone."""
    texts = {path: source.read_text() for path, source in OWN_FILES.items()}
    if sources.ca_certificates:
        for mirror in sources.registries.values():
            path = CERTIFICATES / mirror.split("/", 1)[0] / "homeport.crt"
            texts[str(path)] = "".join(sources.ca_certificates)
    return texts


def guard_commands(observed: dict[str, Any]) -> list[str]:
    """What has the guard enabled, and the kernel hold what its file says."""
    units = observed.get("units", {})
    unit = units.get(GUARD_UNIT, {})
    commands = []
    if unit.get("stale") or units.get("nftables.service", {}).get("stale"):
        commands.append("systemctl daemon-reload")
    if not unit.get("enabled"):
        commands.append(f"systemctl enable {GUARD_UNIT}")
    if not unit.get("active") or not (observed.get("guard") or {}).get("same"):
        commands.append(f"systemctl reload-or-restart {GUARD_UNIT}")
    return commands


def _remove(paths: list[str]) -> StringCommand:
    # Folders that only we may have filled; one with something else in it stays.
    folders = {str(Path(path).parent) for path in paths if path not in (UNIT_FILE, str(RULES))}
    folders -= {str(STARTED_WITH.parent)}
    if any(folder.startswith(f"{CERTIFICATES}/") for folder in folders):
        folders.add(str(CERTIFICATES))
    inner_first = sorted(folders, reverse=True)
    tidy = f"; rmdir {shlex.join(inner_first)} 2>/dev/null || true" if folders else ""
    return StringCommand(f"rm -f {shlex.join(paths)}{tidy}")


@operation()
def configuration(spec: Docker, sources: Sources, without_cdi: Values = None) -> Commands:
    """Put daemon.json, the guard and the registries' CAs in place.

    Before the packages: the first start of Docker has them then, and needs no restart.
    """
    values = daemon_values(spec)
    observed = _observed(values, without_cdi)
    conflict = guard.pool_conflict(spec, observed)
    if conflict:
        yield refuse(
            f"docker.address_pool {spec.address_pool} hides a part of the node's network: "
            f"{conflict}",
            "give Docker a private network that is used nowhere else, as docker.address_pool",
        )
    daemon = observed.get("daemon", {"differs": [*values]})
    if daemon.get("error"):
        yield refuse(f"daemon.json cannot be merged: {daemon['error']}", "correct that file")
    rules = guard.rules(spec, guard.known(observed))
    wanted = {**wanted_files(sources), str(RULES): rules}
    write, remove = own_files.changes(wanted, observed.get("files", {}))
    differs(words.files(wanted, observed))
    differs(words.daemon_json({**values, **(without_cdi or {})}, daemon))
    for path, text in write.items():
        yield from own_files.put(path, text)
    if write.keys() & OWN_FILES.keys():
        yield StringCommand(f"systemctl daemon-reload && systemctl enable {GUARD_UNIT}")
    if remove:
        yield _remove(remove)
    if daemon["differs"]:
        yield act("docker_daemon_json", "merge", wanted=values, without_cdi=without_cdi or {})
    if not (write or remove or daemon["differs"]):
        host.noop("Docker's configuration is as wanted")


@operation()
def packages(spec: Docker, without_cdi: Values = None) -> Commands:
    """Install Docker, Compose and nftables.

    The arguments are those of `configuration`: one look at the node serves both.
    """
    state = host.get_fact(apt.AptState)
    release = _observed(daemon_values(spec), without_cdi).get("os", {})
    names = engine.packages(release, state.get("installed", {}))
    if names is None:
        yield refuse(
            f"{release.get('id')} {release.get('version')} is not known to the capability docker",
            "it is tried on Debian 12 and 13, and written for Ubuntu 22.04 and 24.04",
        )
        return
    yield from apt.install(names, state)


@operation()
def without_cdi_as_well(spec: Docker, without_cdi: dict[str, Any]) -> Commands:
    """Have daemon.json offer GPUs the older way, where the Docker that is there now has no CDI.

    Which Docker that is shows only when it is installed: on a bare node after `configuration`.
    """
    values = daemon_values(spec)
    daemon = _observed(values, without_cdi).get("daemon", {})
    lacking = [path for path in daemon.get("differs", ()) if path in without_cdi]
    if not lacking:
        host.noop("this Docker has CDI, or what it needs without it")
        return
    differs(words.daemon_json(without_cdi, {**daemon, "differs": lacking}))
    yield act("docker_daemon_json", "merge", wanted=values, without_cdi=without_cdi)


@operation()
def running(spec: Docker, without_cdi: Values = None) -> Commands:
    """Have the guard in force, then Docker running with the configuration on the disk.

    Where that takes a restart and other people's containers run, the run stops and names them.
    """
    values = daemon_values(spec)
    observed = _observed(values, without_cdi)
    if (observed.get("guard") or {}).get("error"):
        yield refuse(f"nft: {observed['guard']['error']}", "the guard's rules cannot be checked")
    if observed.get("exposed"):
        yield refuse(*engine.exposure(observed), wanted="Docker takes no orders from the network")
        return
    commands = [*guard_commands(observed), *engine.engine_commands(observed)]
    differs(words.running(observed))
    for command in commands:
        if command == engine.RESTART and observed.get("foreign"):
            yield refuse(
                f"Docker must be restarted for {', '.join(observed['daemon']['not_running'])} in "
                f"daemon.json, and that stops containers that are not Homeport's: "
                f"{', '.join(observed['foreign'])}",
                "when it suits them, `systemctl restart docker.service`, then converge again",
            )
        yield StringCommand(command)
    unit = observed.get("units", {}).get(GUARD_UNIT, {})
    foreign = own_files.foreign_dropins(GUARD_UNIT, unit.get("dropins", ()))
    yield from foreign
    # Docker has its networks only now, and a restart may have changed them.
    observed = _observed(values, without_cdi) if commands else observed
    rules = guard.rules(spec, guard.known(observed))
    if rules != (observed.get("guard") or {}).get("rules"):
        differs([words.rules(rules, observed)])
        yield from own_files.put(str(RULES), rules)
        yield StringCommand(f"systemctl reload-or-restart {GUARD_UNIT}")
    elif not commands and not foreign:
        host.noop("Docker runs as wanted, and the guard is in force")


@operation()
def removed() -> Commands:
    """Take back what this capability put on the node; Docker itself stays."""
    observed = _observed({})
    paths = [*observed.get("files", {})]
    recorded = observed.get("recorded")
    if not (paths or recorded):
        host.noop("there is nothing of ours")
        return
    differs(own_files.no_longer(paths))
    if recorded:
        differs([Pair(f"{DAEMON_JSON}: nothing that Homeport set", "what it set")])
        yield act("docker", "take_back")
    if UNIT_FILE in paths:
        yield StringCommand(f"systemctl disable --now {GUARD_UNIT}")
    yield _remove([*paths, str(STARTED_WITH)])
    yield StringCommand("systemctl daemon-reload")


@deploy("Docker")
def apply(spec: Docker | None, target: Target, without_cdi: Values = None) -> None:
    """Make Docker as `spec` says. With None, `take_back` does the work.

    `without_cdi` is what others need in daemon.json where Docker has no CDI: {path: value}.
    """
    if spec is None:
        return
    configuration(
        name="Docker's configuration", spec=spec, sources=target.sources, without_cdi=without_cdi
    )
    packages(name="Docker's packages", spec=spec, without_cdi=without_cdi)
    if without_cdi:
        without_cdi_as_well(name="GPUs for Docker", spec=spec, without_cdi=without_cdi)
    running(name="Docker running, guarded", spec=spec, without_cdi=without_cdi)


@deploy("Docker no longer wanted")
def take_back(spec: Docker | None) -> None:
    """Where the inventory wants no Docker, take back what Homeport put there. To be called when
    the stack is gone: its containers need the guard for as long as they run."""
    if spec is None:
        removed(name="No Docker of ours")
