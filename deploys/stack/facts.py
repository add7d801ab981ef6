"""The observed state of a node's Compose project."""

from typing import Any

from deploys.stack.spec import Stack
from homeport.observe import NodeFact


class StackState(NodeFact):
    """Everything about the project, from one command (`homeport_node/stack.py`):

    {"docker": "26.1.5", "docker_error": "", "compose": "docker compose", "project": "iona",
     "compose_file": "sha256 of the file on disk", "files": ["/etc/homeport/stack/files/…"],
     "hashes": {"llama-server": "what the file on disk wants"}, "hash_error": "",
     "images": {"ghcr.io/…@sha256:…": "sha256:… of the image here, or empty"},
     "services": {"llama-server": {"id": "…", "status": "running", "health": "healthy",
                  "exit_code": 0, "hash": "…", "image": "sha256:…",
                  "stale": ["paths that changed since the start"],
                  "by_hand": ["the restart policy no"]}},
     "extra": [{"id": "…", "name": "project/service"}],
     "foreign": [{"name": "iona-web-1", "directory": "/home/x/iona"}],
     "volumes": {"open-webui": {"ours": true, "users": ["running containers of others"]}},
     "taken": {"8080": "python3 (pid 123)"},
     "unit": {"LoadState": "loaded", "UnitFileState": "enabled", "ActiveState": "active",
              "NeedDaemonReload": "no", "docker_there": true, "docker_knows": true,
              "dropins": []},
     "gpu_way": "cdi", "busy": false}

    `gpu_way` is how Docker hands over the GPUs that services want, as
    `homeport_node.docker_engine.gpu_way` tells; while it does not answer, how the file on the disk
    has it; "" when there is none, or no GPU is wanted. `busy` is whether Compose is at work, which
    goes on when the connection of a run breaks.
    """

    stem = "stack"


def arguments(stack: Stack | None) -> dict[str, Any]:
    """What `StackState` is asked for `stack`; with None, for what is there."""
    if stack is None:
        return {"project": "", "services": {}}
    services = {
        service.name: {
            "image": service.image.reference,
            "ports": [port.host for port in service.ports],
            "files": {stack.path_of_file(service, file): file.path for file in service.files},
            "secrets": list(service.secrets),
            "reads": list(service.reads),
            "volumes": [volume.name for volume in service.volumes],
            "gpus": [gpu.uuid for gpu in service.gpus],
            "restart": service.restart,
            "network": f"{stack.project}_default",  # as Compose calls it
        }
        for service in stack.services
    }
    return {"project": stack.project, "services": services}
