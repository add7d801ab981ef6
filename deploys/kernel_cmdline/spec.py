"""What an inventory may say of the kernel's command line."""

import re
from dataclasses import dataclass
from typing import ClassVar

from homeport.spec import Spec

# What passes unchanged through the shell that reads the drop-in, and through GRUB's own language.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
VALUE = re.compile(r"[A-Za-z0-9_.,:/+@%=-]*")
TRIAL_SECONDS = 300

# They decide what is booted, and by whom: not what the kernel does.
FORBIDDEN = ("root", "ro", "rw", "init", "rdinit", "initrd", "BOOT_IMAGE", "systemd.unit")
# They may stand there more than once: each adds to the one before.
REPEATED = ("console", "earlycon", "hugepages", "hugepagesz", "memmap", "module_blacklist")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameter(Spec):
    """One parameter: `name` alone, or `name=value`; `reason` says in a line what it is for."""

    STEM = "kernel_cmdline.parameters"

    name: str
    value: str | None = None
    reason: str

    def validate(self) -> None:
        self.require(
            "name",
            NAME.fullmatch(self.name) is not None,
            "must be letters, digits, '_', '.' and '-': a shell and GRUB read it too",
        )
        plain = self.name.replace("-", "_")
        self.require(
            "name",
            plain not in FORBIDDEN and not plain.startswith("homeport."),
            "must not be one that decides what is booted: "
            f"{', '.join(FORBIDDEN)} and homeport.* are not for an inventory",
        )
        self.require(
            "value",
            self.value is None or VALUE.fullmatch(self.value) is not None,
            "must be letters, digits and _.,:/+@%=- only: a shell and GRUB read it too",
        )
        self.require(
            "value",
            (plain, self.value) != ("amd_iommu", "on"),
            "must not be given: it is no documented value, the IOMMU of AMD is on by itself; "
            "iommu=pt is what passthrough is asked for with",
        )
        self.require(
            "reason",
            bool(self.reason.strip()) and self.reason.isprintable(),
            "must say in one line why the parameter is there",
        )

    @property
    def text(self) -> str:
        """The parameter as it stands on the command line."""
        return self.name if self.value is None else f"{self.name}={self.value}"


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelCmdline(Spec):
    """The parameters, in this order; `trial_seconds` for a new command line to be confirmed in.

    They count from the start of the kernel, and must be enough for the node's slowest boot.
    """

    STEM = "kernel_cmdline"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"boot_loader", "kernel"})

    parameters: tuple[Parameter, ...]
    trial_seconds: int = TRIAL_SECONDS

    def validate(self) -> None:
        self.require("parameters", bool(self.parameters), "must name one, or be left out: None")
        seen: list[str] = []
        for one in self.parameters:
            name = one.name.replace("-", "_")
            twice = one.text in self.texts[: len(seen)]
            twice |= name in seen and name not in REPEATED
            self.require("parameters", not twice, f"must not hold {one.name} twice")
            seen.append(name)
        self.require(
            "trial_seconds",
            120 <= self.trial_seconds <= 3600,
            "must be 120 to 3600 seconds: a boot needs time, and somebody waits for the end of it",
        )

    @property
    def texts(self) -> list[str]:
        """The parameters as they stand on the command line."""
        return [one.text for one in self.parameters]
