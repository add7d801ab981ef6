"""What an inventory says of cards that virtual machines are given."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from homeport.pins import Card
from homeport.spec import Spec


@dataclass(frozen=True, kw_only=True, slots=True)
class Vfio(Spec):
    """`cards` are given to virtual machines: the host's drivers do not get them.

        vfio=Vfio(cards=(card("right"),))

    with a table `pci.right` in the targets, and one for every other card that looks like it.
    `by` is "identity" (the very cards) or "ids" (whatever has their vendor and device).
    """

    STEM = "vfio"
    NEEDS: ClassVar[frozenset[str]] = frozenset({"iommu"})

    cards: tuple[Card, ...]
    by: Literal["identity", "ids"] = "identity"

    def validate(self) -> None:
        handles = [card.handle for card in self.cards]
        self.require("cards", bool(handles), "must name a card; for none, leave vfio out")
        self.require("cards", len({*handles}) == len(handles), "must name each card once")

    @property
    def handles(self) -> tuple[str, ...]:
        """The handles of the cards that are given."""
        return tuple(card.handle for card in self.cards)

    def named(self) -> list[dict[str, Any]]:
        """The cards as the node's program takes them: those given, and those that look alike."""
        cards = {card.handle: card.pci for card in self.cards if card.pci}
        kinds = {(one.id, one.subsystem) for one in cards.values()}
        others = {name: one for card in self.cards for name, one in card.others.items()}
        alike = {n: one for n, one in others.items() if (one.id, one.subsystem) in kinds}
        return [
            {
                "handle": name,
                "give": name in cards,
                "id": one.id,
                "subsystem": one.subsystem,
                "place": one.place,
            }
            for name, one in sorted({**alike, **cards}.items())
        ]
