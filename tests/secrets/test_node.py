"""On a live node: every secret of the inventory is there, and root's alone."""

from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


@pytest.fixture
def names(node: Node) -> list[str]:
    """The secrets that must be there: those that the node makes, or that the desk gives."""
    if node.secrets is None:
        pytest.skip("this node has no secrets")
    given = node.secrets.given
    return [one.name for one in node.secrets.wanted if one.made or one.name in given]


def test_secrets_are_roots_alone(names: list[str], host: Any) -> None:
    directory = host.file("/etc/homeport/secrets")
    assert (directory.mode, directory.user) == (0o700, "root")
    for name in names:
        file = host.file(f"/etc/homeport/secrets/{name}")
        assert file.is_file
        assert (file.mode, file.user, file.group) == (0o600, "root", "root")
        assert file.size >= 16


def test_no_secret_is_in_an_argument_or_in_docker_inspect(names: list[str], host: Any) -> None:
    said = host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    said += host.run("docker inspect $(docker ps -aq)").stdout
    said += host.run("cat /etc/homeport/stack/compose.yaml").stdout
    for name in names:
        value = host.run(f"cat /etc/homeport/secrets/{name}").stdout.strip()
        assert len(value) >= 16
        assert value not in said, f"{name} can be read"
