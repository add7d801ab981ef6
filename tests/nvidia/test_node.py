"""The GPUs of a live node: the driver's parts agree, and every card runs as the inventory says.

Told by the programs aboard, through NVML; the units by systemd, the packages by dpkg.
"""

import json
from typing import Any

import pytest

from deploys.node import Node
from deploys.nvidia import Nvidia
from homeport.targets import Target
from homeport_node.nvidia import UNIT

pytestmark = pytest.mark.node

# In the environment of the programs aboard, which has the bindings.
ASK = (
    "/opt/homeport/current/bin/python -c "
    "'import json; from homeport_node import nvidia; print(json.dumps(nvidia.observe()))'"
)


@pytest.fixture(scope="module")
def spec(node: Node) -> Nvidia:
    if node.nvidia is None:
        pytest.skip("this node has no GPU settings")
    return node.nvidia


@pytest.fixture(scope="module")
def observed(host: Any, spec: Nvidia) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(host.check_output(ASK))
    return answer


def test_every_card_of_the_inventory_answers(observed: dict[str, Any], spec: Nvidia) -> None:
    assert (observed["error"], observed["lost"]) == ("", [])
    there = {card["uuid"] for card in observed["cards"]}
    assert {card.gpu.uuid for card in spec.cards} <= there


def test_power_limits_and_persistence(observed: dict[str, Any], spec: Nvidia) -> None:
    there = {card["uuid"]: card for card in observed["cards"]}
    if spec.persistence:
        assert [uuid for uuid, card in there.items() if not card["persistence"]] == []
    for card in spec.cards:
        if card.power_limit is not None:
            assert there[card.gpu.uuid]["power_w"] == pytest.approx(card.power_limit, abs=1)


def test_no_card_runs_above_its_lock(observed: dict[str, Any], spec: Nvidia) -> None:
    there = {card["uuid"]: card for card in observed["cards"]}
    for card in spec.cards:
        if card.locked_clocks is not None:
            assert there[card.gpu.uuid]["clock_mhz"] <= card.locked_clocks[1] + 15


def test_the_settings_come_back_at_boot(host: Any, spec: Nvidia) -> None:
    assert host.check_output(f"systemctl is-enabled {UNIT}") == "enabled"
    assert host.check_output(f"systemctl is-active {UNIT}") == "active"


def test_the_drivers_parts_agree(
    host: Any, observed: dict[str, Any], spec: Nvidia, target: Target
) -> None:
    if "nvidia_driver" in target.lacks:
        pytest.skip(f"no nvidia_driver: {target.lacks['nvidia_driver']}")
    versions = observed["versions"]
    assert versions["loaded"] == versions["library"] == versions["next"] != ""


def test_the_drivers_packages_are_held(host: Any, spec: Nvidia, target: Target) -> None:
    if "nvidia_driver" in target.lacks or spec.driver == "none":
        pytest.skip("the driver's packages are not Homeport's here")
    library = host.check_output("dpkg -S libnvidia-ml.so.1 | head -n1 | cut -d: -f1")
    assert library in host.check_output("apt-mark showhold").split()
