"""Operations that bring Caddy to what is wanted, each yielding commands for the difference only."""

from collections.abc import Generator
from io import StringIO
from typing import Any

from pyinfra import host
from pyinfra.api import FileUploadCommand, StringCommand, operation
from pyinfra.api.command import PyinfraCommand

from deploys.caddy.facts import (
    CaddyState,
    Step,
    overridden,
    refusal,
    removal_commands,
    removal_words,
    service_steps,
    service_words,
    unserved,
)
from deploys.caddy.spec import CA_DIRECTORY, CONFIG, DROPIN, HOME, LEAVES, STAGED
from homeport import own_files
from homeport.differs import Pair, differs
from homeport.refuse import refuse

# As the user that serves: as root, `caddy validate` would make a CA under root's home.
VALIDATE = (
    f"runuser -u caddy -- env -i HOME={HOME} PATH=/usr/sbin:/usr/bin:/sbin:/bin "
    f"caddy validate --adapter caddyfile --config {STAGED}"
)
PLACE = f"""\
chown 0:0 {STAGED} && chmod 644 {STAGED} || exit 1
words=$({VALIDATE} 2>&1) || {{
  printf '%s\\n' "$words" | grep -v '^{{"level":"[iw]' >&2
  echo "Caddy refuses the new configuration: nothing was changed, the old one keeps serving." >&2
  rm -f {STAGED}
  exit 1
}}
mv -f {STAGED} {CONFIG}"""

WORDS = "|| { journalctl -u caddy.service -n 20 --no-pager -o cat >&2; exit 1; }"
# A unit that failed too often would refuse to start.
START = f"systemctl reset-failed caddy.service 2>/dev/null; systemctl restart caddy.service {WORDS}"
COMMANDS: dict[Step, str] = {
    "unmask": "systemctl unmask caddy.service; systemctl unmask --runtime caddy.service",
    "daemon-reload": "systemctl daemon-reload",
    "enable": "systemctl enable --quiet caddy.service",
    "protect": f"for key in {CA_DIRECTORY}/root.key {CA_DIRECTORY}/intermediate.key; do "
    '[ ! -e "$key" ] || { chown caddy:caddy "$key" && chmod 600 "$key"; } || exit 1; done',
    # Only the root is precious: what it signed is made anew at the next start.
    "reissue": "systemctl stop caddy.service; "
    f"rm -rf {LEAVES} {CA_DIRECTORY}/intermediate.crt {CA_DIRECTORY}/intermediate.key; {START}",
    "restart": START,
    "reload": f"systemctl reload caddy.service {WORDS}",
}


def _unlike(path: str, text: str, found: dict[str, Any] | None) -> list[Pair]:
    """The words for a file of ours that is not `text`; nothing where it is."""
    return [*own_files.otherwise({path: text}, {path: found} if found else {})]


@operation()
def take_over(text: str, names: tuple[str, ...]) -> Generator[PyinfraCommand, None, None]:
    """Put the drop-in with `text` in place, unless the node is somebody else's web server.

    `names` are those of `serve`, here and in `configure`: one look at the node serves all three.
    """
    observed = host.get_fact(CaddyState, names=names)
    reason = refusal(observed)
    unlike = _unlike(DROPIN, text, observed.get("dropin"))
    if reason:
        yield refuse(*reason)
    elif unlike:
        differs(unlike)
        yield from own_files.put(DROPIN, text)
    else:
        host.noop("the drop-in is in place")


@operation()
def configure(text: str, names: tuple[str, ...]) -> Generator[PyinfraCommand, None, None]:
    """Put the Caddyfile `text` in place once Caddy itself found it valid."""
    unlike = _unlike(CONFIG, text, host.get_fact(CaddyState, names=names).get("config"))
    if unlike:
        differs(unlike)
        yield StringCommand("install -d -m 755 /etc/homeport")
        yield FileUploadCommand(StringIO(text), STAGED)
        yield StringCommand(PLACE)
    else:
        host.noop("the Caddyfile is in place")


@operation()
def serve(config_sha256: str, names: tuple[str, ...]) -> Generator[PyinfraCommand, None, None]:
    """Make the unit run, now and after a reboot, what the Caddyfile on disk says.

    A start may show that the certificates are another CA's: hence a second look, and a third that
    ends the run when Caddy cannot be brought to serve `names`.
    """
    for attempt in range(3):
        observed = host.get_fact(CaddyState, names=names)
        reason = overridden(observed)
        steps = service_steps(observed, config_sha256)
        differs(service_words(steps, observed))
        if reason or (steps and attempt == 2):
            yield refuse(*(reason or unserved(steps, observed)))
            return
        for step in steps:
            yield StringCommand(COMMANDS[step])
        if not steps:
            if attempt == 0:
                host.noop("Caddy runs the Caddyfile")
            return


@operation()
def remove() -> Generator[PyinfraCommand, None, None]:
    """Take back the Caddyfile and the drop-in, and stop the unit that they configured."""
    observed = host.get_fact(CaddyState)
    commands = removal_commands(observed)
    if commands:
        differs(removal_words(observed))
    for command in commands:
        yield StringCommand(command)
    if not commands:
        host.noop("nothing of Homeport's Caddy is there")
