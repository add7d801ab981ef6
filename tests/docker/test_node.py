"""Docker on a live node: it runs as specified, and its containers face no network."""

import ipaddress
import json
from typing import Any

import pytest

from deploys.docker.spec import daemon_values
from deploys.node import Node
from homeport_node.docker_daemon_json import YIELDS_TO

pytestmark = pytest.mark.node


@pytest.fixture(autouse=True)
def _wanted(node: Node) -> None:
    if node.docker is None:
        pytest.skip("this node has no Docker")


def test_docker_and_its_guard_run_and_are_enabled(host: Any) -> None:
    for unit in ("docker.service", "homeport-docker-guard.service"):
        assert host.service(unit).is_running, unit
        assert host.service(unit).is_enabled, unit


def test_docker_runs_what_the_inventory_says(host: Any, node: Node) -> None:
    """But for what somebody else had set in daemon.json before: that is theirs to say."""
    assert node.docker is not None
    wanted = daemon_values(node.docker)
    ours = json.loads(host.check_output("cat /var/lib/homeport/docker.json"))["ours"]
    file = json.loads(host.check_output("cat /etc/docker/daemon.json"))
    for path in wanted.keys() - ours.keys():
        theirs = {path.split("/")[0], *YIELDS_TO.get(path, ())} & file.keys()
        assert theirs, f"{path} is missing, and nobody else set it"
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    if "log-driver" in ours:
        assert info["LoggingDriver"] == wanted["log-driver"]
    if "default-address-pools" in ours:
        pools = info["DefaultAddressPools"]
        assert [(one["Base"], one["Size"]) for one in pools] == [
            (one["base"], one["size"]) for one in wanted["default-address-pools"]
        ]
    if "bip" in ours:
        shown = host.check_output("ip -4 -json address show docker0")
        address = json.loads(shown)[0]["addr_info"][0]
        assert f"{address['local']}/{address['prefixlen']}" == wanted["bip"]


def test_compose_is_there(host: Any) -> None:
    assert host.run("docker compose version || docker-compose version").rc == 0


def test_every_container_subnet_is_guarded(host: Any) -> None:
    """Each bridge network's subnet lies in a set that the guard drops."""
    ids = host.check_output("docker network ls -q --filter driver=bridge")
    shown = host.check_output(f"docker network inspect {' '.join(ids.split())}")
    listed = json.loads(host.check_output("nft -j list table inet homeport_docker"))["nftables"]
    elements = [one["prefix"] for item in listed for one in item.get("set", {}).get("elem", [])]
    guarded = [ipaddress.ip_network(f"{one['addr']}/{one['len']}") for one in elements]
    dropped = [
        item["rule"] for item in listed if {"drop": None} in item.get("rule", {}).get("expr", [])
    ]
    assert len(dropped) >= 3, "127.0.0.0/8, ::1 and the containers' subnets"
    for network in json.loads(shown):
        for config in network["IPAM"]["Config"]:
            subnet = ipaddress.ip_network(config["Subnet"])
            ends = (subnet[0], subnet[-1])
            assert any(all(end in one for end in ends) for one in guarded), (
                f"{network['Name']}: {subnet}"
            )


def test_no_port_of_the_stack_is_published_to_a_network(host: Any, node: Node) -> None:
    """What containers of others publish is not ours to judge."""
    mine = f"label=com.docker.compose.project={node.name}"
    ids = host.check_output(f"docker ps -q --filter {mine}").split()
    if not ids:
        pytest.skip("no container of the stack runs")
    for container in json.loads(host.check_output(f"docker inspect {' '.join(ids)}")):
        for port, bindings in container["NetworkSettings"]["Ports"].items():
            for binding in bindings or []:
                address = ipaddress.ip_address(binding["HostIp"])
                assert address.is_loopback, f"{container['Name']} {port}: {address}"
