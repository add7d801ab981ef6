"""Hotspot: what is refused, what is written, and when the profile is taken down and up."""

import dataclasses
import hashlib
import os
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from deploys.hotspot import (
    CONFINED_FILE,
    COUNTRY_FILE,
    NAMES_FILE,
    Hotspot,
    config_hash,
    configuration,
    names_text,
    profile_text,
    removed,
    running,
    running_commands,
    wanted_files,
)
from homeport.pins import Radio
from homeport.spec import SpecError
from homeport_node import hotspot as aboard
from tests.operations import Words, as_put, is_refusal, yielded

RADIO = Radio(handle="hotspot", mac="02:00:00:00:00:01")
SPEC = Hotspot(radio=RADIO, ssid="MoonshotBridge")
NAMES = ("a.example", "b.example")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("ssid", {"ssid": ""}),
        ("ssid", {"ssid": "x" * 33}),
        ("ssid", {"ssid": "a;b"}),
        ("ssid", {"ssid": "a\nb"}),
        ("ssid", {"ssid": " a"}),
        ("ssid", {"ssid": "a\\b"}),
        ("address", {"address": "10.42.0.1"}),
        ("address", {"address": "10.42.0.0/24"}),
        ("address", {"address": "8.8.8.8/24"}),
        ("address", {"address": "10.42.0.1/30"}),
        ("address", {"address": "here"}),
        ("channel", {"channel": 36}),
        ("channel", {"channel": 6, "band": "a"}),
        ("country", {"country": "de"}),
        ("country", {"country": "DE\n"}),
        ("radio", {"radio": Radio(handle="hotspot", mac="wlan0")}),
    ],
)
def test_wrong_input_names_its_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"hotspot\.{field}: .*must"):
        Hotspot(**{"radio": RADIO, "ssid": "x", **fields})


def test_the_profile() -> None:
    lines = profile_text(Hotspot(radio=RADIO, ssid="Moon Bridge", channel=6)).splitlines()
    for line in (
        "type=wifi",
        "autoconnect=true",
        "mode=ap",
        "ssid=Moon Bridge",
        "mac-address=02:00:00:00:00:01",
        "band=bg",
        "channel=6",
        "key-mgmt=wpa-psk",
        "psk=@PSK@",
        "method=shared",
        "address1=10.42.0.1/24",
        "method=disabled",
    ):
        assert line in lines
    assert "channel" not in profile_text(SPEC)


def test_names_are_answered_and_not_forwarded() -> None:
    lines = names_text(SPEC, NAMES).splitlines()
    assert {"address=/a.example/10.42.0.1", "local=/a.example/", "local=/b.example/"} <= {*lines}
    assert config_hash(SPEC, NAMES) in lines[-1]
    assert config_hash(SPEC, NAMES) != config_hash(SPEC, NAMES[:1])


@pytest.mark.parametrize(
    ("observed", "confined"),
    [
        ({}, True),
        ({"manages": ["eth0"], "files": {}}, False),
        ({"manages": ["eth0"], "files": {CONFINED_FILE: "old"}}, True),
    ],
    ids=["not there yet", "keeps the network", "confined by us"],
)
def test_network_manager_is_confined_unless_it_keeps_the_network(
    observed: dict[str, Any], confined: bool
) -> None:
    files = wanted_files(SPEC, NAMES, observed)
    assert (CONFINED_FILE in files) is confined
    assert NAMES_FILE in files
    assert COUNTRY_FILE not in files


def test_the_country_lasts() -> None:
    german = Hotspot(radio=RADIO, ssid="x", country="DE")
    assert wanted_files(german, NAMES, {})[COUNTRY_FILE].endswith("ieee80211_regdom=DE\n")


RUNNING = {
    "enabled": True,
    "active": True,
    "wifi_off": False,
    "profile": {"present": True, "same": True, "written": "9f"},
    "applied": "9f",
    "running_config": config_hash(SPEC, NAMES),
}
CYCLE = "nmcli --wait 60 connection up homeport-hotspot"


def test_nothing_is_done_when_all_runs_as_wanted() -> None:
    assert running_commands(SPEC, NAMES, RUNNING) == []


@pytest.mark.parametrize(
    "difference",
    [
        {"applied": "other"},
        {"applied": ""},
        {"profile": {"present": True, "same": False, "written": "9f"}},
        {"running_config": ""},
        {"running_config": "other"},
    ],
)
def test_what_runs_otherwise_is_taken_down_and_up(difference: dict[str, Any]) -> None:
    assert running_commands(SPEC, NAMES, {**RUNNING, **difference})[-1] == CYCLE


def test_a_radio_that_is_off_is_switched_on() -> None:
    assert running_commands(SPEC, NAMES, {**RUNNING, "wifi_off": True}) == ["nmcli radio wifi on"]


def test_another_country_is_set_at_once() -> None:
    german = Hotspot(radio=RADIO, ssid="x", country="DE")
    assert running_commands(german, NAMES, {**RUNNING, "country": "00"}) == ["iw reg set DE"]


# Aboard -----------------------------------------------------------------------------------------


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(aboard, "PROFILE", tmp_path / "nm/homeport-hotspot.nmconnection")
    monkeypatch.setattr(aboard, "PSK", tmp_path / "hotspot.psk")
    return tmp_path


def test_the_passphrase_goes_from_file_to_file(
    on_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    aboard.PSK.write_text(" pass\\word\n")
    assert aboard.write_profile(profile_text(SPEC)) is None
    text = aboard.PROFILE.read_text()
    assert "psk=\\spass\\\\word\n" in text
    assert aboard.PROFILE.stat().st_mode & 0o777 == 0o600
    assert "@" not in text
    assert len(aboard.written(text)) == 16
    assert [*aboard.PROFILE.parent.iterdir()] == [aboard.PROFILE]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("psk", ["short", "x" * 65, "ümlaut-passwort"])
def test_a_passphrase_that_wpa_refuses_is_not_said(on_disk: Path, psk: str) -> None:
    aboard.PSK.write_text(psk)
    words = aboard.write_profile(profile_text(SPEC)) or ""
    assert "8 to 63" in words
    assert psk not in words
    assert not aboard.PROFILE.exists()


def test_without_a_secret_nothing_is_written(on_disk: Path) -> None:
    assert "is not there" in (aboard.write_profile(profile_text(SPEC)) or "")


def test_a_dns_question_and_its_answer() -> None:
    question = aboard.txt_query("config.homeport.internal")
    text = b"0a1b"
    record = b"\xc0\x0c" + struct.pack(">HHIH", 16, 1, 0, len(text) + 1)
    head = question[:2] + struct.pack(">5H", 0x8580, 1, 1, 0, 0)
    answer = head + question[12:] + record + bytes([len(text)]) + text
    assert aboard.txt_answer(question, answer) == "0a1b"
    nothing = question[:2] + struct.pack(">5H", 0x8183, 1, 0, 0, 0) + question[12:]
    assert aboard.txt_answer(question, nothing) == ""
    assert aboard.txt_answer(question, nothing + b"\0" * 40) == ""


@pytest.mark.parametrize(
    ("began", "read"), [(-10.0, False), (10.0, True), (None, False)], ids=["older", "newer", "none"]
)
def test_a_dnsmasq_that_began_before_a_change_has_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: float | None, read: bool
) -> None:
    monkeypatch.setattr(aboard, "NAMES_FOLDER", tmp_path / "names")
    monkeypatch.setattr(aboard, "DNSMASQ_PID", f"{tmp_path}/{{interface}}.pid")
    (tmp_path / "names").mkdir()
    (tmp_path / "names/homeport.conf").write_text("local=/a.example/")
    if began is not None:
        pid = tmp_path / "wlan0.pid"
        pid.touch()
        os.utime(pid, (time.time() + began,) * 2)
    assert aboard.names_read("wlan0") is read


@pytest.mark.skipif(os.getuid() != 0, reason="the profile is to be root's")
def test_a_link_to_a_copy_of_the_profile_is_not_the_profile(on_disk: Path) -> None:
    profile, copy = aboard.PROFILE, on_disk / "copy"
    aboard.PSK.write_text("moonlight")
    text = profile_text(SPEC)
    assert aboard.write_profile(text) is None
    assert aboard.profile_state(text)["same"]
    profile.rename(copy)
    profile.symlink_to(copy)
    assert not aboard.profile_state(text)["same"]
    assert aboard.write_profile(text) is None
    assert aboard.profile_state(text)["same"]
    assert not profile.is_symlink()


# The operations ---------------------------------------------------------------------------------

AS_WANTED: dict[str, Any] = {
    **RUNNING,
    "interface": "wlan0",
    "files": as_put(wanted_files(SPEC, NAMES, {})),
    "manages": ["eth0"],
    "country": "DE",
}
BARE: dict[str, Any] = {"interface": "wlan0", "files": {}, "manages": [], "profile": {}}


@pytest.mark.parametrize(
    ("operation", "observed", "wanted", "commands"),
    [
        (configuration, AS_WANTED, True, []),
        (configuration, {**BARE, "manages": ["eth0"]}, True, ["FileUpload"]),
        (configuration, BARE, True, ["FileUpload"] * 2),
        (
            configuration,
            {**BARE, "active": True, "files": as_put({CONFINED_FILE: "x"})},
            True,
            ["FileUpload", "FileUpload", "nmcli general reload conf"],
        ),
        # Somebody else's NetworkManager is not confined: undoing that would switch it off.
        (
            configuration,
            {**BARE, "active": True},
            True,
            ["FileUpload"],
        ),
        (
            configuration,
            {**AS_WANTED, "files": {**AS_WANTED["files"], **as_put({COUNTRY_FILE: "x"})}},
            True,
            ["rm -f"],
        ),
        (running, AS_WANTED, True, []),
        (running, {**AS_WANTED, "wifi_off": True}, True, ["python3", "FunctionCommand"]),
        (removed, {**AS_WANTED, "files": {}, "profile": {"present": False}}, False, []),
        (removed, {**AS_WANTED, "files": {}}, False, ["nmcli connection delete", "rm -f"]),
        (
            removed,
            {**AS_WANTED, "files": as_put({CONFINED_FILE: "x"})},
            False,
            ["nmcli connection delete", "nmcli -t -f STATE device", "rm -f"],
        ),
    ],
)
def test_operations(
    operation: Any, observed: dict[str, Any], wanted: bool, commands: list[str]
) -> None:
    arguments = {"spec": SPEC, "names": NAMES} if wanted else {}
    found = yielded(operation, observed, **arguments)
    assert len(found) == len(commands), found
    for one, start in zip(found, commands, strict=True):
        assert one.startswith(start)


def test_the_profile_is_written_before_it_is_brought_up() -> None:
    found = yielded(running, BARE, spec=SPEC, names=NAMES)
    verbs = ("arm(", "write_profile(", "change")
    assert len(found) == len(verbs)
    for command, verb in zip(found, verbs, strict=True):
        assert verb in command.rpartition("_module.")[2]
    assert running_commands(SPEC, NAMES, BARE)[-1] == CYCLE
    assert str(aboard.PROFILE) in found[0]


def test_the_network_goes_down_before_the_profile_is_read() -> None:
    down, reload, up = running_commands(SPEC, NAMES, {**RUNNING, "applied": ""})
    assert (down.split()[2], reload.split()[2], up) == ("down", "reload", CYCLE)


def test_removed_takes_the_network_down_while_network_manager_runs() -> None:
    first, second, last = yielded(removed, {**AS_WANTED, "files": as_put({CONFINED_FILE: "x"})})
    assert first.startswith("nmcli connection delete")
    assert "grep -qx connected || systemctl disable --now NetworkManager.service" in second
    # What says that we confined NetworkManager goes last: a run cut short begins again.
    assert CONFINED_FILE in last
    assert CONFINED_FILE not in first


def test_clients_find_dns_besides_what_the_network_sees() -> None:
    assert SPEC.open_ports == (53,)


def test_a_node_without_the_radio_is_refused() -> None:
    (refusal,) = yielded(configuration, {**BARE, "interface": ""}, spec=SPEC, names=NAMES)
    assert is_refusal(refusal)
    assert RADIO.mac in refusal


def test_what_network_manager_was_given_since_is_not_taken_away() -> None:
    """Somebody took our limits out of the file, and had NetworkManager keep the uplink."""
    there = {**AS_WANTED["files"], **as_put({CONFINED_FILE: "x"})}
    (refusal,) = yielded(configuration, {**AS_WANTED, "files": there}, spec=SPEC, names=NAMES)
    assert is_refusal(refusal)
    assert "NetworkManager keeps eth0 connected" in refusal
    assert f"rm {CONFINED_FILE}" in refusal


# What drift says --------------------------------------------------------------------------------

HERE = {"spec": SPEC, "names": NAMES}
NAMES_HASH = hashlib.sha256(names_text(SPEC, NAMES).encode()).hexdigest()[:12]
WORDS: list[Words] = [
    (
        configuration,
        [
            {
                **AS_WANTED,
                "files": as_put(
                    {**wanted_files(SPEC, NAMES, {}), NAMES_FILE: "x", COUNTRY_FILE: "y"}
                ),
            }
        ],
        HERE,
        [
            (f"{NAMES_FILE}: sha256 {NAMES_HASH}", "sha256 2d711642b726"),
            (f"{COUNTRY_FILE}: no such file", "a file of ours"),
        ],
    ),
    (
        running,
        [BARE],
        {"spec": dataclasses.replace(SPEC, country="DE"), "names": NAMES},
        [
            (f"{aboard.PROFILE}: as the inventory says, for root alone", "no such file"),
            ("NetworkManager.service: enabled, active", "neither"),
            ("regulatory domain DE", "not known"),
            (
                f"homeport-hotspot: answers names as {NAMES_FILE} says",
                "answers others, or none",
            ),
        ],
    ),
    # A profile that was edited may hold the passphrase where it should: no hash of it.
    (
        running,
        [{**AS_WANTED, "profile": {"present": True, "same": False}, "enabled": False}],
        HERE,
        [
            (
                f"{aboard.PROFILE}: as the inventory says, for root alone",
                "another content, mode or owner",
            ),
            ("NetworkManager.service: enabled, active", "active"),
        ],
    ),
    (
        running,
        [{**AS_WANTED, "applied": "older", "wifi_off": True}],
        HERE,
        [
            ("Wi-Fi on", "off"),
            ("homeport-hotspot: runs as its profile on the disk", "runs otherwise, or not"),
        ],
    ),
    (
        removed,
        [{**AS_WANTED, "files": as_put({NAMES_FILE: "x"})}],
        {},
        [
            (f"{NAMES_FILE}: no such file", "a file of ours"),
            (f"{aboard.PROFILE}: no such file", "a file of ours"),
        ],
    ),
]
