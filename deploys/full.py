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
    open_webui,
    secrets,
    stack,
)
from deploys.node import Node
from homeport.targets import Target

node: Node = host.data.node
target: Target = host.data.target

base.apply(node.base, target)
host_names.apply(node.host_names)
docker.apply(node.docker, target)
aboard.apply(node.aboard, target)
secrets.apply(node.secrets)
hf_models.apply(node.hf_models, target)
llama_server.apply(node.llama_server)
stack.apply(node.stack)
open_webui.apply(node.open_webui, node.around_open_webui)
caddy.apply(node.caddy, node.backends)
hotspot.apply(node.hotspot, node.names)
hf_models.prune(node.hf_models)
