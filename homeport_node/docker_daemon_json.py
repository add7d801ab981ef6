"""daemon.json: ours put in and taken out, other people's settings kept. Standard library only.

Nothing that somebody else wrote into it leaves the node, `SHOWN` apart: a proxy's password may be
there.
"""

import contextlib
import ipaddress
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from homeport_node.common import read, run, write_whole

DAEMON_JSON = Path("/etc/docker/daemon.json")
RECORD = Path("/var/lib/homeport/docker.json")
# What dockerd was started with; written by the drop-in of docker.service.
STARTED_WITH = Path("/run/homeport-docker.json")

# What is left out, too, when somebody else set one of these: dockerd would not start, or it would
# mean something else. A log driver refuses another one's options.
YIELDS_TO = {
    "bip": ("bridge", "fixed-cidr", "default-gateway"),
    "log-driver": ("log-opts",),
    "log-opts": ("log-driver",),
}
# Our paths in daemon.json at which dockerd takes no secret: what is there may be shown.
SHOWN = ("bip", "default-address-pools", "features/cdi", "log-driver")
MISSING = object()


def get(value: "dict[str, Any]", path: str) -> Any:
    """What is at `path` in `value`, MISSING when there is nothing."""
    key, _, rest = path.partition("/")
    found = value.get(key, MISSING)
    if not rest:
        return found
    return found.get(rest, MISSING) if isinstance(found, dict) else MISSING


def put(value: "dict[str, Any]", path: str, new: Any) -> "dict[str, Any]":
    """`value` with `new` at `path`; MISSING removes, and an object that it leaves empty too."""
    key, _, rest = path.partition("/")
    if rest:
        inner = value.get(key)
        new = put(inner if isinstance(inner, dict) else {}, rest, new) or MISSING
    result = dict(value)
    if new is MISSING:
        result.pop(key, None)
    else:
        result[key] = new
    return result


def _as_wanted(current: "dict[str, Any]", wanted: "dict[str, Any]") -> "dict[str, Any]":
    """Those of `wanted` that `current` has, each with all others that yield to the same."""

    def has(path: str) -> bool:
        tied = {path, *YIELDS_TO.get(path, ()), *(p for p, to in YIELDS_TO.items() if path in to)}
        return all(get(current, one) == wanted[one] for one in tied & wanted.keys())

    return {path: value for path, value in wanted.items() if has(path)}


def merged(
    current: "dict[str, Any]", record: "dict[str, Any]", wanted: "dict[str, Any]"
) -> "tuple[dict[str, Any], dict[str, Any]]":
    """daemon.json and our record of it as they ought to be: (configuration, record).

    The record is {"ours": {path: value}}: what we set. Without one, so that one that was lost comes
    back, it is what is as wanted together with all that goes by it in `YIELDS_TO`. What somebody
    else set is not overruled. A path that is not wanted any more is taken out, unless it was edited
    since: then it is left as it is.
    """
    ours = dict(record.get("ours", {}))
    if not record:
        ours = _as_wanted(current, wanted)
    result = dict(current)
    for path in ours.keys() - wanted.keys():
        if get(result, path) == ours.pop(path):
            result = put(result, path, MISSING)
    theirs = {
        path
        for path in {*wanted, *(other for others in YIELDS_TO.values() for other in others)}
        if path not in ours and get(result, path) is not MISSING
    }
    for path, value in wanted.items():
        if path in ours or not theirs & {path, *YIELDS_TO.get(path, ())}:
            result = put(result, path, value)
            ours[path] = value
    # Written even where nothing is ours: so one that is not there was lost.
    return result, ({"ours": ours} if ours or wanted else {})


def load(path: Path) -> "dict[str, Any]":
    """The JSON object in the file at `path`, {} when there is none. Raises ValueError."""
    text = read(path)
    if text is None or not text.strip():
        return {}
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")
    return value


def replace(path: Path, value: "dict[str, Any]") -> None:
    """Put `value` into the file at `path`, whole or not at all; {} removes the file."""
    if not value:
        path.unlink(missing_ok=True)
        return
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    write_whole(path, f"{json.dumps(value, indent=2)}\n".encode(), mode)


def refused(value: "dict[str, Any]") -> "str | None":
    """Why dockerd would not start with `value`, None when it would or cannot be asked.

    `dockerd --validate` exists since 23.0; Debian 12's 20.10 answers "unknown flag".
    """
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(value, file)
        file.flush()
        asked = run("dockerd", "--validate", "--config-file", file.name)
    if asked.status in (0, 124, 127) or "unknown flag" in asked.err:
        return None
    return asked.err.strip()


def has_cdi() -> bool:
    """Whether the dockerd that is installed has CDI (25.0 and newer); True when there is none."""
    match = re.search(r"version (\d+)\.", run("dockerd", "--version").out)
    return match is None or int(match[1]) >= 25


def here(wanted: "dict[str, Any]", without_cdi: "dict[str, Any] | None") -> "dict[str, Any]":
    """`wanted`, with the values that a Docker `without_cdi` needs where this one is such."""
    return {**wanted, **without_cdi} if without_cdi and not has_cdi() else wanted


def merge(
    wanted: "dict[str, Any]",
    without_cdi: "dict[str, Any] | None" = None,
    keep_record: bool = False,
) -> "str | None":
    """Bring daemon.json to `wanted`, {path: value}, and to `without_cdi` besides for a Docker that
    has no CDI. Answers what stood in the way, or None.

    The record always covers what is in the file, so that an interruption anywhere is healed by
    the next call; with `keep_record` it goes on to cover what was taken out.
    """
    wanted = here(wanted, without_cdi)
    try:
        current, record = load(DAEMON_JSON), load(RECORD)
    except ValueError as error:
        return f"{DAEMON_JSON} or {RECORD}: {error}: correct it, nothing was changed"
    config, final = merged(current, record, wanted)
    words = refused(config) if config != current else None
    if words:
        return f"dockerd refuses the configuration, {DAEMON_JSON} is unchanged: {words}"
    both = {"ours": {**final.get("ours", {}), **record.get("ours", {})}}
    try:
        if config != current:
            if not STARTED_WITH.exists():
                # From here on the file tells no more what a Docker runs that was started before.
                STARTED_WITH.touch(mode=0o600)
                STARTED_WITH.write_text(json.dumps(current))
            replace(RECORD, both)
            replace(DAEMON_JSON, config)
        if not keep_record:
            replace(RECORD, final)
    except OSError as error:
        return f"{error}: nothing of {DAEMON_JSON} is lost"
    return None


def shown(path: str, value: Any, wanted: Any) -> str:
    """What may be said of the `value` at one of our paths in daemon.json: of several options, those
    that are `wanted` too."""
    if value is MISSING:
        return "not set"
    if path in SHOWN:
        return json.dumps(value)
    if not isinstance(value, dict) or not isinstance(wanted, dict):
        return "another value"
    ours = {key: value[key] for key in wanted if key in value}
    return json.dumps(ours) + (", and others" if value.keys() - ours.keys() else "")


def pools(config: "dict[str, Any]") -> "list[str]":
    """The networks from which Docker takes its networks, as daemon.json names them."""
    found = []
    listed = config.get("default-address-pools")
    for one in listed if isinstance(listed, list) else ():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            found.append(str(ipaddress.ip_network(one["base"], strict=False)))
    return found


def daemon(wanted: "dict[str, Any]") -> "dict[str, Any]":
    """{"error": "", "differs": [path, …], "there": {path: words}, "not_running": [path, …],
    "pools": [network, …]}: see `observe`. A Docker of which nobody noted what it was started with
    runs what is on the disk: `merge` notes it before it changes that."""
    try:
        current, record = load(DAEMON_JSON), load(RECORD)
    except ValueError as error:
        words = f"{DAEMON_JSON} or {RECORD}: {error}"
        return {"error": words, "differs": [], "not_running": [], "pools": []}
    config, final = merged(current, record, wanted)
    paths = final.get("ours", {}).keys() | record.get("ours", {}).keys()
    differs = [path for path in paths if get(config, path) != get(current, path)]
    if final != record and not differs:
        differs = ["record"]
    try:
        started = load(STARTED_WITH) if STARTED_WITH.exists() else current
    except ValueError:
        started = {}
    stale = [path for path in paths if get(started, path) != get(config, path)]
    return {
        "error": "",
        "differs": sorted(differs),
        "there": {
            path: shown(path, get(current, path), wanted.get(path))
            if path != "record"
            else "something else"
            if record
            else "no such file"
            for path in differs
        },
        "not_running": sorted(stale),
        "pools": pools(config),
    }
