"""The node resolves the names that it serves, to itself."""

from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


def test_names_resolve_on_the_node(host: Any, node: Node) -> None:
    if node.caddy is None:
        pytest.skip("this node serves no names")
    for site in node.caddy.sites:
        assert host.check_output(f"getent ahostsv4 {site.name}").split()[0] == "127.0.0.1"
