"""The GPUs that a lab machine says it has: a table that its simulated driver reads."""

import uuid
from dataclasses import dataclass

TABLE = "/usr/lib/simulated-gpu/gpus"


@dataclass(frozen=True, slots=True)
class SimulatedGpu:
    """A simulated GPU: `handle` as the inventory calls it, `uuid` as nvidia-smi prints it.

    Powers are in W, clocks in MHz. `pci` is the PCI function that stands in for it, as nvidia-smi
    prints it ("00000000:01:00.0"); "" where there is none, as in a container.
    """

    handle: str
    uuid: str
    name: str = "NVIDIA GeForce RTX 2080 Ti"
    memory_mib: int = 11264
    power_min_w: int = 100
    power_max_w: int = 280
    power_default_w: int = 250
    clock_max_mhz: int = 2100
    pci: str = ""


def simulated_gpus(machine: str, handles: tuple[str, ...]) -> tuple[SimulatedGpu, ...]:
    """One simulated GPU per handle; the UUIDs are the same for the same machine and handle."""
    space = uuid.uuid5(uuid.NAMESPACE_DNS, "homeport.lab.internal")
    return tuple(
        SimulatedGpu(handle=handle, uuid=f"GPU-{uuid.uuid5(space, f'{machine}/{handle}')}")
        for handle in handles
    )


def gpu_table(gpus: tuple[SimulatedGpu, ...]) -> bytes:
    """The table that the simulated nvidia-smi and NVML read.

    /sys shows a container the host's PCI functions: no host has a domain ffff, and so none of
    its functions, which it may have given to vfio-pci, is taken for one of these.
    """
    return "".join(
        f"{n}|{gpu.uuid}|{gpu.name}|{gpu.memory_mib}"
        f"|{gpu.pci or f'0000FFFF:{n + 1:02X}:00.0'}|550.163.01"
        f"|{gpu.power_min_w}|{gpu.power_max_w}|{gpu.power_default_w}|{gpu.clock_max_mhz}\n"
        for n, gpu in enumerate(gpus)
    ).encode()
