"""On a live node, from a user's seat: the model is there at once, and nobody can sign up.

The administrator's first password counts as long as nobody changed it.
"""

from typing import Any

import pytest

from deploys.node import Node
from tests.open_webui import client as user

pytestmark = pytest.mark.node


@pytest.fixture(scope="module")
def client(node: Node, seat: Any) -> Any:
    if node.open_webui is None or not user.address(node):
        pytest.skip("the inventory gives Open WebUI no site")
    return seat.client()


def test_sign_up_is_refused(node: Node, client: Any) -> None:
    assert user.sign_up_status(client, node) == 403


def test_a_stranger_sees_nothing(node: Node, client: Any) -> None:
    assert client.get(f"{user.address(node)}/api/models").status_code == 401


def test_the_first_administrator_finds_the_model(node: Node, client: Any, host: Any) -> None:
    password = host.check_output(f"cat {user.PASSWORD_FILE}")
    token = user.sign_in(client, node, password)
    if node.llama_server is None:
        pytest.skip("this node has no engine of its own")
    assert node.llama_server.alias in user.models(client, node, token)


def test_the_data_are_in_the_volume_of_the_inventory(node: Node, host: Any) -> None:
    if node.open_webui is None:
        pytest.skip("the inventory wants no Open WebUI")
    volume = node.open_webui.volume
    mount = host.check_output(f"docker volume inspect -f '{{{{.Mountpoint}}}}' {volume}")
    assert host.file(f"{mount}/webui.db").is_file
