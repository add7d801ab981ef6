"""What there is of Caddy on this node: package, files, unit, ports, running configuration, CA."""

import hashlib
import json
import os
import pwd
import re
import socket
import ssl
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from homeport_node import docker_engine
from homeport_node.common import describe_file, read, run

UNIT = "caddy.service"
PROPERTIES = (
    "LoadState",
    "ActiveState",
    "UnitFileState",
    "NeedDaemonReload",
    "DropInPaths",
    "MainPID",
    "ExecStart",
)
DOCKERS_PROXY = "docker-proxy"  # one process for each published port
LISTEN = "0A"  # the state's number in /proc/net/tcp, see the kernel's include/net/tcp_states.h


def observe(
    *, config: str, dropin: str, distribution: str, admin: str, root_crt: str, names: "list[str]"
) -> "dict[str, Any]":
    """Everything about Caddy that the difference needs; see `deploys.caddy.CaddyState`.

    `config` and `dropin` are Homeport's files, `distribution` is the package's own Caddyfile,
    `admin` is where the admin API listens (host:port), `names` are the sites to shake hands with.
    """
    version, packaged_md5 = _package(distribution)
    unit = _unit()
    adapted, words = _adapted(config)
    running = _running(admin) if unit["active"] == "active" else None
    return {
        "version": version,
        "config": describe_file(config),
        "dropin": describe_file(dropin),
        "own_sites": _own_sites(distribution, packaged_md5),
        "unit": unit,
        "current": None if adapted is None or running is None else adapted == running,
        "adapt_error": words,
        "foreign": foreign_listeners(unit["pid"]),
        "untrusted": _untrusted(names, root_crt) if running is not None else [],
        "root_sha256": _fingerprint(root_crt),
        "exposed": exposed(Path(root_crt).parent),
    }


def _package(distribution: str) -> "tuple[str, str]":
    """The installed version ("" if none) and the md5 of the Caddyfile that the package brought."""
    ran = run("dpkg-query", "-W", "-f", "${db:Status-Abbrev}\\t${Version}\\t${Conffiles}", "caddy")
    if not ran.ok:
        return "", ""
    status, version, conffiles = ran.out.split("\t", 2)
    found = re.search(rf"^\s*{re.escape(distribution)} ([0-9a-f]{{32}})", conffiles, re.M)
    return (version if status.startswith("ii") else ""), (found[1] if found else "")


def _own_sites(distribution: str, packaged_md5: str) -> bool:
    """Whether somebody wrote sites of their own into the package's Caddyfile."""
    try:
        content = Path(distribution).read_bytes()
    except OSError:
        return False
    return hashlib.md5(content, usedforsecurity=False).hexdigest() != packaged_md5


def _unit() -> "dict[str, Any]":
    ran = run("systemctl", "show", UNIT, "--property", ",".join(PROPERTIES))
    shown = dict(line.split("=", 1) for line in ran.out.splitlines() if "=" in line)
    pid = int(shown.get("MainPID") or 0)
    return {
        "load": shown.get("LoadState", "not-found"),
        "active": shown.get("ActiveState", "inactive"),
        "enabled": shown.get("UnitFileState", ""),
        "need_reload": shown.get("NeedDaemonReload") == "yes",
        "dropins": shown.get("DropInPaths", "").split(),
        "start": shown.get("ExecStart", ""),
        "pid": pid,
        "command": (read(f"/proc/{pid}/cmdline") or "").split("\0")[:-1] if pid else [],
    }


def _adapted(config: str) -> "tuple[Any, str]":
    """The JSON that Caddy makes of the file at `config`, or None and what Caddy says against it."""
    if not os.path.exists(config):  # noqa: PTH110
        return None, ""
    ran = run("caddy", "adapt", "--adapter", "caddyfile", "--config", config)
    try:
        return json.loads(ran.out), ""
    except ValueError:
        return None, ran.err.strip()[-500:]


def _running(admin: str) -> Any:
    """The configuration that Caddy runs, or None when its admin API gives no answer."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{admin}/config/", timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError):
        return None


def foreign_listeners(own_pid: int, ports: "tuple[int, ...]" = (80, 443)) -> "list[dict[str, Any]]":
    """The TCP listeners on `ports` that are not Caddy's: [{"port", "pid", "program", "unit"}].

    Where Docker listens for a container, "container" is its name.
    """
    sockets: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(table) or "").splitlines()[1:]:
            columns = line.split()
            port = int(columns[1].rsplit(":", 1)[1], 16)
            if columns[3] == LISTEN and port in ports:
                sockets[f"socket:[{columns[9]}]"] = port
    if own_pid:
        for name in _sockets_of(own_pid):
            sockets.pop(name, None)
    if not sockets:
        return []
    found: dict[str, int] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        for name in _sockets_of(int(entry)) & sockets.keys() if entry.isdigit() else ():
            found.setdefault(name, int(entry))
    listeners = [{"port": port, **_process(found.get(name, 0))} for name, port in sockets.items()]
    for listener in listeners:
        if listener["program"] == DOCKERS_PROXY:
            listener["container"] = _container(listener["port"])
    return sorted(listeners, key=lambda listener: (listener["port"], listener["pid"]))


def _container(port: int) -> str:
    """The container that publishes `port` on this node, "" when Docker does not tell."""
    wanted = {"publish": [f"{port}/tcp"]}
    with suppress(docker_engine.NoAnswer):
        return next(
            map(docker_engine.name, docker_engine.ask("/containers/json", filters=wanted)), ""
        )
    return ""


def _sockets_of(pid: int) -> "set[str]":
    names = set()
    with suppress(OSError):  # the process is gone
        for descriptor in os.listdir(f"/proc/{pid}/fd"):  # noqa: PTH208
            with suppress(OSError):  # the descriptor is gone
                names.add(os.readlink(f"/proc/{pid}/fd/{descriptor}"))  # noqa: PTH115
    return names


def _process(pid: int) -> "dict[str, Any]":
    """Who `pid` is; 0 stands for a process that cannot be seen from here."""
    unit = re.search(r"([^/\n]+\.(service|scope|socket))\s*$", read(f"/proc/{pid}/cgroup") or "")
    return {
        "pid": pid,
        "program": (read(f"/proc/{pid}/comm") or "").strip(),
        "unit": unit[1] if unit else "",
    }


def _fingerprint(path: str) -> str:
    """The sha256 of the CA's root in DER form, in lower-case hex; "" when there is none."""
    text = read(path) or ""
    try:
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text.strip())).hexdigest()
    except ValueError:
        return ""


def exposed(authority: Path) -> "list[str]":
    """The keys of the CA in the folder `authority` that are not for Caddy's user alone: whoever has
    one makes certificates that this network trusts."""
    try:
        owner = pwd.getpwnam("caddy").pw_uid
    except KeyError:
        return []
    found = []
    for path in (authority / "root.key", authority / "intermediate.key"):
        with suppress(OSError):  # there is none yet
            status = path.stat()
            if status.st_uid != owner or status.st_mode & 0o477 != 0o400:
                found.append(str(path))
    return found


def _untrusted(names: "list[str]", root_crt: str) -> "list[str]":
    """Those of `names` whose certificate, as served here, does not lead to the CA's root on disk.

    That is so after a CA was replaced or restored: Caddy keeps the old one's certificates, and the
    old one in memory. A certificate that is not issued yet is waited for, about a second in all.
    """
    try:
        context = ssl.create_default_context(cafile=root_crt)
    except (OSError, ssl.SSLError):
        return []
    left = list(names)
    for _ in range(5):
        left = [name for name in left if not _shakes_hands(name, context)]
        if not left:
            break
        time.sleep(0.2)
    return left


def _shakes_hands(name: str, context: ssl.SSLContext) -> bool:
    try:
        with (
            socket.create_connection(("127.0.0.1", 443), timeout=3) as plain,
            context.wrap_socket(plain, server_hostname=name),
        ):
            return True
    except OSError:  # ssl.SSLError is one
        return False
