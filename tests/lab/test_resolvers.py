"""The name servers that a lab's machines are given, from what the host has."""

from pathlib import Path

import pytest

from homeport.lab import machine


@pytest.mark.parametrize(
    ("own", "resolved", "given"),
    [
        ("nameserver 192.0.2.1\nsearch example.org\n", None, "nameserver 192.0.2.1\n"),
        ("nameserver\t192.0.2.1\n", None, "nameserver 192.0.2.1\n"),
        ("nameserver 127.0.0.53\n", "nameserver 192.0.2.2\n", "nameserver 192.0.2.2\n"),
        ("nameserver 127.0.0.1\nnameserver ::1\n", None, ""),
        ("nameserver fe80::1%wlan0\nnameserver 192.0.2.3\n", None, "nameserver 192.0.2.3\n"),
        ("nameserver 2001:db8::53\nnameserver 0.0.0.0\nnameserver\n", None, ""),
        (None, None, ""),
    ],
)
def test_only_those_that_a_guest_can_reach(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    own: str | None,
    resolved: str | None,
    given: str,
) -> None:
    places = tmp_path / "own", tmp_path / "resolved"
    for place, text in zip(places, (own, resolved), strict=True):
        if text is not None:
            place.write_text(text)
    monkeypatch.setattr(machine, "RESOLV_CONF", places)
    assert machine.resolvers().decode() == given
