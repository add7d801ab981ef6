"""What a person asks of a running stack, as the shell text that runs on the node as root."""

import shlex

from deploys.stack.spec import Stack
from homeport.refuse import refuse
from homeport_node.common import COMPOSE_FILE, STACK_UNIT

NOT_RUNNING = 3  # the exit status of `status` when the node was asked, and the answer is no
COMPOSE = (
    'compose() { if docker compose version >/dev/null 2>&1; then docker compose "$@"; '
    'else docker-compose "$@"; fi; }'
)


def verb(stack: Stack | None, name: str, *words: str) -> str:
    """The shell text for `status`, `start`, `stop` or `logs LINES [SERVICE]` of `stack`."""
    if stack is None:
        return str(refuse("the inventory gives this node no services", "add one, then converge"))
    project = f"compose -p {shlex.quote(stack.project)} -f {COMPOSE_FILE}"
    if name == "logs":
        lines, *services = (shlex.quote(word) for word in words)
        return f"{COMPOSE}\n{project} logs --no-color --tail {lines} {' '.join(services)}\n"
    texts = {
        "status": f"systemctl is-active {STACK_UNIT}\n{COMPOSE}\n{project} ps || exit 1\n"
        f"systemctl --quiet is-active {STACK_UNIT} || exit {NOT_RUNNING}\n",
        "start": f"systemctl start {STACK_UNIT}\n",
        "stop": f"systemctl stop {STACK_UNIT}\n",
    }
    return texts[name]
