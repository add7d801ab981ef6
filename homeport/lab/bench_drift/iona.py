"""The whole of Iona as Ansible's tasks, from what a converged node has.

What Homeport put on the node is read once, outside the measurement, and becomes the files and the
lists of a playbook that keeps a node so: packages, files, links, units, names, models by size,
containers by Compose. Homeport checks more: that the running containers, Caddy and the firewall
have what the files say, image digests, health, the web UI's administrator. The rival is spared it.
"""

import base64
import json
from pathlib import Path
from typing import Any

from homeport.inventory import unbound
from homeport.lab.bench_drift.playbooks import Task, loop
from homeport.lab.driver import Driver

# Runs on the node: what there is of ours, as JSON.
READ = r"""
import base64, glob, grp, json, os, pwd, stat
patterns = ["/etc/homeport", "/etc/homeport/**", "/etc/systemd/system/*homeport*",
            "/etc/systemd/system/*.d/homeport*", "/etc/docker/daemon.json",
            "/etc/docker/certs.d/*/homeport.crt",
            "/usr/local/share/ca-certificates/homeport-*.crt",
            "/etc/apt/sources.list.d/homeport-*", "/usr/share/keyrings/homeport-*",
            "/srv/homeport/models/**", "/opt/homeport/current", "/etc/localtime"]
found = []
for path in sorted({p.rstrip("/") for one in patterns for p in glob.glob(one, recursive=True)}):
    s = os.lstat(path)
    entry = {"path": path, "owner": pwd.getpwuid(s.st_uid).pw_name,
             "group": grp.getgrgid(s.st_gid).gr_name, "mode": "0%o" % stat.S_IMODE(s.st_mode)}
    if stat.S_ISLNK(s.st_mode):
        entry["src"] = os.readlink(path)
    elif stat.S_ISDIR(s.st_mode):
        entry["directory"] = True
    elif "/models/" in path:
        entry["size"] = s.st_size
    elif "/secrets/" not in path:
        entry["content"] = base64.b64encode(open(path, "rb").read()).decode()
    found.append(entry)
print(json.dumps(found))
"""
# Packages that Homeport may have installed, by the names in Debian 12 and 13.
PACKAGES = (
    *("ca-certificates", "curl", "iproute2", "python3", "python3-venv", "tzdata"),
    *("systemd-timesyncd", "docker.io", "docker-cli", "docker-compose", "nftables", "caddy"),
    *("libnvidia-container-tools", "libnvidia-container1", "nvidia-container-toolkit"),
    "nvidia-container-toolkit-base",
)
COMPOSE = "/etc/homeport/stack"


def installed(machine: Driver) -> list[str]:
    """Those of `PACKAGES` that the node has."""
    shape = "${Package} ${db:Status-Status}\\n"
    said = machine.run(f"dpkg-query -W -f '{shape}' {' '.join(PACKAGES)}").stdout.decode()
    return [line.split()[0] for line in said.splitlines() if line.endswith(" installed")]


def _owned(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("owner", "group", "mode")}


def _each(module: str, name: str, fields: dict[str, Any], items: list[Any]) -> list[Task]:
    """One task with a loop over `items`, none when there are no items."""
    task = {"name": name, f"ansible.builtin.{module}": fields}
    return [{**task, **loop("item.path", items)}] if items else []


def file_tasks(found: list[dict[str, Any]], directory: Path) -> list[Task]:
    """Tasks for what is on the disk; `directory` gets the files that they copy."""
    owned = {name: f"{{{{ item.{name} }}}}" for name in ("owner", "group", "mode")}
    copies = []
    for number, entry in enumerate(one for one in found if "content" in one):
        source = directory / f"iona-{number}"
        source.write_bytes(base64.b64decode(entry["content"]))
        copies.append({"path": entry["path"], "src": str(source), **_owned(entry)})
    directories = [
        {"path": one["path"], **_owned(one)}
        for one in found
        if "directory" in one and not one["path"].startswith("/srv/")
    ]
    secrets = [{"path": one["path"], **_owned(one)} for one in found if "/secrets/" in one["path"]]
    links = [{"path": one["path"], "src": one["src"]} for one in found if "src" in one]
    path = {"path": "{{ item.path }}"}
    return [
        *_each("file", "Directories", {**path, "state": "directory", **owned}, directories),
        *_each("copy", "Files", {"src": "{{ item.src }}", "dest": path["path"], **owned}, copies),
        *_each("file", "Secrets", {**path, "state": "file", **owned}, secrets),
        *_each("file", "Links", {**path, "src": "{{ item.src }}", "state": "link"}, links),
    ]


def model_tasks(found: list[dict[str, Any]]) -> list[Task]:
    """A task that compares the models' sizes, and reads none of them."""
    models = [{"path": one["path"], "size": one["size"]} for one in found if "size" in one]
    stat = {"path": "{{ item.path }}", "get_checksum": False, "get_mime": False}
    tasks = _each("stat", "Models", {**stat, "get_attributes": False}, models)
    wrong = "not model.stat.exists or model.stat.size != item.size"
    return [{**task, "register": "model", "changed_when": wrong} for task in tasks]


def tasks(inventory: Path, machine: Driver, directory: Path) -> list[Task]:
    """The tasks that keep `machine`, which carries the one host of `inventory`, as it is."""
    found = json.loads(machine.succeed("python3 -", stdin=READ.encode()))
    (node,) = unbound(inventory).values()
    names: Any = getattr(node, "host_names", None)
    lines = [f"{names.address} {name}" for name in names.names] if names else []
    prefix = "/etc/systemd/system/"
    units = [one["path"].removeprefix(prefix) for one in found if one["path"].startswith(prefix)]
    units = ["docker.service", "caddy.service", *(u for u in units if u.endswith(".service"))]
    host_names = {
        "name": "Host names",
        "ansible.builtin.lineinfile": {"path": "/etc/hosts", "line": "{{ item }}"},
        **loop("item", lines),
    }
    services = {
        "name": "Units",
        "ansible.builtin.systemd_service": {
            "name": "{{ item }}",
            "state": "started",
            "enabled": True,
        },
        **loop("item", units),
    }
    packages = {"name": installed(machine), "state": "present", "install_recommends": False}
    compose = {"project_src": COMPOSE, "project_name": node.name, "state": "present"}  # type: ignore[attr-defined]
    return [
        {"name": "Packages", "ansible.builtin.apt": packages},
        host_names,
        *file_tasks(found, directory),
        *model_tasks(found),
        services,
        {
            "name": "Containers",
            "community.docker.docker_compose_v2": {**compose, "pull": "never"},
        },
    ]
