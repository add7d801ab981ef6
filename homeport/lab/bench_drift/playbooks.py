"""The workloads as Ansible playbooks, as someone writes them who knows Ansible.

No facts are gathered, modules are named in full, packages are one list, and what is alike is one
task with a loop. A loop asks as much of the node as so many tasks, and less of the desk.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from homeport.lab.bench_drift.mix import DIRECTORY, Service

Task = dict[str, Any]


def loop(label: str, items: list[Any]) -> Task:
    return {"loop": items, "loop_control": {"label": f"{{{{ {label} }}}}"}}


def _accounts(service: Service) -> list[Task]:
    name = service.name
    user = {
        "name": name,
        "group": name,
        "home": f"{DIRECTORY}/{name}",
        "shell": "/usr/sbin/nologin",
        "system": True,
        "create_home": False,
    }
    return [
        {
            "name": f"{name}: packages",
            "ansible.builtin.apt": {
                "name": list(service.packages),
                "state": "present",
                "install_recommends": False,
            },
        },
        {"name": f"{name}: group", "ansible.builtin.group": {"name": name, "system": True}},
        {"name": f"{name}: user", "ansible.builtin.user": user},
    ]


def _files(service: Service, directory: Path) -> list[Task]:
    name = service.name
    copies = []
    for number, file in enumerate(service.files):
        source = directory / f"{name}-{number}"
        source.write_text(file.content)
        copies.append(
            {"src": str(source), "dest": file.path, "group": file.group, "mode": f"0{file.mode}"}
        )
    owned = {"owner": name, "group": name, "mode": "0755"}
    return [
        {
            "name": f"{name}: directories",
            "ansible.builtin.file": {"path": "{{ item }}", "state": "directory", **owned},
            **loop("item", list(service.directories)),
        },
        {
            "name": f"{name}: files",
            "ansible.builtin.copy": {
                "src": "{{ item.src }}",
                "dest": "{{ item.dest }}",
                "owner": "root",
                "group": "{{ item.group }}",
                "mode": "{{ item.mode }}",
            },
            **loop("item.dest", copies),
        },
    ]


def _rest(service: Service) -> list[Task]:
    name = service.name
    lines = [{"path": one.path, "regexp": one.regexp, "line": one.line} for one in service.lines]
    links = [{"path": path, "src": target} for path, target in service.links]
    return [
        {
            "name": f"{name}: lines",
            "ansible.builtin.lineinfile": {
                "path": "{{ item.path }}",
                "regexp": "{{ item.regexp }}",
                "line": "{{ item.line }}",
                "create": True,
            },
            **loop("item.line", lines),
        },
        {
            "name": f"{name}: links",
            "ansible.builtin.file": {
                "path": "{{ item.path }}",
                "src": "{{ item.src }}",
                "state": "link",
            },
            **loop("item.path", links),
        },
        {
            "name": f"{name}: unit",
            "ansible.builtin.systemd_service": {
                "name": f"bench-{name}.service",
                "state": "started",
                "enabled": True,
            },
        },
    ]


def write(path: Path, tasks: Sequence[Task]) -> Path:
    """Write a playbook of `tasks` for all hosts."""
    play = {"hosts": "all", "gather_facts": False, "tasks": list(tasks)}
    path.write_text(yaml.safe_dump([play], sort_keys=False, width=100))
    return path


def mix_tasks(services: Sequence[Service], directory: Path) -> list[Task]:
    """The tasks of the workload "150"; `directory` gets the files that they copy."""
    return [
        task
        for service in services
        for task in (*_accounts(service), *_files(service, directory), *_rest(service))
    ]
