"""Docker on the node: its configuration, its networks, its guard. Standard library only.

Nothing that somebody else wrote into daemon.json leaves the node, `SHOWN` apart: a proxy's password
may be there.
"""

import contextlib
import http.client
import ipaddress
import json
import os
import re
import socket
import tempfile
from pathlib import Path
from typing import Any

from homeport_node.common import STACK, dropins, own_files, read, run, show_units

SOCKET = "/run/docker.sock"
DAEMON_JSON = Path("/etc/docker/daemon.json")
RECORD = Path("/var/lib/homeport/docker.json")
# What dockerd was started with; written by the drop-in of docker.service.
STARTED_WITH = Path("/run/homeport-docker.json")
CERTIFICATES = Path("/etc/docker/certs.d")
RULES = Path("/etc/homeport/docker-guard.nft")
TABLE = ("list", "table", "inet", "homeport_docker")

# What is left out, too, when somebody else set one of these: dockerd would not start, or it would
# mean something else. A log driver refuses another one's options.
YIELDS_TO = {
    "bip": ("bridge", "fixed-cidr", "default-gateway"),
    "log-driver": ("log-opts",),
    "log-opts": ("log-driver",),
}
# Our paths in daemon.json at which dockerd takes no secret: what is there may be shown.
SHOWN = ("bip", "default-address-pools", "features/cdi", "log-driver")
OWN_PROJECT = ("com.docker.compose.project.working_dir", STACK)

# Without a name before the port it is localhost (dockerd(8)).
LOOPBACK = re.compile(r"tcp://(127\.|localhost(:|/|$)|\[::1\]|:)")
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
    path.parent.mkdir(parents=True, exist_ok=True)
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(value, file, indent=2)
            file.write("\n")
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


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


def take_back() -> "str | None":
    """Take our paths out of daemon.json, and have a running Docker run without them.

    Where other people's containers run, that is left to Docker's next start.
    """
    words = merge({}, keep_record=True)
    if words:
        return words
    active = units(["docker.service"]).get("docker.service", {}).get("active")
    if active and daemon({})["not_running"] and not foreign(ask("/containers/json") or []):
        done = run("systemctl", "restart", "docker.service", timeout=120)
        if not done.ok:
            return f"systemctl restart docker.service: {done.err.strip()}"
    RECORD.unlink(missing_ok=True)
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


class _Engine(http.client.HTTPConnection):
    """HTTP to Docker's socket, with a timeout of 10 s."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(10)
        self.sock.connect(SOCKET)


def ask(path: str) -> Any:
    """The engine's JSON answer to GET `path`, None when it gives none."""
    engine = _Engine("docker")
    try:
        engine.request("GET", path)
        answer = engine.getresponse()
        return json.loads(answer.read()) if answer.status == 200 else None
    except (OSError, ValueError, http.client.HTTPException):
        return None
    finally:
        engine.close()


def bridges(networks: "list[dict[str, Any]]") -> "list[dict[str, Any]]":
    """[{"name": "bridge", "interface": "docker0", "subnets": ["10.213.0.0/24"]}]."""
    found = []
    for network in networks:
        if network.get("Driver") != "bridge":
            continue
        options = network.get("Options") or {}
        configs = (network.get("IPAM") or {}).get("Config") or []
        found.append(
            {
                "name": network["Name"],
                "interface": options.get("com.docker.network.bridge.name")
                or f"br-{network['Id'][:12]}",
                "subnets": [one["Subnet"] for one in configs if one.get("Subnet")],
            }
        )
    return sorted(found, key=lambda one: str(one["interface"]))


def foreign(containers: "list[dict[str, Any]]") -> "list[str]":
    """The names of those of the `containers` that are not of our Compose project."""
    label, ours = OWN_PROJECT
    return sorted(
        one["Names"][0].lstrip("/") if one.get("Names") else one["Id"][:12]
        for one in containers
        if (one.get("Labels") or {}).get(label) != ours
    )


def canonical(listed: str) -> Any:
    """What `nft -j list` printed, without handles, counts and order of elements.

    None when it is not such a listing.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            ignored = {"handle", "packets", "bytes", "metainfo"}
            return {key: plain(one) for key, one in value.items() if key not in ignored}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value

    def unordered(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: sorted(one, key=json.dumps)
                if key in ("set", "elem") and is_list(one)
                else unordered(one)
                for key, one in value.items()
            }
        return [unordered(one) for one in value] if is_list(value) else value

    def is_list(value: Any) -> bool:
        return isinstance(value, list)

    try:
        objects = [plain(one) for one in json.loads(listed)["nftables"]]
    except (ValueError, KeyError, TypeError):
        return None
    rules = [one for one in objects if "rule" in one]  # their order is their meaning
    others = sorted((one for one in objects if one and "rule" not in one), key=json.dumps)
    return unordered([*others, *rules])


def guard() -> "dict[str, Any]":
    """Whether the kernel holds what the rules file says, and what that file says.

    The file is loaded into an empty network namespace, so that one nft writes both sides.
    """
    text = read(RULES)
    if text is None:
        return {"rules": None, "same": False, "error": ""}
    live = run("nft", "-j", *TABLE)
    load_and_list = f"nft -f {RULES} && exec nft -j {' '.join(TABLE)}"
    wanted = run("unshare", "--net", "sh", "-c", load_and_list)
    if wanted.status == 127 or live.status == 127:
        return {"rules": text, "same": False, "error": ""}
    if not wanted.ok:
        return {"rules": text, "same": False, "error": wanted.err.strip()}
    same = live.ok and canonical(live.out) == canonical(wanted.out)
    return {"rules": text, "same": same, "error": ""}


def units(names: "list[str]") -> "dict[str, dict[str, Any]]":
    """{unit: {"enabled": True, "active": True, "stale": False, "masked": False, "dropins": [],
    "pid": 0}}; stale: not as on the disk."""
    return {
        name: {
            "enabled": values.get("UnitFileState") == "enabled",
            "active": values.get("ActiveState") == "active",
            "stale": values.get("NeedDaemonReload") == "yes",
            "masked": values.get("LoadState") == "masked",
            "dropins": dropins(values),
            "pid": int(values.get("MainPID") or 0),
        }
        for name, values in show_units(*names).items()
    }


def listens(words: "list[str]") -> "list[str]":
    """The addresses in dockerd's own command line: "-H X", "-HX", "--host X", "--host=X"."""
    found = []
    for word, after in zip(words, [*words[1:], ""]):  # noqa: B905  # as long as each other
        if word in ("-H", "--host"):
            found.append(after)
        elif word.startswith(("-H", "--host=")):
            found.append(word.removeprefix("-H").removeprefix("--host="))
    return found


def exposed(pid: int, processes: str = "/proc") -> "list[str]":
    """Where dockerd takes orders from the network and asks for no certificate: whoever reaches
    "tcp://0.0.0.0:2375" is root here. By daemon.json, and by how process `pid` was started."""
    try:
        config = load(DAEMON_JSON)
    except ValueError:
        config = {}
    words = (read(f"{processes}/{pid}/cmdline") or "").split("\0") if pid else []
    asks = [word for word in words if re.fullmatch("--tlsverify(=(1|t|true))?", word, re.I)]
    if config.get("tlsverify") or asks:
        return []
    hosts = config.get("hosts")
    found = {*listens(words), *map(str, hosts if isinstance(hosts, list) else ())}
    return sorted(one for one in found if one.startswith("tcp://") and not LOOPBACK.match(one))


def ip(*what: str) -> "list[dict[str, Any]]":
    """What `ip -json` says, [] when it says nothing."""
    try:
        found = json.loads(run("ip", "-json", *what).out)
    except ValueError:
        return []
    return [one for one in found if one]


def os_release() -> "dict[str, str]":
    """{"id": "debian", "version": "13"}."""
    lines = (read("/etc/os-release") or "").splitlines()
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return {
        "id": values.get("ID", "").strip('"'),
        "version": values.get("VERSION_ID", "").strip('"'),
    }


def observe(
    wanted: "dict[str, Any]", files: "list[str]", without_cdi: "dict[str, Any] | None" = None
) -> "dict[str, Any]":
    """Everything about Docker. `wanted` is {path in daemon.json: value}, `without_cdi` what a
    Docker that has no CDI needs besides, `files` are ours.

    "daemon": "differs" are the paths in daemon.json that are not as wanted, "there" what may be
    said of those, "not_running" the paths that dockerd was started with otherwise, "pools" where
    Docker takes its networks from; "networks" is None while Docker does not run; "foreign" are
    other people's running containers.
    """
    names = ["docker.service", "homeport-docker-guard.service", "nftables.service"]
    # What docker.service needs to start: masked while it runs, they are missed at the next boot.
    state = units([*names, "docker.socket", "containerd.service"])
    # Asking a stopped Docker would start it, by its socket.
    active = state.get("docker.service", {}).get("active")
    networks = ask("/networks") if active else None
    return {
        "os": os_release(),
        "exposed": exposed(state.get("docker.service", {}).get("pid", 0)),
        "daemon": daemon(here(wanted, without_cdi)),
        "recorded": RECORD.exists(),
        "units": state,
        "networks": None if networks is None else bridges(networks),
        "foreign": foreign((ask("/containers/json") or []) if active else []),
        "bridges": [one["ifname"] for one in ip("link", "show", "type", "bridge")],
        "routes": [
            [one["dst"], one.get("dev", "")] for one in ip("-4", "route") if one["dst"] != "default"
        ],
        "guard": guard(),
        "files": own_files([*files, *map(str, CERTIFICATES.glob("*/homeport.crt"))]),
    }
