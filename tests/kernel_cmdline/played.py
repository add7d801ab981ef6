"""What the operations on the command line do to a node that is played, whatever it boots by."""

from typing import Any

from deploys.kernel_cmdline.difference import own_text, situation
from deploys.kernel_cmdline.operations import tried
from deploys.kernel_cmdline.spec import KernelCmdline
from homeport_node import kernel_cmdline as aboard


def found(spec: KernelCmdline | None) -> str:
    """How the node stands towards `spec`."""
    return situation(spec, aboard.observe(spec.texts if spec else []))


def does(operation: Any, spec: KernelCmdline | None) -> "str | None":
    """Do what `operation` does on the node; None, or what went wrong."""
    state = aboard.observe(spec.texts if spec else [])
    stands = situation(spec, state)
    wanted, text = (spec.texts if spec else []), own_text(spec, state["loader"]["kind"])
    if operation is tried:
        if stands == "to be written":
            return aboard.make_default(wanted, text)
        if stands == "left over":
            return aboard.withdraw()
        if stands in ("to be tried", "fell back"):
            return aboard.stage(wanted, 300, "timer", "service")
    if stands == "on trial":
        return aboard.confirm(wanted, text)
    if stands == "fell back":
        return aboard.fell_back(wanted)
    return None
