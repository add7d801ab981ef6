"""The hotspot of a live node: it is up, and answers the node's names with its own address."""

from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node

# Asks the hotspot's DNS server itself, with the standard library alone: nothing else is there.
ASK = """
import socket, struct, sys
name, server = sys.argv[1:]
labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
ask = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
ask.settimeout(5)
ask.sendto(struct.pack(">6H", 1, 256, 1, 0, 0, 0) + labels + bytes([0, 0, 1, 0, 1]), (server, 53))
print(socket.inet_ntoa(ask.recv(512)[-4:]))
"""


def test_the_hotspot_is_up_and_answers_our_names(host: Any, node: Node) -> None:
    if node.hotspot is None:
        pytest.skip("this node has no hotspot")
    active = host.check_output("nmcli -g NAME connection show --active").splitlines()
    assert "homeport-hotspot" in active
    for site in node.caddy.sites if node.caddy else ():
        answer = host.check_output("python3 -c %s %s %s", ASK, site.name, node.hotspot.ip)
        assert answer == node.hotspot.ip


def test_the_passphrase_is_for_root_alone(host: Any, node: Node) -> None:
    if node.hotspot is None:
        pytest.skip("this node has no hotspot")
    folder = "/etc/NetworkManager/system-connections"
    profile = host.file(f"{folder}/homeport-hotspot.nmconnection")
    assert (profile.mode, profile.user) == (0o600, "root")
