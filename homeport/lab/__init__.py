"""The lab: a bare Debian machine in seconds, and everything it would fetch from outside.

- `cache`: what is built once and kept, outside the clone
- `engine`: the Docker daemon that carries the lab: the machine's own, or a private one (`keeper`)
- `images`: the images of the lab's machines, made from Debian's packages
- `machine`: `Machine`, a node with systemd, ssh and simulated GPUs; `Neighbour`, a host beside it
- `hardware/`, `gpus`, `nvml`: the simulated GPUs
- `driver`: what tests do with a machine of either kind; `vm/`: virtual machines
- `authority`, `sources` (with `registry`, `index`): registry, Hub and package index, over TLS
- `targets`: the targets file that says all this to an inventory
- `host_state`: what of the host a lab must leave as it was

Nothing in `deploys/` knows of it.
"""


class LabError(Exception):
    """The lab cannot do what was asked; the text says why and what to type."""


class StepFailed(Exception):
    """A step of a rehearsal did not come out as it must; the text says what was seen."""
