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


# Waits for a machine that was switched on less than so many seconds ago.
BOOTING_SECONDS = 900
# A Docker that does not run is not asked: its socket would start it.
SETTLE = """\
starting() {
  case $(systemctl is-system-running 2>/dev/null) in initializing|starting)
    jobs=$(systemctl list-jobs --plain --no-legend | awk '$4 == "running" { print $2 }')
    echo "${jobs:-systemd}" ;;
  esac
  if systemctl --quiet is-active docker.service; then
    timeout 20 docker ps --filter health=starting --format '{{.Names}}'
  fi
}
said=
while read -r up _ </proc/uptime && [ "${up%.*}" -lt BOOTING ]; do
  now=$(starting | sort | paste -sd ' ' -)
  test -n "$now" || exit 0
  test "$now" = "$said" || echo "NAME booted $((${up%.*} / 60)) min ago and still starts: $now"
  said=$now
  sleep 2
done
"""


def settle(name: str) -> str:
    """The shell text that waits, on the node `name`, for what it still starts since its boot: units
    of systemd, and containers whose health nobody knows yet. It says what that is.

    At most until `BOOTING_SECONDS` after the boot. A container that never gets well on a machine
    that has been up for longer is nothing to wait for.
    """
    return SETTLE.replace("BOOTING", str(BOOTING_SECONDS)).replace("NAME", name)
