"""The steps that bring a node's services to what the inventory says, in order."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from pyinfra import host
from pyinfra.api import deploy
from pyinfra.operations import files

from deploys.stack import operations
from deploys.stack.difference import mounted
from deploys.stack.spec import Stack
from homeport import own_files
from homeport_node.common import COMPOSE_FILE, STACK

ROOT = Path(__file__).resolve().parents[2]
UNIT_TEMPLATE = ROOT / "templates/stack/homeport-stack.service.j2"
DROPIN_FILE = ROOT / "files/stack/homeport-stack.conf"
# Seconds that Compose may take above the slowest service.
STOP_MARGIN = 60


def _compose(project: str) -> str:
    """How the unit calls Compose: 2 as Docker's plugin or 1, whichever the node has then."""
    return (
        'c="docker compose"; $$c version >/dev/null 2>&1 || c=docker-compose; '
        f"exec $$c -p {project} -f {COMPOSE_FILE}"
    )


def unit_text(stack: Stack) -> str:
    """The unit that starts the services with the node, and stops them in order."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    return environment.from_string(UNIT_TEMPLATE.read_text()).render(
        project=stack.project,
        compose=_compose(stack.project),
        stop_seconds=max(service.stop_grace for service in stack.services) + STOP_MARGIN,
    )


def _write_files(stack: Stack) -> None:
    files.directory(
        name="Make the stack's directory", path=STACK, user="root", group="root", mode="755"
    )
    wanted: list[tuple[Any, Any]] = list(mounted(stack))
    for service, file in host.loop(wanted):
        path = stack.path_of_file(service, file)
        own_files.write(name=f"Write {path}", path=path, text=file.content, mode=file.mode)
    operations.compose_file(name=f"Write {COMPOSE_FILE}", stack=stack)
    own_files.write(name="Write the unit", path=operations.UNIT_FILE, text=unit_text(stack))
    own_files.write(
        name="Tell the stack when Docker has started",
        path=operations.DROPIN,
        text=DROPIN_FILE.read_text(),
    )


@deploy("Images")
def fetch(spec: Stack | None) -> None:
    """Begin to pull what the services need. To be called as soon as Docker runs: it takes long,
    and nothing between here and `apply` waits for it. What forbids the services is said first."""
    if spec is not None and spec.services:
        operations.fetch(name="Begin to fetch the images", stack=spec)


@deploy("Stack")
def apply(spec: Stack | None, lacks: tuple[str, ...] = ()) -> None:
    """Run the services of the inventory, and nothing else under this project.

    `lacks` is what the machine has not, of what the services' trials need.
    """
    if spec is None or not spec.services:
        operations.remove(name="Remove the stack")
        return
    operations.provide(name="Have what the services need", stack=spec, lacks=lacks)
    _write_files(spec)
    operations.enabled(name="Keep the stack's unit enabled", stack=spec)
    operations.converge(name="Bring the services to what is wanted", stack=spec)
    operations.active(name="Keep the stack's unit active", stack=spec)
    operations.tidy(name="Remove stray mounted files", stack=spec)
    # Last: the rest is done while the services start.
    operations.ready(name="Wait until every service works", stack=spec)
