"""The steps of a run, before and after its reboot."""

from typing import Any

from pyinfra.api import deploy

from deploys.kernel_cmdline.operations import kept, tried
from deploys.kernel_cmdline.spec import KernelCmdline
from homeport.waiting import may_reboot


@deploy("Kernel command line")
def apply(spec: KernelCmdline | None, data: Any) -> None:
    """Have the next boot be made with the parameters of `spec`, on trial; None takes ours away."""
    tried(name="Command line tried", spec=spec, may=may_reboot(data))


@deploy("Kernel command line")
def confirm(spec: KernelCmdline | None, data: Any) -> None:
    """After the reboot: keep what is on trial, or say that the node went back."""
    kept(name="Command line kept", spec=spec, may=may_reboot(data))
