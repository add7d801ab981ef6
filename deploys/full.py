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
    kernel_cmdline,
    llama_server,
    lockup_recovery,
    nvidia,
    nvidia_containers,
    open_webui,
    reboot,
    secrets,
    stack,
    vfio,
)
from deploys.node import Node
from homeport.targets import Target

node: Node = host.data.node
target: Target = host.data.target

nvidia.preflight(spec=node.nvidia)  # before anything is changed
base.apply(spec=node.base, target=target)
vfio.apply(spec=node.vfio)
host_names.apply(spec=node.host_names)
nvidia.prepare(spec=node.nvidia, target=target)
kernel_cmdline.apply(spec=node.kernel_cmdline, data=host.data)
# After all that only another boot brings into force; before all that needs it.
reboot.apply(data=host.data, vfio=node.vfio, trial_seconds=node.trial_seconds)
kernel_cmdline.confirm(spec=node.kernel_cmdline, data=host.data)
lockup_recovery.apply(spec=node.lockup_recovery)
vfio.prove(spec=node.vfio, data=host.data)
# Before all that a GPU is handed to; after a command line on trial was kept.
nvidia.known(gpus=node.gpus, target=target, data=host.data)
nvidia_containers.apply(
    spec=node.nvidia_containers, gpus=node.container_gpus, target=target, data=host.data
)  # before Docker, which looks for it when it starts
docker.apply(
    spec=node.docker,
    target=target,
    without_cdi=nvidia_containers.daemon_values(node.nvidia_containers),
)
llama_server.apply(spec=node.llama_server)  # a node without its GPUs downloads nothing
stack.fetch(spec=node.stack)  # goes on in the background until stack.apply
aboard.apply(spec=node.aboard, target=target)
nvidia.apply(spec=node.nvidia, data=host.data)
secrets.apply(spec=node.secrets)
hf_models.apply(spec=node.hf_models, target=target)
caddy.apply(spec=node.caddy, backends=node.backends)
hotspot.apply(spec=node.hotspot, names=node.names)
# After everything that installs a package or a unit: systemd then reads its units anew, which takes
# the GPUs from containers that run where Docker's hook gives them (NVIDIA/nvidia-container-toolkit
# #48): on a node without nvidia_containers.
stack.apply(spec=node.stack, lacks=tuple(target.lacks))
open_webui.apply(spec=node.open_webui, around=node.around_open_webui)
hf_models.prune(spec=node.hf_models)
docker.take_back(spec=node.docker)
