"""What an inventory says about NVIDIA's driver and the cards."""

import json
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from homeport.pins import Gpu
from homeport.spec import Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Card(Spec):
    """What is set on one card: `power_limit` in W, `locked_clocks` (least, most) in MHz.

    None leaves the card's own. The graphics clock is meant; Volta and newer can lock it.
    """

    STEM = "nvidia.cards"

    gpu: Gpu
    power_limit: int | None = None
    locked_clocks: tuple[int, int] | None = None

    def validate(self) -> None:
        whole = not self.gpu.uuid.startswith("MIG-")
        self.require("gpu", whole, "must be a whole card: a part of one (MIG) has no limits")
        power, clocks = self.power_limit, self.locked_clocks
        self.require("power_limit", power is None or power > 0, "must be positive, in W")
        ordered = clocks is None or 0 < clocks[0] <= clocks[1]
        self.require("locked_clocks", ordered, "must be (least, most) in MHz, both positive")
        given = power is not None or clocks is not None
        self.require("gpu", given, "must be given a power_limit or locked_clocks, or left out")

    @property
    def name(self) -> str:
        """How messages name it: as the inventory does, and as the driver does."""
        return f"{self.gpu.handle} ({self.gpu.uuid})"


@dataclass(frozen=True, kw_only=True, slots=True)
class Nvidia(Spec):
    """The driver, and what is set on the cards.

    `driver` is where it comes from: the "distribution", NVIDIA's own repository ("nvidia"), or
    "none", where somebody else installs it. `branch` is the first number of its version, such as
    580: NVIDIA's repository and Ubuntu have several, Debian has one and takes None. Blackwell needs
    the "open" `kernel_modules`, Volta and older the "proprietary" ones. `persistence` has
    nvidia-persistenced keep every card's state while no program uses it.
    """

    STEM = "nvidia"
    CHECKS_NEED: ClassVar[dict[str, str]] = {
        "nvidia_driver": "the driver's packages, and that its module and its library agree"
    }

    driver: Literal["distribution", "nvidia", "none"] = "distribution"
    branch: int | None = None
    kernel_modules: Literal["proprietary", "open"] = "proprietary"
    persistence: bool = True
    cards: tuple[Card, ...] = ()

    def validate(self) -> None:
        branch = self.branch
        self.require(
            "branch",
            branch is None or 400 <= branch <= 999,
            "must be the first number of a driver's version, such as 580",
        )
        needed = self.driver != "nvidia" or branch is not None
        self.require("branch", needed, "must be given with driver='nvidia', such as 580")
        used = self.driver != "none" or branch is None
        self.require("branch", used, "must be left out with driver='none': nothing is installed")
        handles = [card.gpu.handle for card in self.cards]
        self.require("cards", len(set(handles)) == len(handles), "must name each GPU once")
        self.require(
            "persistence",
            self.persistence or not self.cards,
            "must be True with cards: without it the driver forgets what is set on a card as soon "
            "as no program uses it",
        )

    @property
    def brings_driver(self) -> bool:
        return self.driver != "none"

    @property
    def settings(self) -> dict[str, dict[str, Any]]:
        """What the program aboard is told, by UUID."""
        return {
            card.gpu.uuid: {
                "handle": card.gpu.handle,
                "power_limit": card.power_limit,
                "locked_clocks": list(card.locked_clocks) if card.locked_clocks else None,
            }
            for card in self.cards
        }

    @property
    def settings_text(self) -> str:
        """The file that the program aboard reads."""
        return json.dumps(self.settings, indent=1, sort_keys=True) + "\n"
