"""What a Compose project lacks or has too much, from its specification and the observed state."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from deploys.stack.compose import Way, render
from deploys.stack.spec import Service, Stack, Trial
from homeport.differs import Pair
from homeport_node.common import COMPOSE_FILE


@dataclass(frozen=True, slots=True)
class Difference:
    """What to do. `up` and `recreate` give the reason for each service, in words.

    `recreate` are those that Compose itself would leave as they are. `waiting` are well, but not
    healthy yet. `untried` have a trial, and may be started as they have not been yet. `refused` is
    a (cause, remedy) that forbids any work.
    """

    refused: tuple[str, str] | None = None
    pull: tuple[str, ...] = ()
    up: dict[str, str] = field(default_factory=dict)
    recreate: dict[str, str] = field(default_factory=dict)
    waiting: tuple[str, ...] = ()
    untried: tuple[tuple[Service, Trial], ...] = ()
    extra: tuple[dict[str, str], ...] = ()

    def __bool__(self) -> bool:
        return self != Difference()


def _why_up(wanted_hash: str, state: dict[str, Any] | None) -> str:
    """Why Compose would make or start the service, or ""."""
    if state is None:
        return "has no container"
    if state["hash"] != wanted_hash:
        return "has another configuration"
    if state["status"] in ("created", "exited", "dead"):
        return f"does not run ({state['status']}, exit status {state['exit_code']})"
    return ""


def _why_recreate(state: dict[str, Any], image: str) -> str:
    """Why a container that fits the Compose file must be made anew all the same, or ""."""
    if state["image"] != image:
        return "runs another image than its name stands for now"
    if state["stale"]:
        return f"started before {', '.join(state['stale'])} changed"
    if state["health"] == "unhealthy":
        return "is unhealthy"
    if state["status"] in ("restarting", "paused"):
        return f"is {state['status']}"
    return ""


def _by_hand(wanted_hash: str, state: dict[str, Any] | None) -> str:
    """Why Compose would leave, or start, a container that somebody changed, or ""."""
    if state is None or state["hash"] != wanted_hash or not state["by_hand"]:
        return ""
    return f"was given {', '.join(state['by_hand'])} by hand"


def _untried(
    stack: Stack, observed: dict[str, Any], stale_file: bool
) -> tuple[tuple[Service, Trial], ...]:
    """Those with a trial that do not run from the wanted image, by a Compose file like the wanted.

    What differs in the file is not known before it is written: so a new one has all of them tried.
    """
    found = []
    for service in stack.services:
        state = observed["services"].get(service.name, {"status": "absent"})
        proven = (
            not stale_file
            and state["status"] == "running"
            and state["image"] == observed["images"][service.image.reference]
        )
        if service.trial is not None and not proven:
            found.append((service, service.trial))
    return tuple(found)


def _refusal(stack: Stack, observed: dict[str, Any]) -> tuple[str, str] | None:
    if not observed.get("docker"):
        words = observed.get("docker_error") or "there is no docker command"
        return (f"Docker does not answer: {words}", "systemctl status docker")
    if not observed["compose"]:
        return ("this node has no Docker Compose", "apt-get install docker-compose")
    return _foreign(stack, observed) or _taken(stack, observed)


def another_project(container: dict[str, str], project: str) -> tuple[str, str]:
    """(cause, remedy) for a container of somebody else's in a project of the same name."""
    return (
        f"the container {container['name']} belongs to another Compose project that is called "
        f"{project} too, made in {container['directory']}",
        "give the node or that project another name, or take that project down",
    )


def _foreign(stack: Stack, observed: dict[str, Any]) -> tuple[str, str] | None:
    """What others made under names that the stack would use: none of it is touched."""
    for container in observed["foreign"]:
        return another_project(container, stack.project)
    for service in stack.services:
        for volume in service.volumes:
            seen = observed["volumes"].get(volume.name, {"ours": True, "users": []})
            if seen["users"]:
                return (
                    f"the volume {volume.name} is in use by {', '.join(seen['users'])}",
                    f"stop that, or give {service.capability}.volume another name",
                )
            if not seen["ours"] and not volume.adopt:
                return (
                    f"there is a volume {volume.name} that Homeport did not make",
                    f"give {service.capability}.volume another name; or, to go on with its data, "
                    f"{service.capability}.adopt=True (first see there what it needs)",
                )
    return None


def _taken(stack: Stack, observed: dict[str, Any]) -> tuple[str, str] | None:
    for service in stack.services:
        for port in service.ports:
            holder = observed["taken"].get(str(port.host))
            if holder:
                return (
                    f"port {port.host}, wanted by {service.capability}, is taken by {holder}",
                    f"stop that, or give {service.capability}.port another number",
                )
    return None


def gpu_way(observed: dict[str, Any]) -> Way:
    """How the node's Docker hands over GPUs; by CDI when nobody knows: that is what a node will do
    that has none yet."""
    way: Way = observed.get("gpu_way") or "cdi"
    return way


def difference(stack: Stack, observed: dict[str, Any]) -> Difference:
    """What `stack` needs on a node that was observed as `observed` (a `StackState`)."""
    refused = _refusal(stack, observed)
    if refused:
        return Difference(refused=refused)
    text = hashlib.sha256(render(stack, gpu_way(observed)).encode()).hexdigest()
    stale_file = observed["compose_file"] != text
    up, recreate, waiting = {}, {}, []
    for service in stack.services:
        state = observed["services"].get(service.name)
        wanted_hash = observed["hashes"].get(service.name, "")
        reason = _why_up(wanted_hash, state)
        changed = _by_hand(wanted_hash, state)
        if changed:
            recreate[service.name] = changed
        elif not reason and state is not None:
            again = _why_recreate(state, observed["images"][service.image.reference])
            if again:
                recreate[service.name] = again
            elif state["health"] == "starting":
                waiting.append(service.name)
        if reason and not changed:
            up[service.name] = reason
    if stale_file and not up:
        # The file is put right before this step runs; its hashes are read again then.
        up = {"compose.yaml": "is not the wanted one"}
    if observed.get("busy") and not up:
        # What it leaves is not known: `up` waits for it, and Compose looks again then.
        up = {"compose.yaml": "is being carried out by a run whose connection broke"}
    missing = {ref for ref, image in observed["images"].items() if not image}
    return Difference(
        pull=tuple(sorted(missing)),
        up=up,
        recreate={} if stale_file else recreate,
        waiting=tuple(waiting),
        untried=_untried(stack, observed, stale_file),
        extra=tuple(observed["extra"]),
    )


def image_words(images: Iterable[str]) -> Iterator[Pair]:
    """What is said of `images` that are missing."""
    for image in images:
        yield Pair(f"image {image}", "not on the node")


def service_words(todo: Difference, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the containers; `waiting` apart."""
    for name, reason in {**todo.up, **todo.recreate}.items():
        state = observed["services"].get(name)
        there = f"container {state['id'][:12]} {reason}" if state else reason
        what = COMPOSE_FILE if name == "compose.yaml" else f"service {name}"
        yield Pair(f"{what}: as the inventory says", there)
    for container in todo.extra:
        yield Pair(f"no container of {container['name']}", f"container {container['id'][:12]}")


def unit_words(unit: dict[str, Any], name: str, dropin: str) -> Iterator[Pair]:
    """What differs where `unit_steps` says something about the unit `name`."""
    if unit.get("LoadState") != "loaded" or unit.get("NeedDaemonReload") != "no":
        there = unit.get("LoadState") or "not known"
        stale = "an older one is loaded"
        yield Pair(f"{name}: loaded as on the disk", stale if there == "loaded" else there)
    if not unit.get("docker_knows"):
        yield Pair(f"docker.service: with {dropin}", "systemd has not read that")
    if unit.get("UnitFileState") != "enabled":
        yield Pair(f"{name}: enabled", unit.get("UnitFileState") or "not there")


def stray_files(stack: Stack | None, observed: dict[str, Any]) -> list[str]:
    """Files below the directory of mounted files that no service wants."""
    wanted = set()
    if stack is not None:
        wanted = {stack.path_of_file(*pair) for pair in mounted(stack)}
    return [path for path in observed.get("files", []) if path not in wanted]


def mounted(stack: Stack) -> Iterator[tuple[Service, Any]]:
    """Every mounted file with its service."""
    for service in stack.services:
        for file in service.files:
            yield service, file


def unit_steps(unit: dict[str, Any]) -> list[str]:
    """The systemctl verbs by which systemd knows the unit, and starts it at boot.

    Both have systemd read its units anew, which takes the GPUs from containers that run (where
    Docker hands them over by NVIDIA's hook): so they come before any container is started.
    """
    steps = []
    known = unit.get("LoadState") == "loaded" and unit.get("NeedDaemonReload") == "no"
    if not known or not unit.get("docker_knows"):
        steps.append("daemon-reload")
    if unit.get("UnitFileState") != "enabled":
        steps.append("enable")
    return steps
