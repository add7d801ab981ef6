"""Workbench: of two identical cards one for a virtual machine, one for Docker; every boot flag.

What a desk-side machine has that Iona has no use for: a card that vfio-pci owns before any driver
can, beside its twin that stays; parameters of the kernel, each with its reason; a kernel that
restarts after a lock-up. No web page and no names: the engine's API, on the node's loopback.
"""

from deploys.base import Base
from deploys.docker import Docker
from deploys.hf_models import HfModels, Model
from deploys.kernel_cmdline import KernelCmdline, Parameter
from deploys.llama_server import LlamaServer
from deploys.lockup_recovery import LockupRecovery
from deploys.node import Node
from deploys.nvidia import Card, Nvidia
from deploys.nvidia_containers import NvidiaContainers
from deploys.vfio import Vfio
from homeport.inventory import inventory
from homeport.pins import HubRepo, card, gpu, image

QWEN = Model(
    name="qwen3-8b",
    source=HubRepo(repo="Qwen/Qwen3-8B-GGUF", patterns=("Qwen3-8B-Q4_K_M.gguf",)),
    links={"model.gguf": "Qwen3-8B-Q4_K_M.gguf"},
)

# With an underscore: pyinfra takes other lists at the top of an inventory for hosts.
_BOOT_FLAGS = (
    Parameter(
        name="intel_iommu",
        value="on",
        reason="the IOMMU, without which no card can be given away; by itself from Linux 6.8",
    ),
    Parameter(name="iommu", value="pt", reason="the host's own devices go past the IOMMU: speed"),
    Parameter(
        name="pcie_aspm",
        value="off",
        reason="ASPM stays as the firmware set it: the links went to sleep and did not wake up",
    ),
    Parameter(
        name="pci",
        value="noaer",
        reason="a riser floods the log with corrected errors; it also ends their handling",
    ),
    Parameter(
        name="nmi_watchdog",
        value="1",
        reason="a hard lock-up is found from the first second on; lockup_recovery acts on it",
    ),
)

WORKBENCH = Node(
    name="workbench",
    base=Base(timezone="Etc/UTC"),
    kernel_cmdline=KernelCmdline(parameters=_BOOT_FLAGS),
    lockup_recovery=LockupRecovery(),
    vfio=Vfio(cards=(card("guest"),)),
    nvidia=Nvidia(cards=(Card(gpu=gpu("own"), power_limit=220),)),
    nvidia_containers=NvidiaContainers(),
    docker=Docker(),
    hf_models=HfModels(directory="/srv/homeport/models", models=(QWEN,)),
    llama_server=LlamaServer(
        image=image("ghcr.io/ggml-org/llama.cpp:server-cuda"),
        model="model.gguf",
        alias="qwen3-8b",
        gpus=(gpu("own"),),
        port=8080,
        ctx_size=32768,
    ),
)

hosts = inventory(__file__, workbench=WORKBENCH)
