"""What a node's Compose project is: on disk, in Docker, and as the containers see it."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Any

from homeport_node import docker_engine
from homeport_node.common import (
    COMPOSE_FILE,
    SECRETS,
    STACK,
    STACK_LOCK,
    STACK_UNIT,
    compose_command,
    dropins,
    read,
    run,
    sha256_file,
    show_units,
)

DROPIN = "/etc/systemd/system/docker.service.d/homeport-stack.conf"
PROJECT = "com.docker.compose.project"
# On the containers that were made from our Compose file, or from a copy of it.
LABEL = "homeport.project"
# Where a container sees the files that its program reads only when it starts, by their number.
READS = "/homeport/reads"
# What `docker update` can set, and no service of ours has.
LIMITS = (
    "Memory",
    "MemorySwap",
    "MemoryReservation",
    "NanoCpus",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "PidsLimit",
)
# States of a container that has what it was given: its ports, its volumes.
LIVE = ("running", "paused", "restarting")
# Where Docker's command looks for plugins (docker/cli, cli-plugins/manager), as root.
PLUGINS = (
    "/root/.docker/cli-plugins",
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
# The addresses, as /proc/net/tcp and tcp6 write them, that a socket on 127.0.0.1 collides with.
LOOPBACK = {"0100007F", "00000000", "0" * 32, "0000000000000000FFFF00000100007F"}


def _containers(listed: "list[dict[str, Any]]", project: str) -> "list[dict[str, Any]]":
    """Those of the `listed` containers that are the project's, and those that were made from our
    Compose file under another name, as Docker inspects them."""
    found = []
    for one in listed:
        labels = one.get("Labels") or {}
        mine = labels.get(PROJECT) == project or labels.get(f"{PROJECT}.working_dir") == STACK
        if mine and labels.get(f"{PROJECT.removesuffix('project')}oneoff") != "True":
            found.append(docker_engine.ask(f"/containers/{one['Id']}/json"))
    return [one for one in found if one]  # one may be gone meanwhile


def ours(labels: "dict[str, str]") -> bool:
    """Whether a container was made from our Compose file; Compose 1.29 and 2 both label it so."""
    return LABEL in labels or labels.get(f"{PROJECT}.working_dir") == STACK


def _same_file(path: str, inside: str) -> bool:
    """Whether `path` leads to the very file that the container was given when it started.

    A mount keeps the file that a link led to then. No clock is asked: a node's may have been wrong.
    """
    try:
        return Path(path).samefile(inside)
    except OSError:
        return False


def _same_content(path: str, inside: str) -> bool:
    """Whether the file on the node and the one that the container sees have the same content."""
    try:
        return sha256_file(path) == sha256_file(inside)
    except OSError:
        return False


def stale(wanted: "dict[str, Any]", pid: int, processes: str = "/proc") -> "list[str]":
    """What changed since the container's program read it: paths on the node, never contents.

    Everything here is replaced by a rename, never written over: so the container keeps the old.
    """
    root = f"{processes}/{pid}/root"
    mounted = [(path, inside) for path, inside in wanted["files"].items()]
    mounted += [(f"{SECRETS}/{name}", f"/run/secrets/{name}") for name in wanted["secrets"]]
    changed = [path for path, inside in mounted if not _same_content(path, f"{root}{inside}")]
    reads = enumerate(wanted["reads"])
    return changed + [path for n, path in reads if not _same_file(path, f"{root}{READS}/{n}")]


def _describe(container: "dict[str, Any]", wanted: "dict[str, Any]") -> "dict[str, Any]":
    state = container["State"]
    labels = container["Config"]["Labels"]
    running = state["Status"] == "running"
    return {
        "id": container["Id"],
        "status": state["Status"],
        "health": (state.get("Health") or {}).get("Status", ""),
        "exit_code": state["ExitCode"],
        "hash": labels.get("com.docker.compose.config-hash", ""),
        "image": container["Image"],
        "stale": stale(wanted, state["Pid"]) if running else [],
        "by_hand": by_hand(container, wanted),
    }


def by_hand(container: "dict[str, Any]", wanted: "dict[str, Any]") -> "list[str]":
    """What somebody gave a container and Compose, which goes by a label, does not see, in words:
    another restart policy, limits, networks."""
    policy = container["HostConfig"].get("RestartPolicy") or {}
    count = policy.get("MaximumRetryCount")
    restart = f"{policy.get('Name') or 'no'}{f':{count}' if count else ''}"
    limits = [name for name in LIMITS if container["HostConfig"].get(name) not in (None, 0, -1, "")]
    networks = sorted((container.get("NetworkSettings") or {}).get("Networks") or {})
    return [
        *([f"the restart policy {restart}"] if restart != wanted["restart"] else []),
        *([f"a limit of its own ({', '.join(limits)})"] if limits else []),
        *(
            [f"the networks {', '.join(networks) or 'none'}"]
            if networks != [wanted["network"]]
            else []
        ),
    ]


def _foreign(containers: "list[dict[str, Any]]") -> "list[dict[str, str]]":
    """Those of the project's containers that were not made from our Compose file."""
    found = []
    for one in containers:
        labels = one["Config"]["Labels"]
        if not ours(labels):
            where = labels.get(f"{PROJECT}.working_dir", "an unknown directory")
            found.append({"name": one["Name"].lstrip("/"), "directory": where})
    return found


def _volumes(
    names: "list[str]",
    project: str,
    containers: "list[dict[str, Any]]",
    listed: "list[dict[str, Any]]",
) -> "dict[str, dict[str, Any]]":
    """Those of the volumes that exist: whether our project made them, and who else uses them of
    the containers that run, which are among those `listed`."""
    found = {}
    held = {mount.get("Name") for one in containers for mount in one["Mounts"]}
    mine = {one["Id"] for one in containers}
    for name in names:
        volume = docker_engine.ask(f"/volumes/{name}")
        if volume is None:
            continue
        users = [
            docker_engine.name(one)
            for one in listed
            if one["State"] in LIVE and one["Id"] not in mine and name in _mounted(one)
        ]
        maker = (volume.get("Labels") or {}).get(PROJECT)
        # After the node was renamed, its own containers still show whose the volume is.
        found[name] = {"ours": maker == project or name in held, "users": sorted(users)}
    return found


def _mounted(container: "dict[str, Any]") -> "set[str]":
    return {mount.get("Name", "") for mount in container.get("Mounts") or []}


def _sort(
    project: str, services: "dict[str, Any]", containers: "list[dict[str, Any]]"
) -> "tuple[dict[str, Any], list[Any], set[int]]":
    """The wanted services' containers, those that are too many, and the ports we hold."""
    kept: dict[str, Any] = {}
    extra = []
    held: set[int] = set()
    containers.sort(key=lambda one: (one["State"]["Status"] != "running", one["Created"]))
    for container in containers:
        labels = container["Config"]["Labels"]
        name = labels.get("com.docker.compose.service", "")
        if container["State"]["Status"] in LIVE:
            for bindings in (container["HostConfig"].get("PortBindings") or {}).values():
                held |= {int(one["HostPort"]) for one in bindings or [] if one["HostPort"]}
        if labels.get(PROJECT) == project and name in services and name not in kept:
            kept[name] = _describe(container, services[name])
        else:
            label = f"{labels.get(PROJECT, '')}/{name}"
            extra.append({"id": container["Id"], "name": label})
    return kept, extra, held


def _listeners(ports: "set[int]") -> "dict[int, str]":
    """Those of `ports` that something listens on, with the socket's inode."""
    found = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(table) or "").splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == "0A" and address in LOOPBACK and int(port, 16) in ports:
                found[int(port, 16)] = fields[9]
    return found


def _owner(inode: str) -> str:
    """ "python3 (pid 123)": who has the socket `inode` open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == f"socket:[{inode}]":
                pid = link.parts[2]
                return f"{(read(f'/proc/{pid}/comm') or '?').strip()} (pid {pid})"
    return "a process that cannot be seen"


def _taken(ports: "set[int]", listed: "list[dict[str, Any]]") -> "dict[str, str]":
    """Who listens on those of `ports` that are taken, by port; a container is one of `listed`."""
    taken = {}
    for port, inode in _listeners(ports).items():
        names = [
            docker_engine.name(one)
            for one in listed
            if any((p.get("PublicPort"), p.get("Type")) == (port, "tcp") for p in one["Ports"])
        ]
        container = f", which serves the container {names[0]}" if names else ""
        taken[str(port)] = f"{_owner(inode)}{container}"
    return taken


def _images(references: "list[str]") -> "dict[str, str]":
    """The ID that each reference stands for on this node, "" when it is not here."""
    found = {one: docker_engine.ask(f"/images/{one}/json") for one in references}
    return {reference: image["Id"] if image else "" for reference, image in found.items()}


def _hashes(project: str) -> "dict[str, Any]":
    """{"compose": Compose's command, "hashes": of each service in the file on disk, its
    configuration's, "hash_error": "" or words}."""
    if not Path(COMPOSE_FILE).exists():
        return {"compose": " ".join(compose_command()), "hashes": {}, "hash_error": ""}
    # Docker's own command would start its plugin twice.
    there = (f"{folder}/docker-compose" for folder in PLUGINS)
    plugin = [path for path in there if os.access(path, os.X_OK)][:1]
    compose = ["docker", "compose"] if plugin else compose_command()
    found = {"compose": " ".join(compose), "hashes": {}, "hash_error": ""}
    if not compose:
        return found
    options = ("-p", project, "-f", COMPOSE_FILE, "config", "--hash", "*")
    ran = run(*(plugin or compose), *options, timeout=60)
    if not ran.ok:
        return {**found, "hash_error": (ran.err or ran.out).strip()[-500:]}
    pairs = [line.split() for line in ran.out.splitlines()]
    return {**found, "hashes": {pair[0]: pair[1] for pair in pairs if len(pair) == 2}}


def _unit() -> "dict[str, Any]":
    names = ("LoadState", "UnitFileState", "ActiveState", "NeedDaemonReload")
    shown = show_units(STACK_UNIT, "docker.service")
    own, docker = shown.get(STACK_UNIT, {}), shown.get("docker.service", {})
    return {
        **{name: own.get(name, "") for name in names},
        "docker_there": docker.get("LoadState") == "loaded",
        "docker_knows": DROPIN in docker.get("DropInPaths", ""),
        "dropins": dropins(own) if own else [],
    }


def _busy() -> bool:
    """Whether somebody changes the stack now: mostly a run whose connection broke."""
    try:
        with open(STACK_LOCK, "rb") as file:
            # Shared: two that look at once do not take each other for somebody who changes it.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _project_on_disk() -> str:
    for line in (read(COMPOSE_FILE) or "").splitlines()[:3]:
        if line.startswith("# Project: "):
            return line.split(": ", 1)[1].strip()
    return ""


def _way_on_disk() -> str:
    """How the Compose file on the disk has GPUs handed over."""
    text = read(COMPOSE_FILE) or ""
    marks = {"driver: cdi": "cdi", "runtime: nvidia": "runtime", "driver: nvidia": "hook"}
    return next((marks[mark] for mark in marks if mark in text), "")


def _files() -> "list[str]":
    """Everything below the directory of mounted files that is not a directory."""
    found = []
    for directory, _, names in os.walk(f"{STACK}/files"):
        found += [f"{directory}/{name}" for name in names]
    return sorted(found)


# What is known of a Docker that does not answer.
SILENT: "dict[str, Any]" = {
    "docker": "",
    "compose": "",
    "hashes": {},
    "hash_error": "",
    "images": {},
    "services": {},
    "extra": [],
    "foreign": [],
    "volumes": {},
    "taken": {},
    "gpu_way": "",
}


def _engine(project: str, services: "dict[str, Any]", gpus: "list[str]") -> "dict[str, Any]":
    """What the engine knows: the keys of `SILENT`, and "docker_error", which is "".

    Raises `docker_engine.NoAnswer`: half of this would be taken for what is not there.
    """
    version = docker_engine.ask("/version")["Version"]
    listed = docker_engine.ask("/containers/json", all="1")
    found = _containers(listed, project) if project else []
    own = [one for one in found if ours(one["Config"]["Labels"])]
    kept, extra, held = _sort(project, services, own)
    volumes = sorted({name for service in services.values() for name in service["volumes"]})
    ports = {port for service in services.values() for port in service["ports"]}
    references = sorted({service["image"] for service in services.values()})
    return {
        "docker": version,
        "docker_error": "",
        **_hashes(project),
        "images": _images(references),
        "services": kept,
        "extra": extra,
        "foreign": _foreign(found),
        "volumes": _volumes(volumes, project, own, listed),
        "taken": _taken(ports - held, listed),
        "gpu_way": docker_engine.gpu_way(gpus) if gpus else "",
    }


def observe(project: str, services: "dict[str, Any]") -> "dict[str, Any]":
    """The project as it is; see `deploys.stack.facts.StackState` for an example.

    `services` is {name: {"image", "ports", "files", "secrets", "reads", "volumes", "gpus",
    "restart", "network"}}. An empty `project` asks for what is there, by the header of the Compose
    file.
    """
    busy = _busy()  # before all else: what is looked at afterwards is then what it left
    text = read(COMPOSE_FILE)
    on_disk = _project_on_disk()
    project = project or on_disk
    gpus = [gpu for service in services.values() for gpu in service.get("gpus", ())]
    try:
        engine = _engine(project, services, gpus)
    except docker_engine.NoAnswer as error:
        engine = {**SILENT, "docker_error": str(error)}
    return {
        **engine,
        "project": on_disk,
        "compose_file": sha256_file(COMPOSE_FILE) if text is not None else "",
        "files": _files(),
        "unit": _unit(),
        "gpu_way": (engine["gpu_way"] or _way_on_disk()) if gpus else "",
        "busy": busy,
    }
