"""What a converge says at its end: lines that can be opened and typed."""

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploys.closing import closing_lines
from homeport.inventory import unbound
from homeport.targets import Target

INVENTORIES = Path(__file__).resolve().parents[2] / "inventory"


def said(name: str, **fields: Any) -> list[str]:
    node = unbound(INVENTORIES / f"{name}.py")[name]
    way = {"name": name, "address": "192.0.2.1", "host_key": "ssh-ed25519 A", **fields}
    data = SimpleNamespace(node=node, target=Target(**way))
    host: Any = SimpleNamespace(
        name=name, data=data, get_fact=lambda *_, **__: {"root_sha256": "ab" * 32}
    )
    return closing_lines(host)


def test_what_has_no_name_is_reached_through_a_tunnel() -> None:
    assert said("workbench", user="op", port=2222) == [
        "workbench: llama_server: http://127.0.0.1:8080/v1 on the node; "
        "from here: ssh -L 8080:127.0.0.1:8080 -p 2222 op@192.0.2.1",
        "The API key:",
        "  ssh -p 2222 op@192.0.2.1 sudo cat /etc/homeport/secrets/llama_server.api_key",
    ]


@pytest.mark.parametrize(
    ("families", "line"),
    [
        ((socket.AF_INET6, socket.AF_INET), "  echo '192.0.2.4 iona.local"),
        ((socket.AF_INET6,), "  echo '2001:db8::6 iona.local"),
        ((), "A client needs an address for iona.local.arpeggio.one iona-api.local.arpeggio.one:"),
    ],
)
def test_names_lead_to_an_address(
    monkeypatch: pytest.MonkeyPatch, families: tuple[int, ...], line: str
) -> None:
    ips = {socket.AF_INET: "192.0.2.4", socket.AF_INET6: "2001:db8::6"}

    def resolve(name: str, port: None) -> list[Any]:
        if not families:
            raise socket.gaierror
        return [(family, 1, 6, "", (ips[family], 0)) for family in families]  # type: ignore[index]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    lines = said("iona", address="iona.lan")
    assert [one for one in lines if one.startswith(line)], lines
    assert "iona: llama_server: https://iona-api.local.arpeggio.one/v1" in lines
