"""On a live node: every secret of the inventory is there, and root's alone."""

from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node


def test_secrets_are_roots_alone(node: Node, host: Any) -> None:
    directory = host.file("/etc/homeport/secrets")
    assert (directory.mode, directory.user) == (0o700, "root")
    assert node.secrets is not None
    for secret in node.secrets.wanted:
        file = host.file(f"/etc/homeport/secrets/{secret.name}")
        assert file.is_file
        assert (file.mode, file.user, file.group) == (0o600, "root", "root")
        assert file.size >= 16


def test_no_secret_is_in_an_argument_or_in_docker_inspect(node: Node, host: Any) -> None:
    said = host.run("cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    said += host.run("docker inspect $(docker ps -aq)").stdout
    said += host.run("cat /etc/homeport/stack/compose.yaml").stdout
    assert node.secrets is not None
    for secret in node.secrets.wanted:
        value = host.run(f"cat /etc/homeport/secrets/{secret.name}").stdout.strip()
        assert len(value) >= 16
        assert value not in said, f"{secret.name} can be read"
