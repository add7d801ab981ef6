"""The places in a run where the GPUs' driver and settings have their turn."""

from pathlib import Path
from typing import Any

from pyinfra.api import deploy

from deploys.nvidia import driver, settings
from deploys.nvidia.spec import Nvidia
from homeport.pins import Gpu
from homeport.targets import Target
from homeport.waiting import may_reboot


@deploy("NVIDIA: what is asked of the cards")
def preflight(spec: Nvidia | None) -> None:
    """Refuse a limit that a card does not allow. To be called before anything else."""
    if spec is not None and spec.cards:
        settings.within_limits(name="Ask the cards for their limits", spec=spec)


@deploy("NVIDIA: the driver")
def prepare(spec: Nvidia | None, target: Target) -> None:
    """Install and hold the driver; None takes back all that is ours. To be called before the
    programs aboard are removed, which take back the settings, and before a reboot."""
    if spec is None:
        settings.removed(name="No GPU settings of ours")
    elif spec.driver != "none" and "nvidia_driver" not in target.lacks:
        driver.archives(name="Let apt find the driver", spec=spec)
        driver.installed(name="Install the driver", spec=spec)
        driver.held(name="Hold the driver's packages", spec=spec)


@deploy("NVIDIA: which GPU is which")
def known(gpus: tuple[Gpu, ...], target: Target, data: Any) -> None:
    """Stop where GPUs have no UUID in the targets file: nothing but the driver can tell them, which
    works by now."""
    handles = tuple(gpu.handle for gpu in gpus if not gpu.uuid)
    if handles:
        fill = target.fill(Path(data.inventory_file))
        settings.known(name="GPUs known", handles=handles, fill=fill)


@deploy("NVIDIA: the cards")
def apply(spec: Nvidia | None, data: Any) -> None:
    """Have persistence, power limits and clocks as `spec` says. To be called when the programs
    aboard are there, and after a reboot, which a run with this host `data` may have put off."""
    if spec is not None:
        deferred = not may_reboot(data)
        settings.configured(name="GPUs as wanted", spec=spec, deferred=deferred)
