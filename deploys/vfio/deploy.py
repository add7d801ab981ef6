"""The steps, before and after the reboot."""

from typing import Any

from pyinfra.api import deploy

from deploys.vfio.operations import configuration, initramfs, owned, removed
from deploys.vfio.spec import Vfio
from homeport.waiting import may_reboot


@deploy("VFIO")
def apply(spec: Vfio | None) -> None:
    """Reserve the cards that `spec` names at the next boot; None gives them back."""
    if spec is None:
        removed(name="No cards reserved by us")
        return
    configuration(name="Cards reserved at boot", spec=spec)
    initramfs(name="Cards reserved in the initramfs", spec=spec)


@deploy("VFIO, after the reboot")
def prove(spec: Vfio | None, data: Any) -> None:
    """Stop unless vfio-pci has the cards, or a run with this host `data` may not reboot for it."""
    if spec is not None:
        deferred = not may_reboot(data)
        owned(name="Cards with vfio-pci", spec=spec, deferred=deferred)
