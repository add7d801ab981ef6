"""The lab's addresses: none that is in use here, and the same ones after a power cut."""

import ipaddress
import subprocess
from typing import Any

import pytest

from homeport.lab import LabError, network


def routes(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    def answer(*_: Any, **__: Any) -> "subprocess.CompletedProcess[str]":
        return subprocess.CompletedProcess([], 0, stdout=text, stderr="")

    monkeypatch.setattr("homeport.lab.network.subprocess.run", answer)


@pytest.mark.parametrize(
    ("text", "pool"),
    [
        ("[]", "10.214"),
        ('[{"dst": "default"}, {"dst": "192.168.1.0/24"}]', "10.214"),
        ('[{"dst": "10.214.3.0/24"}, {"dst": "10.215.0.9"}]', "10.216"),
        ('[{"dst": "0.0.0.0/1"}, {"dst": "10.0.0.0/8", "dev": "tun0"}]', "10.214"),
    ],
)
def test_pool_is_free(monkeypatch: pytest.MonkeyPatch, text: str, pool: str) -> None:
    routes(monkeypatch, text)
    assert network.free_pool() == pool


def test_no_pool_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    routes(monkeypatch, '[{"dst": "192.0.2.0/24"}, {"dst": "10.128.0.0/9", "dev": "tun0"}]')
    with pytest.raises(LabError, match=r"no free network .*: 10\.128\.0\.0/9 on tun0$"):
        network.free_pool()


def test_pools_avoid_the_nodes_own_networks() -> None:
    assert not {"10.213", "10.42"} & set(network.POOLS)


def test_a_machine_has_the_same_address_of_ipv6_after_a_power_cut() -> None:
    subnet = ipaddress.IPv4Network("10.214.7.0/24")
    plain = network.Network(name="n", subnet=subnet)
    assert plain.at("10.214.7.12") == ["--network", "n", "--ip", "10.214.7.12"]
    both = network.Network(name="n", subnet=subnet, by_ipv6=ipaddress.IPv6Network("fd68::/64"))
    assert both.at("10.214.7.12")[4:] == ["--ip6", "fd68::c"]
