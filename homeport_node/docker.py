"""Docker on the node: its daemon, its networks, its guard. Standard library only."""

import json
import re
from pathlib import Path
from typing import Any

from homeport_node import docker_daemon_json as daemon_json
from homeport_node import docker_engine
from homeport_node.common import STACK, dropins, own_files, read, run, show_units

CERTIFICATES = Path("/etc/docker/certs.d")
RULES = Path("/etc/homeport/docker-guard.nft")
TABLE = ("list", "table", "inet", "homeport_docker")

OWN_PROJECT = ("com.docker.compose.project.working_dir", STACK)

# Without a name before the port it is localhost (dockerd(8)).
LOOPBACK = re.compile(r"tcp://(127\.|localhost(:|/|$)|\[::1\]|:)")


def take_back() -> "str | None":
    """Take our paths out of daemon.json, and have a running Docker run without them.

    Where other people's containers run, that is left to Docker's next start.
    """
    words = daemon_json.merge({}, keep_record=True)
    if words:
        return words
    active = units(["docker.service"]).get("docker.service", {}).get("active")
    if active and daemon_json.daemon({})["not_running"] and not engine()["foreign"]:
        done = run("systemctl", "restart", "docker.service", timeout=120)
        if not done.ok:
            return f"systemctl restart docker.service: {done.err.strip()}"
    daemon_json.RECORD.unlink(missing_ok=True)
    return None


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
        docker_engine.name(one)
        for one in containers
        if (one.get("Labels") or {}).get(label) != ours
    )


def engine() -> "dict[str, Any]":
    """{"networks": what `bridges` says, None while Docker does not answer, "foreign": […]}."""
    try:
        networks = bridges(docker_engine.ask("/networks"))
        return {"networks": networks, "foreign": foreign(docker_engine.ask("/containers/json"))}
    except docker_engine.NoAnswer:
        return {"networks": None, "foreign": []}


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
        config = daemon_json.load(daemon_json.DAEMON_JSON)
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
    return {
        "os": os_release(),
        "exposed": exposed(state.get("docker.service", {}).get("pid", 0)),
        "daemon": daemon_json.daemon(daemon_json.here(wanted, without_cdi)),
        "recorded": daemon_json.RECORD.exists(),
        "units": state,
        **engine(),
        "bridges": [one["ifname"] for one in ip("link", "show", "type", "bridge")],
        "routes": [
            [one["dst"], one.get("dev", "")] for one in ip("-4", "route") if one["dst"] != "default"
        ],
        "guard": guard(),
        "files": own_files([*files, *map(str, CERTIFICATES.glob("*/homeport.crt"))]),
    }
