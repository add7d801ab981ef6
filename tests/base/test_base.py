"""Base: what is refused, and what differs from what is wanted."""

from typing import Any

import pytest

from deploys.base import (
    Base,
    certificate_changes,
    clock_command,
    clock_package,
    split_certificates,
    timezone_command,
)
from homeport.spec import SpecError
from homeport_node.base import fingerprints

# Not certificates: what is done with them never looks inside.
ONE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
TWO = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
FIRST, SECOND = fingerprints(ONE + TWO)


def _name(fingerprint: str) -> str:
    return f"homeport-{fingerprint[:16]}"


def _trusting(*prints: str) -> dict[str, Any]:
    return {
        "files": {f"{_name(one)}.crt": [one] for one in prints},
        "links": [_name(one) for one in prints],
        "bundle": [*prints],
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("packages", ("jq; reboot",)),
        ("packages", ("-o",)),
        ("timezone", "Europe/Nowhere"),
        ("timezone", "$(reboot)"),
        ("timezone", "../../etc/passwd"),
        ("timezone", ""),
    ],
)
def test_wrong_input_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"base.{field}: .*must be"):
        Base(**{field: value})


def test_a_text_of_several_certificates_is_split() -> None:
    assert split_certificates((f"subject=x\n{ONE}\n{TWO}", ONE)) == {FIRST: ONE, SECOND: TWO}


def test_trusted_as_wanted() -> None:
    assert not certificate_changes({FIRST: ONE}, _trusting(FIRST))
    assert not certificate_changes({}, {})


def test_a_certificate_comes_and_another_goes() -> None:
    changes = certificate_changes({SECOND: TWO}, _trusting(FIRST))
    assert changes.write == {f"{_name(SECOND)}.crt": TWO}
    assert changes.remove == (f"{_name(FIRST)}.crt",)


@pytest.mark.parametrize("key", ["links", "bundle"])
def test_an_update_that_was_cut_short_is_seen(key: str) -> None:
    """The file is there, and the bundle was not made anew."""
    changes = certificate_changes({FIRST: ONE}, {**_trusting(FIRST), key: []})
    assert changes
    assert not changes.write


def test_a_removal_that_was_cut_short_is_seen() -> None:
    assert certificate_changes({}, {"files": {}, "links": [_name(FIRST)], "bundle": []})


@pytest.mark.parametrize(
    ("observed", "command"),
    [
        ({"timezone": "Etc/UTC", "etc_timezone": None}, None),
        ({"timezone": "Etc/UTC", "etc_timezone": "Etc/UTC"}, None),
        ({"timezone": "Etc/UTC", "etc_timezone": "Asia/Tokyo"}, "echo Etc/UTC > /etc/timezone"),
    ],
)
def test_timezone(observed: dict[str, Any], command: str | None) -> None:
    assert timezone_command("Etc/UTC", observed) == command


def test_another_timezone_is_moved_into_place() -> None:
    command = timezone_command("Etc/UTC", {"timezone": "Asia/Tokyo", "etc_timezone": None})
    assert command is not None
    assert command.endswith("mv -fT /etc/localtime.homeport /etc/localtime")


def test_a_clock_keeper_that_is_there_is_kept() -> None:
    assert clock_package({"chrony": "4.6", "curl": "8"}) == "chrony"
    assert clock_package({}) == "systemd-timesyncd"


RUNNING = {"enabled": "enabled", "active": "active"}
IDLE = {"enabled": "enabled", "active": "inactive"}


@pytest.mark.parametrize(
    ("observed", "command"),
    [
        ({"units": {"chrony.service": RUNNING}, "container": False}, None),
        ({"units": {"systemd-timesyncd.service": IDLE}, "container": True}, None),
        (
            {"units": {"systemd-timesyncd.service": IDLE}, "container": False},
            "systemctl enable --now systemd-timesyncd.service",
        ),
        (
            {"units": {"chrony.service": {"enabled": "disabled", "active": "active"}}},
            "systemctl enable --now chrony.service",
        ),
        ({}, "systemctl enable --now systemd-timesyncd.service"),
        (
            {"units": {"systemd-timesyncd.service": {"enabled": "masked", "active": "inactive"}}},
            "systemctl unmask systemd-timesyncd.service; "
            "systemctl unmask --runtime systemd-timesyncd.service; "
            "systemctl enable --now systemd-timesyncd.service",
        ),
        (
            {
                "units": {
                    "chrony.service": {"enabled": "masked", "active": "inactive"},
                    "systemd-timesyncd.service": RUNNING,
                }
            },
            None,
        ),
    ],
)
def test_clock(observed: dict[str, Any], command: str | None) -> None:
    assert clock_command(observed) == command
