"""The workload "150": ten small services on one machine, fifteen operations each. No I/O.

An ordinary mix, written once here and given to every tool: `mix_deploy.py` is the deploy for
pyinfra and for Homeport, `playbooks.py` the playbook for Ansible. Each service has one list of
Debian packages, a group, a user, two directories, four files, three lines in a file that is not
only its own, two links, and a systemd unit that runs.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

# Small packages of Debian 12 and 13 that a machine may well have, two for each service.
APPS = {
    "billing": ("bc", "file"),
    "catalog": ("jq", "less"),
    "courier": ("lsof", "tree"),
    "gallery": ("unzip", "zip"),
    "ledger": ("rsync", "time"),
    "mailbox": ("psmisc", "procps"),
    "metrics": ("netcat-openbsd", "socat"),
    "planner": ("patch", "diffutils"),
    "reports": ("xz-utils", "bzip2"),
    "search": ("tmux", "vim-tiny"),
}
DIRECTORY = "/srv/bench"
SHARED = "/etc/default"
UNITS = "/etc/systemd/system"


@dataclass(frozen=True, kw_only=True, slots=True)
class File:
    """A file of root's with all of its content; `mode` as chmod takes it ("640")."""

    path: str
    content: str
    group: str
    mode: str = "644"


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line of a file: what `regexp` matches becomes `line`, which is added when nothing does."""

    path: str
    regexp: str
    line: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """One service: fifteen operations. `links` are pairs of path and target."""

    name: str
    packages: tuple[str, ...]
    directories: tuple[str, ...]
    files: tuple[File, ...]
    lines: tuple[Line, ...]
    links: tuple[tuple[str, str], ...]

    @property
    def operations(self) -> int:
        """How many operations this is: packages, group, user and unit are one each."""
        return 4 + len(self.directories) + len(self.files) + len(self.lines) + len(self.links)


def _settings(name: str, number: int) -> str:
    lines = [f"# Settings of {name}.", f"[{name}]", f"listen = 127.0.0.1:{9000 + number}"]
    lines += [f"option_{index} = {name}-{index * number}" for index in range(40)]
    return "\n".join(lines) + "\n"


def _unit(name: str, home: str) -> str:
    return (
        f"[Unit]\nDescription=The service {name}\n\n"
        f"[Service]\nUser={name}\nWorkingDirectory={home}\n"
        f"ExecStart=/bin/sleep infinity\nRestart=on-failure\n\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )


def _service(number: int, name: str, packages: tuple[str, ...]) -> Service:
    home, shared = f"{DIRECTORY}/{name}", f"{SHARED}/{name}"
    rotate = f"{home}/log/*.log {{\n    weekly\n    rotate {number + 4}\n    missingok\n}}\n"
    return Service(
        name=name,
        packages=packages,
        directories=(home, f"{home}/log"),
        files=(
            File(path=f"{home}/{name}.conf", content=_settings(name, number), group=name),
            File(path=f"{home}/users.csv", content=f"{name},owner\n", group=name, mode="640"),
            File(path=f"{home}/rotate.conf", content=rotate, group="root"),
            File(path=f"{UNITS}/bench-{name}.service", content=_unit(name, home), group="root"),
        ),
        lines=tuple(
            Line(path=shared, regexp=f"^{key}=.*$", line=f"{key}={value}")
            for key, value in (("PORT", 9000 + number), ("HOME_DIR", home), ("WORKERS", number))
        ),
        links=(
            (f"{home}/current.conf", f"{home}/{name}.conf"),
            (f"/usr/local/bin/{name}", "/bin/true"),
        ),
    )


@functools.cache
def services() -> tuple[Service, ...]:
    """The ten services."""
    return tuple(_service(number, *item) for number, item in enumerate(APPS.items(), 1))


def operations() -> int:
    """How many operations the whole workload is."""
    return sum(service.operations for service in services())


def paths() -> Iterator[str]:
    """Every path that the workload writes."""
    for service in services():
        yield from service.directories
        yield from (file.path for file in service.files)
        yield from dict.fromkeys(line.path for line in service.lines)
        yield from (path for path, _ in service.links)
