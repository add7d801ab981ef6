"""The steps that pyinfra has no operation for: Compose itself, and the unit around it."""

import dataclasses
from collections.abc import Generator, Iterator
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from deploys.stack.compose import render
from deploys.stack.difference import (
    Difference,
    another_project,
    difference,
    gpu_way,
    image_words,
    service_words,
    stray_files,
    unit_steps,
    unit_words,
)
from deploys.stack.facts import StackState, arguments
from deploys.stack.spec import Stack
from homeport import own_files
from homeport.differs import Pair, differs
from homeport.observe import act
from homeport.refuse import refuse
from homeport_node.common import COMPOSE_FILE, STACK, STACK_UNIT

UNIT_FILE = f"/etc/systemd/system/{STACK_UNIT}"
DROPIN = "/etc/systemd/system/docker.service.d/homeport-stack.conf"


def _observe(stack: Stack | None) -> dict[str, Any]:
    observed: dict[str, Any] = host.get_fact(StackState, **arguments(stack))
    return observed


@operation()
def fetch(stack: Stack) -> Generator[StringCommand, None, None]:
    """The missing images are on their way, while the run goes on; `provide` waits for them."""
    observed = _observe(stack)
    refused = difference(stack, observed).refused
    missing = [name for name, image in observed.get("images", {}).items() if not image]
    differs(image_words(missing))
    # What forbids the work is said before gigabytes are fetched.
    if refused:
        yield refuse(*refused)
    elif missing:
        yield act("stack_actions", "fetch", images=missing)
    else:
        host.noop("no image is missing")


@operation()
def provide(stack: Stack, lacks: tuple[str, ...] = ()) -> Generator[StringCommand, None, None]:
    """Nothing is in the services' way, their images are here, and what is new was tried.

    Before any file of theirs is written: what fails here has touched nothing, and the node starts
    again with what it had. `lacks` are the needs of trials that this machine cannot satisfy: those
    are left out.
    """
    observed = _observe(stack)
    todo = difference(stack, observed)
    if todo.refused:
        yield refuse(*todo.refused)
        return
    trials = [(service, trial) for service, trial in todo.untried if trial.need not in lacks]
    if not (todo.pull or trials):
        host.noop("the services have what they need")
        return
    differs(image_words(todo.pull))
    differs(Pair(f"service {one.name}: tried as wanted", "not tried yet") for one, _ in trials)
    if todo.pull:
        yield act("stack_actions", "pull", images=list(todo.pull))
    for service, trial in trials:
        yield act(
            "stack_actions",
            "attempt",
            image=service.image.reference,
            gpus=[gpu.uuid for gpu in service.gpus],
            way=gpu_way(observed),
            environment=service.environment,
            trial=dataclasses.asdict(trial),
        )


@operation()
def compose_file(stack: Stack) -> Generator[Any, None, None]:
    """The Compose file is as the inventory says, its GPUs as the node's Docker hands them over."""
    text = render(stack, gpu_way(_observe(stack)))
    yield from own_files.write._inner(COMPOSE_FILE, text)


@operation()
def converge(stack: Stack) -> Generator[StringCommand, None, None]:
    """Every service is started as the inventory says; what is as wanted is not touched."""
    observed = _observe(stack)
    todo = difference(stack, observed)
    if todo.refused:
        yield refuse(*todo.refused)
    elif observed.get("hash_error"):
        yield refuse(f"Compose refuses the file: {observed['hash_error']}", "report this")
    elif todo.up or todo.recreate or todo.extra:
        differs(service_words(todo, observed))
        yield from _start(stack, todo)
    else:
        host.noop("every service is started as wanted")


def _start(stack: Stack, todo: Difference) -> Iterator[StringCommand]:
    if todo.extra:
        ids = [container["id"] for container in todo.extra]
        yield act("stack_actions", "remove_containers", ids=ids)
    if todo.up or todo.recreate:
        recreate = sorted(todo.recreate)
        yield act("stack_actions", "up", project=stack.project, recreate=recreate)


@operation()
def ready(stack: Stack) -> Generator[StringCommand, None, None]:
    """Every service works; one that was just started is waited for."""
    observed = _observe(stack)
    todo = difference(stack, observed)
    if todo.refused:
        yield refuse(*todo.refused)
    elif todo:
        differs(image_words(todo.pull))
        differs(service_words(todo, observed))
        differs(Pair(f"service {name}: healthy", "starting") for name in todo.waiting)
        deadlines = {service.name: service.start_timeout for service in stack.services}
        yield act("stack_actions", "wait", project=stack.project, services=deadlines)
    else:
        host.noop("every service works")


@operation()
def enabled(stack: Stack) -> Generator[StringCommand, None, None]:
    """systemd knows the unit as it is on disk, and starts it at boot."""
    unit = _observe(stack).get("unit", {})
    steps = unit_steps(unit)
    differs(unit_words(unit, STACK_UNIT, DROPIN))
    for step in steps:
        name = () if step == "daemon-reload" else (STACK_UNIT,)
        yield StringCommand("systemctl", step, *name)
    foreign = own_files.foreign_dropins(STACK_UNIT, unit.get("dropins", ()))
    yield from foreign
    if not steps and not foreign:
        host.noop(f"{STACK_UNIT} is enabled")


@operation()
def active(stack: Stack) -> Generator[StringCommand, None, None]:
    """systemd has the unit started: it stops the services in order when the node goes down."""
    state = _observe(stack).get("unit", {}).get("ActiveState")
    if state == "active":
        host.noop(f"{STACK_UNIT} is active")
    else:
        differs([Pair(f"{STACK_UNIT}: active", state or "not there")])
        yield StringCommand("systemctl", "start", STACK_UNIT)


@operation()
def tidy(stack: Stack | None) -> Generator[StringCommand, None, None]:
    """No file lies below files/ that no service mounts."""
    stray = stray_files(stack, _observe(stack))
    differs(Pair(f"{path}: no such file", "a file that no service mounts") for path in stray)
    if stray:
        yield act("stack_actions", "remove_files", paths=stray)
    else:
        host.noop("no stray files")


@operation()
def remove() -> Generator[StringCommand, None, None]:
    """No container, network, unit or file of the stack is left. Volumes and images stay."""
    observed = _observe(None)
    unit = observed.get("unit", {})
    if observed.get("project") and not observed.get("docker") and unit.get("docker_there"):
        # Only Docker can take its containers away.
        differs([Pair(f"no Compose project {observed['project']}", "its file is there")])
        yield StringCommand("systemctl", "start", "docker.service")
        observed = _observe(None)
    if observed.get("foreign"):
        yield refuse(*another_project(observed["foreign"][0], observed["project"]))
        return
    loaded = observed.get("unit", {}).get("LoadState") == "loaded"
    project = observed["project"] if observed.get("docker") and observed.get("project") else ""
    has_files = bool(observed.get("compose_file") or observed.get("files"))
    if not (loaded or project or has_files):
        host.noop("there is no stack")
        return
    if loaded:
        differs([Pair(f"{STACK_UNIT}: no such unit", "loaded")])
    if project:
        differs([Pair(f"no Compose project {project}", "its file is there")])
    if has_files:
        differs([Pair(f"{STACK}: no such directory", "there are files of ours")])
    if loaded:
        yield StringCommand("systemctl", "disable", "--now", STACK_UNIT)
        yield StringCommand("rm", "-f", UNIT_FILE, DROPIN)
        yield StringCommand("systemctl", "daemon-reload")
    if project:
        yield act("stack_actions", "down", project=project)
    if has_files:
        yield StringCommand("rm", "-rf", STACK)
