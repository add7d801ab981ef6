"""What a person does in Open WebUI, for checks on live nodes: sign in, list models, sign up."""

from typing import Any

from deploys.node import Node

PASSWORD_FILE = "/etc/homeport/secrets/open_webui.admin_password"


def address(node: Node) -> str:
    """The URL of the node's Open WebUI, as its users type it."""
    return node.around_open_webui.address


def sign_in(client: Any, node: Node, password: str) -> str:
    """The session token of the first administrator. Raises when the password is refused."""
    assert node.open_webui is not None
    answer = client.post(
        f"{address(node)}/api/v1/auths/signin",
        json={"email": node.open_webui.admin_email, "password": password},
    )
    answer.raise_for_status()
    return str(answer.json()["token"])


def models(client: Any, node: Node, token: str) -> list[str]:
    """The models that the holder of `token` can choose. Raises when the token is refused."""
    answer = client.get(f"{address(node)}/api/models", headers={"Authorization": f"Bearer {token}"})
    answer.raise_for_status()
    return [model["id"] for model in answer.json()["data"]]


def sign_up_status(client: Any, node: Node) -> int:
    """The HTTP status of an attempt to make an account: 403 when sign-up is off."""
    answer = client.post(
        f"{address(node)}/api/v1/auths/signup",
        json={"name": "x", "email": "nobody@example.org", "password": "Not-a-password-1"},
    )
    return int(answer.status_code)


def get(client: Any, node: Node, token: str, path: str) -> Any:
    """The JSON that Open WebUI's API answers at `path`."""
    answer = client.get(f"{address(node)}{path}", headers={"Authorization": f"Bearer {token}"})
    answer.raise_for_status()
    return answer.json()


def post(client: Any, node: Node, token: str, path: str, body: Any) -> Any:
    """The JSON that Open WebUI's API answers to `body` at `path`."""
    answer = client.post(
        f"{address(node)}{path}", json=body, headers={"Authorization": f"Bearer {token}"}
    )
    answer.raise_for_status()
    return answer.json()
