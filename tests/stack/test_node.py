"""On a live node: every service of the inventory runs, is healthy, and is on loopback alone."""

import json
from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


@pytest.fixture(autouse=True, scope="module")
def _wanted(node: Node) -> None:
    if node.stack is None:
        pytest.skip("this node has no services")


@pytest.fixture(scope="module")
def containers(node: Node, host: Any) -> dict[str, Any]:
    """The project's containers by service, from one `docker inspect`."""
    project = f"label=com.docker.compose.project={node.name}"
    command = f"docker inspect $(docker ps -aq --filter {project})"
    found = json.loads(host.check_output(command))
    return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}


def test_exactly_the_wanted_services_run(node: Node, containers: dict[str, Any]) -> None:
    assert node.stack is not None
    assert set(containers) == {service.name for service in node.stack.services}
    for name, one in containers.items():
        assert one["State"]["Status"] == "running", name
        assert one["State"]["Health"]["Status"] == "healthy", name
        assert one["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped", name


def test_ports_are_published_on_loopback_alone(containers: dict[str, Any]) -> None:
    published = [
        binding
        for one in containers.values()
        for bindings in one["HostConfig"]["PortBindings"].values()
        for binding in bindings
    ]
    assert published
    assert {binding["HostIp"] for binding in published} == {"127.0.0.1"}


def test_logs_are_bounded(containers: dict[str, Any]) -> None:
    for one in containers.values():
        log = one["HostConfig"]["LogConfig"]
        assert log["Type"] == "local"
        assert "max-size" in log["Config"]


def test_the_unit_runs_and_comes_back_at_boot(host: Any) -> None:
    unit = host.service("homeport-stack.service")
    assert unit.is_running
    assert unit.is_enabled
