"""The GPUs that a lab machine says it has: a table that its simulated driver reads."""

import uuid
from dataclasses import dataclass

TABLE = "/usr/lib/simulated-gpu/gpus"


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A simulated GPU: `handle` as the inventory calls it, `uuid` as nvidia-smi prints it."""

    handle: str
    uuid: str
    name: str = "NVIDIA GeForce RTX 2080 Ti"
    memory_mib: int = 11264


def simulated_gpus(machine: str, handles: tuple[str, ...]) -> tuple[SimulatedGpu, ...]:
    """One simulated GPU per handle; the UUIDs are the same for the same machine and handle."""
    space = uuid.uuid5(uuid.NAMESPACE_DNS, "homeport.lab.internal")
    return tuple(
        SimulatedGpu(handle=handle, uuid=f"GPU-{uuid.uuid5(space, f'{machine}/{handle}')}")
        for handle in handles
    )


def gpu_table(gpus: tuple[SimulatedGpu, ...]) -> bytes:
    """The table that the simulated nvidia-smi reads."""
    return "".join(
        f"{n}|{gpu.uuid}|{gpu.name}|{gpu.memory_mib}|00000000:{n + 1:02X}:00.0|550.163.01\n"
        for n, gpu in enumerate(gpus)
    ).encode()
