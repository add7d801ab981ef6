"""What the node shows the network: what the inventory declares and ssh, and nothing else."""

import pytest

from deploys.node import Node
from homeport.scan import open_ports
from homeport.targets import Target

pytestmark = pytest.mark.node


def test_only_declared_ports_answer(node: Node, target: Target) -> None:
    """All 65,535 TCP ports of the node's address, seen from here."""
    seen = open_ports(target.address)[target.address]
    assert set(seen) == {target.port, *node.open_ports}
