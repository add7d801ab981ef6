"""Base: what is refused, and what differs from what is wanted."""

from pathlib import Path
from typing import Any

import pytest

from deploys.base import (
    PACKAGES,
    Base,
    base_packages,
    certificate_changes,
    clock,
    clock_command,
    clock_package,
    split_certificates,
    timezone_command,
    trusted_certificates,
)
from homeport import own_files
from homeport.spec import SpecError
from homeport_node import base as aboard
from homeport_node.base import fingerprints
from tests.operations import Words, as_put, is_refusal, yielded

# Not certificates: what is done with them never looks inside.
ONE = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
TWO = "-----BEGIN CERTIFICATE-----\nBBBB\n-----END CERTIFICATE-----\n"
FIRST, SECOND = fingerprints(ONE + TWO)
PEMS = {FIRST: ONE, SECOND: TWO}
LOCAL = "/usr/local/share/ca-certificates"


def _name(fingerprint: str) -> str:
    return f"homeport-{fingerprint[:16]}"


def _trusting(*prints: str) -> dict[str, Any]:
    return {
        "files": as_put({f"{LOCAL}/{_name(one)}.crt": PEMS[one] for one in prints}),
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
    assert changes.write == {f"{LOCAL}/{_name(SECOND)}.crt": TWO}
    assert changes.remove == [f"{LOCAL}/{_name(FIRST)}.crt"]


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
    assert clock_package({"chrony", "systemd-timesyncd"}) == "chrony"
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
        (
            {"units": {"systemd-timesyncd.service": RUNNING}, "in_step": False},
            "systemctl restart systemd-timesyncd.service",
        ),
        ({"units": {"systemd-timesyncd.service": RUNNING}, "in_step": None}, None),
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


ROUTE = """\
Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 {} 0100000A 0003 0 0 0 00000000 0 0 0
"""


@pytest.mark.parametrize(
    ("route", "up", "error", "said"),
    [
        ("00000000", 601, 15_999_999, True),
        ("00000000", 601, 16_000_000, False),
        ("00000000", 599, 16_000_000, None),
        ("0000000A", 601, 16_000_000, None),
    ],
    ids=["corrected", "not for hours", "just booted", "no way out"],
)
def test_a_clock_in_step(
    route: str,
    up: int,
    error: int,
    said: bool | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "route").write_text(ROUTE.format(route))
    (tmp_path / "uptime").write_text(f"{up}.12 34.56\n")
    monkeypatch.setattr(aboard, "ROUTES", tmp_path / "route")
    monkeypatch.setattr(aboard, "UPTIME", tmp_path / "uptime")
    monkeypatch.setattr(aboard, "clock_error", lambda: error)
    assert aboard.in_step(container=False) is said
    assert aboard.in_step(container=True) is None


def test_the_kernel_says_by_how_much_the_clock_may_be_wrong() -> None:
    assert 0 <= aboard.clock_error() <= 16_000_000


# The operations ---------------------------------------------------------------------------------

SPEC = Base(packages=("jq",))
INSTALLED = {
    "installed": dict.fromkeys((*PACKAGES, "jq", "systemd-timesyncd"), "1"),
    "lists_age": 60.0,
}
AS_WANTED: dict[str, Any] = {
    "timezone": "Etc/UTC",
    "etc_timezone": None,
    "zone_known": True,
    "container": False,
    "in_step": True,
    "units": {"systemd-timesyncd.service": RUNNING},
    "certificates": _trusting(FIRST),
}


@pytest.mark.parametrize(
    ("operation", "observed", "arguments"),
    [
        (base_packages, INSTALLED, {}),
        (clock, AS_WANTED, {"texts": ()}),
        (trusted_certificates, AS_WANTED, {"texts": (ONE,)}),
        (trusted_certificates, {}, {"texts": ()}),
    ],
)
def test_nothing_is_done_on_a_node_as_wanted(
    operation: Any, observed: dict[str, Any], arguments: dict[str, Any]
) -> None:
    assert yielded(operation, observed, spec=SPEC, **arguments) == []


@pytest.mark.parametrize(
    ("operation", "observed", "arguments", "commands"),
    [
        (base_packages, {}, {}, ["export DEBIAN_FRONTEND"]),
        (clock, {**AS_WANTED, "timezone": "Asia/Tokyo"}, {"texts": ()}, ["ln -sfn"]),
        (clock, {**AS_WANTED, "units": {}}, {"texts": ()}, ["systemctl enable --now"]),
        (
            clock,
            {**AS_WANTED, "timezone": "Asia/Tokyo", "units": {}},
            {"texts": ()},
            ["ln -sfn", "systemctl enable --now"],
        ),
        (trusted_certificates, {}, {"texts": (ONE,)}, ["FileUpload", "update-ca-certificates"]),
        (
            trusted_certificates,
            AS_WANTED,
            {"texts": (TWO,)},
            ["FileUpload", "rm -f /usr/local/share/ca-certificates/", "update-ca-certificates"],
        ),
    ],
)
def test_what_differs_is_done(
    operation: Any, observed: dict[str, Any], arguments: dict[str, Any], commands: list[str]
) -> None:
    found = yielded(operation, observed, spec=SPEC, **arguments)
    assert len(found) == len(commands)
    for one, start in zip(found, commands, strict=True):
        assert one.startswith(start)


def test_a_zone_that_the_node_does_not_know_is_refused() -> None:
    (refusal,) = yielded(
        clock, {**AS_WANTED, "timezone": "Asia/Tokyo", "zone_known": False}, spec=SPEC, texts=()
    )
    assert is_refusal(refusal)
    assert "no time zone Etc/UTC" in refusal


def test_a_clock_keeper_that_is_wanted_gets_no_rival() -> None:
    (command,) = yielded(base_packages, {}, spec=Base(packages=("chrony",)))
    assert "chrony" in command
    assert "systemd-timesyncd" not in command


# What drift says --------------------------------------------------------------------------------

CA, OTHER_CA = (f"homeport-{fingerprints(pem)[0][:16]}" for pem in (ONE, TWO))
WORDS: list[Words] = [
    (
        base_packages,
        [{**INSTALLED, "installed": {"chrony": "4"}}],
        {"spec": Base()},
        [
            (
                "packages: ca-certificates, curl, iproute2, python3, python3-venv, tzdata",
                "not installed",
            )
        ],
    ),
    (
        clock,
        [{**AS_WANTED, "timezone": "Asia/Tokyo", "etc_timezone": "Asia/Tokyo"}],
        {"spec": SPEC, "texts": ()},
        [
            ("/etc/localtime: time zone Etc/UTC", "Asia/Tokyo"),
            ("/etc/timezone: time zone Etc/UTC", "Asia/Tokyo"),
        ],
    ),
    (
        clock,
        [{**AS_WANTED, "units": {"chrony.service": {"enabled": "masked", "active": "inactive"}}}],
        {"spec": SPEC, "texts": ()},
        [("chrony.service: enabled, active", "masked, inactive")],
    ),
    (
        clock,
        [{**AS_WANTED, "units": {}}],
        {"spec": SPEC, "texts": ()},
        [("systemd-timesyncd.service: enabled, active", "not installed")],
    ),
    (
        clock,
        [{**AS_WANTED, "in_step": False}],
        {"spec": SPEC, "texts": ()},
        [
            (
                "the clock in step with its time servers",
                "not, though systemd-timesyncd.service runs: do they answer?",
            )
        ],
    ),
    (
        trusted_certificates,
        [AS_WANTED],
        {"spec": SPEC, "texts": (TWO,)},
        [
            (f"{LOCAL}/{OTHER_CA}.crt: sha256 {own_files.sha256(TWO)[:12]}", "no such file"),
            (f"{LOCAL}/{CA}.crt: no such file", "a file of ours"),
        ],
    ),
    (
        trusted_certificates,
        [{**AS_WANTED, "certificates": {**_trusting(FIRST), "links": [], "bundle": []}}],
        {"spec": SPEC, "texts": (ONE,)},
        [
            (f"/etc/ssl/certs: links of ours: {CA}", "none"),
            (f"/etc/ssl/certs/ca-certificates.crt: the CA {CA[9:]}", "not in it"),
        ],
    ),
]
