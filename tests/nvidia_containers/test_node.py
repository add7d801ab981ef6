"""On a live node: the toolkit is the pinned one, and each GPU is its container's for good."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from deploys.node import Node
from deploys.nvidia_containers.spec import PACKAGES, repository
from homeport.targets import Target

pytestmark = pytest.mark.node


@pytest.fixture(autouse=True, scope="module")
def _wanted(node: Node) -> None:
    if node.nvidia_containers is None:
        pytest.skip("this node's inventory wants no GPUs for containers")


def test_the_toolkit_is_the_pinned_one_and_held(node: Node, host: Any) -> None:
    assert node.nvidia_containers is not None
    shown = host.check_output(
        f"dpkg-query -W -f '${{Package}} ${{Version}}\\n' {' '.join(PACKAGES)}"
    )
    versions = dict(line.split() for line in shown.splitlines())
    assert versions == dict.fromkeys(PACKAGES, node.nvidia_containers.version)
    assert set(PACKAGES) <= set(host.check_output("apt-mark showhold").split())


def test_it_comes_from_the_repository_of_the_sources(target: Target, host: Any) -> None:
    address, _ = repository(target.sources)
    policy = host.check_output("LC_ALL=C apt-cache policy nvidia-container-toolkit")
    installed = policy.split(" *** ", 1)[1].split("\n     ")  # the origins of what is installed
    assert any(f" {address}/stable/deb/" in line for line in installed), policy


def _given(node: Node, host: Any) -> Iterator[tuple[set[str], str]]:
    """(GPUs, id) of each container of the stack that is to have some."""
    for service in node.stack.services if node.stack else ():
        if service.gpus:
            label = f"label=com.docker.compose.service={service.name}"
            project = f"label=com.docker.compose.project={node.name}"
            found = host.check_output(
                f"docker ps -q --no-trunc --filter {label} --filter {project}"
            )
            yield {gpu.uuid for gpu in service.gpus}, found


def test_every_container_sees_its_gpus(node: Node, host: Any) -> None:
    given = list(_given(node, host))
    if not given:
        pytest.skip("no service wants a GPU")
    for wanted, container in given:
        listed = host.check_output(f"docker exec {container} nvidia-smi -L")
        assert set(re.findall(r"UUID: ([\w-]+)", listed)) == wanted


def test_a_daemon_reload_will_take_no_gpu_from_a_container(node: Node, host: Any) -> None:
    """systemd gives a container's devices anew at each daemon-reload, as it knows them: each node
    of a GPU in the container must be among them. That nothing is reloaded here is on purpose."""
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    if info["CgroupDriver"] != "systemd":
        pytest.skip("Docker keeps its cgroups itself: systemd resets nothing there")
    given = list(_given(node, host))
    if not given:
        pytest.skip("no service wants a GPU")
    for wanted, container in given:
        nodes = host.check_output(
            f"docker exec {container} sh -c 'cd /dev && stat -c \"%t %T %n\" nvidia[0-9]*'"
        ).splitlines()
        assert len(nodes) == len(wanted)
        allowed = host.check_output(f"systemctl show -p DeviceAllow docker-{container}.scope")
        for line in nodes:
            major, minor, name = line.split()
            rule = f"/dev/char/{int(major, 16)}:{int(minor, 16)} rwm"
            assert rule in allowed, f"systemd knows nothing of {name}: {allowed}"
