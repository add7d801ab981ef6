"""The workload "150" as a pyinfra deploy, of pyinfra's own operations alone."""

from io import StringIO

from pyinfra import host
from pyinfra.operations import apt, files, server, systemd

from homeport.lab.bench_drift.mix import DIRECTORY, services

for service in host.loop(services()):
    name = service.name
    apt.packages(name=f"{name}: packages", packages=list(service.packages), no_recommends=True)
    server.group(name=f"{name}: group", group=name, system=True)
    server.user(
        name=f"{name}: user",
        user=name,
        group=name,
        home=f"{DIRECTORY}/{name}",
        shell="/usr/sbin/nologin",
        system=True,
        ensure_home=False,
    )
    for path in host.loop(service.directories):
        files.directory(name=f"{name}: {path}", path=path, user=name, group=name, mode="755")
    for file in host.loop(service.files):
        files.put(
            name=f"{name}: {file.path}",
            src=StringIO(file.content),
            dest=file.path,
            user="root",
            group=file.group,
            mode=file.mode,
        )
    for line in host.loop(service.lines):
        files.line(name=f"{name}: {line.line}", path=line.path, line=line.regexp, replace=line.line)
    for path, target in host.loop(service.links):
        files.link(name=f"{name}: {path}", path=path, target=target)
    systemd.service(
        name=f"{name}: unit",
        service=f"bench-{name}.service",
        running=True,
        enabled=True,
        daemon_reload=False,
    )
