"""Observed state of Caddy, and the difference to what is wanted. Nothing here changes a node."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pyinfra.api import StringCommand

from deploys.caddy.spec import ADMIN, CA_DIRECTORY, CONFIG, DISTRIBUTION, DROPIN, STAGED
from homeport.differs import Pair, listed
from homeport.observe import NodeFact

Observed = Mapping[str, Any]
Step = Literal["unmask", "daemon-reload", "enable", "protect", "reissue", "restart", "reload"]


class CaddyState(NodeFact):
    """Everything about Caddy in one command:

    {"version": "2.6.2-12", "config": {"mode": "644", "uid": 0, "gid": 0, "sha256": "…",
     "link": null}, "dropin": {…}, "own_sites": false, "unit": {"load": "loaded", "active":
     "active", "enabled": "enabled", "need_reload": false, "dropins": ["…"], "start": "…",
     "pid": 354, "command": ["/usr/bin/caddy", "run", "--config", "…"]}, "current": true,
     "adapt_error": "", "foreign": [{"port": 80, "pid": 7, "program": "nginx", "unit": "…"}],
     "untrusted": [], "root_sha256": "64 hex digits", "exposed": []}

    `current` is whether the running configuration is what Caddy makes of the file on disk; None
    when one of the two cannot be had. `untrusted` are those of the `names` asked about whose
    certificate, as served, does not lead to the CA's root on disk. `root_sha256` is the
    fingerprint of the CA's certificate, "" when there is none yet. `exposed` are those of the CA's
    keys that are not for Caddy's user alone. Without python3 on the node the answer is {}.
    """

    stem = "caddy"

    def command(  # type: ignore[override]
        self, config: str = CONFIG, names: tuple[str, ...] = ()
    ) -> StringCommand:
        return super().command(
            config=config,
            dropin=DROPIN,
            distribution=DISTRIBUTION,
            admin=ADMIN,
            root_crt=f"{CA_DIRECTORY}/root.crt",
            names=list(names),
        )


def refusal(observed: Observed) -> tuple[str, str] | None:
    """What stands in the way of taking Caddy over, as (cause, remedy), or None."""
    if observed.get("own_sites") and not observed.get("dropin"):
        return (
            f"{DISTRIBUTION} holds sites that are not Homeport's and that would go off the air",
            "Homeport's Caddy reads its own file only; if they are not needed here, "
            f"`mv {DISTRIBUTION} {DISTRIBUTION}.mine` and run this again",
        )
    for listener in observed.get("foreign", ()):
        who, remedy = _holder(listener)
        return f"port {listener['port']} is taken by {who}, and Caddy needs it", remedy
    return None


def _holder(listener: Mapping[str, Any]) -> tuple[str, str]:
    """Who holds a port that Caddy needs, and what to do about it."""
    port, pid, unit = listener["port"], listener["pid"], listener["unit"]
    if "container" in listener:
        # The process is Docker's own; stopping that would stop every container.
        name = listener["container"]
        if not name:
            return "a container", f"find it with `docker ps --filter publish={port}` and stop it"
        stop = f"docker stop {name}"
        return f"the container {name}", f"stop that first, with `{stop}`, and run this again"
    if not pid:
        return "a process out of sight", f"find who listens with `ss -ltnp 'sport = :{port}'`"
    stop = f"systemctl disable --now {unit}" if unit.endswith(".service") else f"kill {pid}"
    return (
        f"{listener['program']} (pid {pid}{f', {unit}' if unit else ''})",
        f"stop that first, for instance with `{stop}`, and run this again",
    )


def overridden(observed: Observed) -> tuple[str, str] | None:
    """Another drop-in that beats Homeport's, as (cause, remedy), or None."""
    unit = observed.get("unit", {})
    if DROPIN not in unit.get("dropins", ()) or unit["need_reload"] or CONFIG in unit["start"]:
        return None
    others = [path for path in unit["dropins"] if path != DROPIN]
    return (
        f"caddy.service is started with another configuration than {CONFIG}, "
        f"because of {' or '.join(others)}",
        "remove ExecStart from there, `systemctl daemon-reload`, and run this again",
    )


def service_steps(observed: Observed, config_sha256: str) -> tuple[Step, ...]:
    """What to do with the unit so that it runs the configuration with `config_sha256`, in order."""
    unit = observed.get("unit", {})
    steps: list[Step] = []
    if unit.get("load") == "masked":
        steps.append("unmask")
    if unit.get("need_reload", True) or DROPIN not in unit.get("dropins", ()):
        steps.append("daemon-reload")
    if unit.get("enabled") != "enabled":
        steps.append("enable")
    if observed.get("exposed"):
        steps.append("protect")
    # Another process than the drop-in's cannot be told to reload into it.
    ours = unit.get("active") == "active" and CONFIG in unit.get("command", ())
    config = observed.get("config") or {}
    loaded = ours and observed.get("current") and config.get("sha256") == config_sha256
    if not observed.get("root_sha256") or (loaded and observed.get("untrusted")):
        steps.append("reissue")
    elif not ours:
        steps.append("restart")
    elif not loaded:
        steps.append("reload")
    order = get_args(Step)
    return tuple(sorted(steps, key=order.index))


def service_words(steps: tuple[Step, ...], observed: Observed) -> Iterator[Pair]:
    """What differs of the unit and of what it runs, where `service_steps` are `steps`."""
    unit = observed.get("unit", {})
    active = unit.get("active") or "not there"
    runs = "runs something else" if active == "active" else active
    root = f"{CA_DIRECTORY}/root.crt"
    lost = f"those of {listed(observed.get('untrusted', ()))} do not"
    words: dict[Step, Pair] = {
        "unmask": Pair("not masked", "masked"),
        "daemon-reload": Pair(f"loaded with {DROPIN}", "systemd has not read that"),
        "enable": Pair("enabled", unit.get("enabled") or "not there"),
        "protect": Pair(
            "the CA's keys: for its user alone",
            f"{listed(observed.get('exposed', ()))}: another mode or owner",
        ),
        "reissue": Pair(
            f"certificates that lead to {root}",
            lost if observed.get("root_sha256") else "no such root",
        ),
        "restart": Pair(f"runs {CONFIG}", runs),
        "reload": Pair(f"runs the wanted {CONFIG}", "runs another configuration"),
    }
    for step in steps:
        yield Pair(f"caddy.service: {words[step].wanted}", words[step].there)


def unserved(steps: tuple[Step, ...], observed: Observed) -> tuple[str, str]:
    """What to say, as (cause, remedy), when Caddy still needs `steps` after they were taken."""
    untrusted = observed.get("untrusted")
    if untrusted:
        names = ", ".join(untrusted)
        return (
            f"Caddy's certificates for {names} do not lead to {CA_DIRECTORY}/root.crt",
            "root.crt and root.key there may not belong together: restore both from one backup",
        )
    return (
        f"Caddy was started, and still needs: {', '.join(steps)}",
        "see `journalctl -u caddy.service -n 50` and `systemctl status caddy.service`",
    )


def removal_words(observed: Observed) -> Iterator[Pair]:
    """What of ours is there, where there are `removal_commands`."""
    for key, path in (("config", CONFIG), ("dropin", DROPIN)):
        if observed.get(key):
            yield Pair(f"{path}: no such file", "a file of ours")
    if DROPIN in observed.get("unit", {}).get("dropins", ()):
        yield Pair(f"caddy.service: without {DROPIN}", "loaded with it")


def removal_commands(observed: Observed) -> tuple[str, ...]:
    """The commands that take back what Homeport put there; none when there is nothing.

    The package and the CA stay. The unit stays on only where somebody has since written sites of
    their own: without them Caddy would show the network its package's page.
    """
    unit = observed.get("unit", {})
    files = [path for key, path in (("config", CONFIG), ("dropin", DROPIN)) if observed.get(key)]
    if not files and DROPIN not in unit.get("dropins", ()):
        return ()
    remove = (
        f"rm -f {STAGED} {CONFIG} {DROPIN} && "
        f"{{ rmdir --ignore-fail-on-non-empty $(dirname {DROPIN}) 2>/dev/null || true; }} && "
        "systemctl daemon-reload"
    )
    if unit.get("load") in ("not-found", "masked"):
        return (remove,)
    if observed.get("own_sites"):
        return (remove, "systemctl try-restart caddy.service")
    # The drop-in goes last: it is what tells an interrupted removal that the unit was Homeport's.
    return ("systemctl disable --now caddy.service", remove)
