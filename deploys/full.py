"""The whole node, one line per capability, in the order in which they stand on each other.

One line each: pyinfra tells operations apart by the lines that they were called from.
"""

from pyinfra import host

from deploys import (
    aboard,
    base,
    caddy,
    docker,
    hf_models,
    host_names,
    hotspot,
    llama_server,
    nvidia,
    open_webui,
    secrets,
    stack,
)
from deploys.node import Node
from homeport.targets import Target

node: Node = host.data.node
target: Target = host.data.target

nvidia.preflight(spec=node.nvidia)  # before anything is changed
base.apply(spec=node.base, target=target)
host_names.apply(spec=node.host_names)
nvidia.prepare(spec=node.nvidia, target=target)
docker.apply(spec=node.docker, target=target)
llama_server.apply(spec=node.llama_server)  # a node without its GPUs downloads nothing
stack.fetch(spec=node.stack)  # goes on in the background until stack.apply
aboard.apply(spec=node.aboard, target=target)
nvidia.apply(spec=node.nvidia)
secrets.apply(spec=node.secrets)
hf_models.apply(spec=node.hf_models, target=target)
caddy.apply(spec=node.caddy, backends=node.backends)
hotspot.apply(spec=node.hotspot, names=node.names)
# After everything that installs a package or a unit: systemd then reads its units anew, which can
# take the GPUs from containers that run (NVIDIA/nvidia-container-toolkit#48).
stack.apply(spec=node.stack, lacks=tuple(target.lacks))
open_webui.apply(spec=node.open_webui, around=node.around_open_webui)
hf_models.prune(spec=node.hf_models)
docker.take_back(spec=node.docker)
