"""The cards of a live node: each function of those given is vfio-pci's, those kept are the host's.

Read with the shell alone: by what a card is and where it hangs, not by an address.
"""

from typing import Any

import pytest

from deploys.node import Node
from homeport.pins import Card
from homeport.targets import PciCard

pytestmark = pytest.mark.node

# "ADDRESS VENDOR DEVICE SUBVENDOR SUBDEVICE DRIVER DIRECTORY" of each function; "-" is no driver.
LIST = """
for d in /sys/bus/pci/devices/*; do
  driver=$(readlink "$d/driver") || driver=-
  echo "${d##*/} $(cat "$d/vendor" "$d/device" "$d/subsystem_vendor" "$d/subsystem_device" |
    tr '\\n' ' ')${driver##*/} $(readlink -f "$d")"
done
"""


@pytest.fixture(scope="module")
def functions(host: Any) -> list[list[str]]:
    return [line.split() for line in host.check_output(LIST).splitlines()]


def _address(card: PciCard, functions: list[list[str]]) -> str:
    """Where `card` is: exactly one function has its kind and hangs where the targets say."""
    kind = [f"0x{number}" for text in (card.id, card.subsystem) for number in text.split(":")]
    root, *steps = card.place.split("/")
    found = [
        one[0]
        for one in functions
        if one[1:5] == kind
        and one[6].split("/")[3] == root
        and [part.split(":")[-1] for part in one[6].split("/")[4:]]
        == [step.split(":")[-1] for step in steps]
    ]
    assert len(found) == 1, (card, found)
    return found[0]


def _drivers(card: PciCard, functions: list[list[str]]) -> dict[str, str]:
    slot = _address(card, functions).rsplit(".", 1)[0]
    return {one[0]: one[5] for one in functions if one[0].startswith(f"{slot}.")}


def _cards(node: Node) -> tuple[Card, ...]:
    if node.vfio is None:
        pytest.skip("this node gives no cards away")
    return node.vfio.cards


def test_vfio_has_every_function_of_the_cards(node: Node, functions: list[list[str]]) -> None:
    for card in _cards(node):
        assert card.pci is not None
        drivers = _drivers(card.pci, functions)
        assert drivers == dict.fromkeys(drivers, "vfio-pci"), card.handle


def test_cards_that_look_alike_and_are_kept_are_the_hosts(
    node: Node, functions: list[list[str]]
) -> None:
    cards = _cards(node)
    given = {card.handle for card in cards}
    kinds = {(card.pci.id, card.pci.subsystem) for card in cards if card.pci}
    others = {name: one for card in cards for name, one in card.others.items()}
    for name, other in others.items():
        if name not in given and (other.id, other.subsystem) in kinds:
            assert "vfio-pci" not in _drivers(other, functions).values(), name


def test_a_vm_can_be_given_the_group_of_each_card(
    host: Any, node: Node, functions: list[list[str]]
) -> None:
    for card in _cards(node):
        assert card.pci is not None
        for address in _drivers(card.pci, functions):
            group = host.check_output("readlink /sys/bus/pci/devices/%s/iommu_group", address)
            assert host.file(f"/dev/vfio/{group.rsplit('/', 1)[-1]}").exists
