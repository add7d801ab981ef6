"""The Compose file of a stack: the same text for the same specification.

Only what both Compose 1.29 (Debian 12) and Compose 2 understand is used. `name:` at the top is
Compose 2 alone, so the project is named on the command line, and in the header for whoever reads
the file on the node. `gpus:` is ignored without a word by Compose 2.26, and `devices:` takes a CDI
name for a path before 2.30 (docker/compose#12184): GPUs are reserved under `deploy`. How depends on
what the node's Docker can (`Way`, observed): the capability nvidia_containers says why.
"""

import hashlib
from typing import Any, Literal

import yaml

from deploys.stack.spec import Service, Stack
from homeport_node.common import SECRETS
from homeport_node.stack import LABEL, READS

HEADER = """\
# Managed by Homeport (stack). Changes are replaced by the next converge.
# Project: {project}
"""


# As homeport_node.docker_engine.gpu_way tells them.
Way = Literal["cdi", "runtime", "hook"]


def _escaped(value: Any) -> Any:
    """`value` with every `$` doubled: Compose would otherwise look for a variable."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value


def file_label(path: str) -> str:
    """The label that holds the content hash of the file mounted at `path`."""
    return f"homeport.file.{path}"


def content_hash(content: str) -> str:
    """The sha256 of a mounted file's content, in hex."""
    return hashlib.sha256(content.encode()).hexdigest()


def _mounts(stack: Stack, service: Service) -> list[str]:
    mounts = [f"{volume.name}:{volume.path}" for volume in service.volumes]
    mounts += [f"{bind.source}:{bind.path}:ro" for bind in service.binds]
    mounts += [f"{stack.path_of_file(service, file)}:{file.path}:ro" for file in service.files]
    # A mount keeps the file that a link led to at the start: so a switched link is seen.
    mounts += [f"{path}:{READS}/{number}:ro" for number, path in enumerate(service.reads)]
    return mounts


def _health(service: Service) -> dict[str, Any]:
    check = service.health
    if check is None:
        return {}
    return {
        "healthcheck": {
            "test": ["CMD", *check.test],
            "interval": f"{check.interval}s",
            "timeout": f"{check.timeout}s",
            "retries": check.retries,
            "start_period": f"{check.start_period}s",
        }
    }


def _gpus(service: Service, way: Way) -> dict[str, Any]:
    if not service.gpus:
        return {}
    names = [gpu.uuid for gpu in service.gpus]
    if way == "runtime":
        return {"runtime": "nvidia"}  # which reads the environment
    if way == "cdi":
        names = [f"nvidia.com/gpu={name}" for name in names]
    driver = "cdi" if way == "cdi" else "nvidia"
    # Docker's CDI heeds no capability, and Compose wants one.
    device = {"driver": driver, "device_ids": names, "capabilities": ["gpu"]}
    return {"deploy": {"resources": {"reservations": {"devices": [device]}}}}


def _environment(service: Service, way: Way) -> dict[str, str]:
    if not service.gpus or way != "runtime":
        return service.environment
    names = ",".join(gpu.uuid for gpu in service.gpus)
    return {**service.environment, "NVIDIA_VISIBLE_DEVICES": names}


def _service(stack: Stack, service: Service, way: Way) -> dict[str, Any]:
    labels = {LABEL: stack.project, **service.labels}
    labels |= {file_label(file.path): content_hash(file.content) for file in service.files}
    fields: dict[str, Any] = {
        "image": service.image.reference,
        "entrypoint": list(service.entrypoint),
        "command": list(service.command),
        "environment": dict(sorted(_environment(service, way).items())),
        "labels": dict(sorted(labels.items())),
        "ports": [f"127.0.0.1:{port.host}:{port.container}" for port in service.ports],
        "volumes": _mounts(stack, service),
        "secrets": list(service.secrets),
        "depends_on": list(service.depends_on),
    }
    fields = {key: value for key, value in fields.items() if value}
    fields |= _health(service) | _gpus(service, way)
    fields["restart"] = service.restart
    fields["security_opt"] = ["no-new-privileges:true"]
    fields["stop_grace_period"] = f"{service.stop_grace}s"
    # json-file, Docker's default, grows without end.
    options = {"max-size": f"{service.log_size}m", "max-file": "2"}
    fields["logging"] = {"driver": "local", "options": options}
    return fields


def render(stack: Stack, way: Way = "cdi") -> str:
    """The text of /etc/homeport/stack/compose.yaml; `way` is how Docker hands over GPUs."""
    volumes = sorted({volume.name for service in stack.services for volume in service.volumes})
    secrets = sorted({name for service in stack.services for name in service.secrets})
    document: dict[str, Any] = {
        "services": {service.name: _service(stack, service, way) for service in stack.services}
    }
    if volumes:
        document["volumes"] = {name: {"name": name} for name in volumes}
    if secrets:
        document["secrets"] = {name: {"file": f"{SECRETS}/{name}"} for name in secrets}
    body: str = yaml.safe_dump(_escaped(document), sort_keys=False, width=100, allow_unicode=True)
    return HEADER.format(project=stack.project) + body
