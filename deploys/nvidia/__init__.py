"""NVIDIA's driver, and on each card the power limit, the locked clocks and the persistence mode.

**The driver** comes from the distribution (Debian's non-free, Ubuntu's server branches) or from
NVIDIA's own repository: its key by fingerprint, one branch of the driver, nothing else from there.
Every package that carries the driver's version is held: an upgrade would change the libraries under
the loaded module, and then no program finds a GPU ("driver/library version mismatch") until the
next boot. Before a reboot, the module for the kernel that boots next must be there, in the version
of the library, and Secure Boot, where it is on, must know the key that dkms signed it with
(`reboot_reasons` and `reboot_refusals` in homeport_node/nvidia.py).

A GPU's UUID is known to its driver alone: on a node without one the targets file may leave the
handles of GPUs empty. The run then installs the driver, reboots, and stops with the command that
fills them in (`known`).

**The settings** are asked for and set through NVML, by UUID. A limit that a card does not allow is
refused before the run changes anything, wherever a driver is there to ask. The driver forgets them
at a reboot, and when no program uses the card: so nvidia-persistenced keeps the cards awake, which
Ubuntu's unit has switched off (a drop-in puts that right), and homeport-nvidia.service sets them
again after it, from /etc/homeport/nvidia.json, and takes them back when it is stopped.

How it fails: a setter of NVML may answer "success" and do nothing. The power limit is read back;
locked clocks can be read nowhere, so of them is known that they were set since the boot, and that
no card runs faster. A lock that somebody takes away by hand (`nvidia-smi -rgc`) is seen only while
the card computes. A card that vanished is named, with the kernel log to read.

Undo: dropping a card or a value sets that card's own again; `nvidia = None` also removes our files
and releases the packages. The driver stays.

Not here: memory clocks and overclocking. Sources: nvidia-smi(1), nvidia-persistenced(1), NVML's API
reference; the units in Debian 13's nvidia-persistenced and Ubuntu's nvidia-compute-utils;
apt_preferences(5); nvidia-ml-py 13.615.71, whose newer setters discard what the library answers.
"""

from deploys.nvidia.deploy import apply, known, preflight, prepare
from deploys.nvidia.facts import DriverState, NvidiaState
from deploys.nvidia.spec import Card, Nvidia
from homeport.capability import Capability

CAPABILITY = Capability(
    summary="NVIDIA's driver, held; per card power limit, locked clocks and persistence",
    proof="unit",
    unproven="a real GPU: NVML is simulated, and recorded only without a driver; NVIDIA's "
    "repository and Ubuntu: cases only",
)

__all__ = [
    "CAPABILITY",
    "Card",
    "DriverState",
    "Nvidia",
    "NvidiaState",
    "apply",
    "known",
    "preflight",
    "prepare",
]
