"""What a capability is.

A module of `deploys` is a capability when it defines `CAPABILITY`. Its stem is the module's name,
the same in `deploys/`, `homeport_node/`, `files/`, `templates/` and `tests/`.
"""

from dataclasses import dataclass
from typing import Literal

Proof = Literal["unit", "container", "machine", "hardware"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Capability:
    """One row of the README's table.

    `summary` says what it ensures, in a phrase. `proof` is the strongest level that a test in the
    repository reaches: the difference as cases, a container with systemd, a virtual machine with a
    real kernel, a real GPU. `unproven` names what that level leaves out, or is "".
    """

    summary: str
    proof: Proof
    unproven: str = ""


def table(capabilities: dict[str, Capability]) -> str:
    """The README's table of `capabilities` by stem, in Markdown."""
    rows = ["| capability | what it ensures | strongest proof |\n", "| --- | --- | --- |\n"]
    for stem, capability in sorted(capabilities.items()):
        proof: str = capability.proof
        if capability.unproven:
            proof += f"; not shown: {capability.unproven}"
        rows.append(f"| `{stem}` | {capability.summary} | {proof} |\n")
    return "".join(rows)
