"""A network change that takes itself back: what is noted aboard, and what the desk makes of it."""

import re
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from homeport import network_change as desk
from homeport.alive import ConnectionLost
from homeport.pending import command_texts
from homeport_node import network_change as aboard
from homeport_node.common import Ran

MACHINE: Any = SimpleNamespace(name="iona", data={})
ADDRESSES = """[
 {"ifname": "lo", "flags": ["LOOPBACK", "UP"], "addr_info": []},
 {"ifname": "eth0", "flags": ["UP"], "addr_info": [
   {"local": "192.0.2.7", "scope": "global"}, {"local": "fe80::1", "scope": "link"}]},
 {"ifname": "eth1", "flags": [], "addr_info": []}]"""


class Node:
    """Answers `run`: the units in `active` are, and what was run is kept in `ran`."""

    def __init__(self, active: tuple[str, ...]) -> None:
        self.active = active
        self.ran: list[tuple[str, ...]] = []

    def __call__(self, *command: str, **_: Any) -> Ran:
        self.ran.append(command)
        if command[:2] == ("systemctl", "is-active"):
            return Ran(0, "active\n" if command[2] in self.active else "inactive\n", "")
        if command[0] == "ip":
            return Ran(0, ADDRESSES, "")
        return Ran(0, "uuid-1\nuuid-2\n" if command[0] == "nmcli" else "", "")


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(aboard, "STATE", tmp_path / "state")
    return tmp_path / "state"


def node(monkeypatch: pytest.MonkeyPatch, *active: str) -> Node:
    made = Node(active)
    monkeypatch.setattr(aboard, "run", made)
    return made


def test_files_come_back_as_they_were(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(monkeypatch, aboard.MANAGER)
    there, absent = tmp_path / "profile", tmp_path / "new one"
    there.write_text("before")
    there.chmod(0o600)
    state.mkdir()
    lines = aboard.file_lines([str(there), str(absent)])
    there.write_text("after")
    absent.write_text("after")
    subprocess.run(["sh", "-c", "\n".join(lines)], check=True)
    assert there.read_text() == "before"
    assert there.stat().st_mode & 0o777 == 0o600
    assert not absent.exists()


def test_links_and_addresses_that_were_there_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    node(monkeypatch, aboard.MANAGER, "systemd-networkd.service")
    lines = aboard.network_lines()
    assert "ip link set dev eth0 up" in lines
    assert not [line for line in lines if "eth1" in line]
    assert any(" 192.0.2.7/" in line for line in lines)
    assert not [line for line in lines if "fe80" in line]
    assert lines[-1] == '[ -z "$lost" ] || systemctl restart systemd-networkd.service'
    assert any("for one in uuid-1 uuid-2; do nmcli --wait 30 connection up" in one for one in lines)


def test_network_manager_that_did_not_run_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    node(monkeypatch)
    lines = aboard.network_lines()
    assert lines[0] == "systemctl disable --now NetworkManager.service"
    assert not [line for line in lines if "nmcli" in line or "restart" in line]


def test_the_text_of_the_way_back_is_shell(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = node(monkeypatch, aboard.MANAGER, *aboard.OTHERS)
    assert aboard.arm(["/nowhere/profile"], 120) is None
    subprocess.run(["sh", "-n", state / "revert"], check=True)
    assert state.stat().st_mode & 0o777 == 0o700
    (timer,) = [one for one in found.ran if one[0] == "systemd-run"]
    assert "--on-active=120" in timer


def test_nothing_begins_while_another_change_is_on_trial(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = node(monkeypatch, f"{aboard.REVERT}.timer")
    assert "on trial" in (aboard.arm([], 120) or "")
    assert not [one for one in found.ran if one[0] == "systemd-run"]
    assert not state.exists()


def test_nothing_begins_without_the_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    found = node(monkeypatch)
    assert "timer" in (aboard.start(["true"]) or "")
    assert not [one for one in found.ran if one[0] == "systemd-run"]


@pytest.mark.parametrize(("command", "status"), [("echo good", "0"), ("echo bad; false", "1")])
def test_how_a_change_ended_is_noted(
    state: Path, monkeypatch: pytest.MonkeyPatch, command: str, status: str
) -> None:
    node(monkeypatch, f"{aboard.REVERT}.timer")
    state.mkdir()
    monkeypatch.setattr(aboard, "SETTLES", 1)
    assert aboard.start([command, "echo then"]) is None
    began = time.monotonic()
    subprocess.run(["sh", state / "change"], check=False)
    assert (time.monotonic() - began > 1) is (status == "0")
    assert (state / aboard.DONE).read_text().strip() == status
    assert ("then" in (state / aboard.WORDS).read_text()) is (status == "0")


@pytest.mark.parametrize(
    ("files", "words", "stopped"),
    [
        ({"done": "0"}, "", True),
        ({"done": "4", "words": "no such radio"}, "failed and is taken back: no such radio", True),
        ({"done": "0", "reverted": ""}, "was taken back", False),
        ({"kept": ""}, "", False),
        (None, "the node was started anew", False),
    ],
    ids=["went well", "failed", "too late", "asked again", "nothing there"],
)
def test_confirming(
    state: Path,
    monkeypatch: pytest.MonkeyPatch,
    files: dict[str, str] | None,
    words: str,
    stopped: bool,
) -> None:
    found = node(monkeypatch)
    if files is not None:
        state.mkdir()
        for name, text in files.items():
            (state / name).write_text(text)
    said = aboard.confirm()
    assert (said is None) is (words == "")
    assert words in (said or "")
    assert (("systemctl", "stop", f"{aboard.REVERT}.timer") in found.ran) is stopped
    if said is None:
        assert [path.name for path in state.iterdir()] == [aboard.KEPT]


@pytest.mark.parametrize(
    ("verb", "done", "words", "then"),
    [
        ("start", "4", "will be taken back by its timer", []),
        ("stop", "0", "could not be stopped: it is taken back", ["start"]),
    ],
)
def test_what_systemd_refuses_leaves_a_way_back(
    state: Path, monkeypatch: pytest.MonkeyPatch, verb: str, done: str, words: str, then: list[str]
) -> None:
    state.mkdir()
    (state / aboard.DONE).write_text(done)
    ran: list[str] = []

    def run(*command: str, **_: Any) -> Ran:
        ran.append(command[1])
        return Ran(1 if command[1] == verb else 0, "", "")

    monkeypatch.setattr(aboard, "run", run)
    assert words in (aboard.confirm() or "")
    assert ran == [verb, *then]


@pytest.mark.parametrize("by", ["its service runs", "it is over"])
def test_nothing_begins_once_the_way_back_has(
    state: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    units = [f"{aboard.REVERT}.timer"]
    state.mkdir()
    if by == "it is over":
        (state / aboard.REVERTED).touch()
    else:
        units.append(f"{aboard.REVERT}.service")
    found = node(monkeypatch, *units)
    assert "runs no more" in (aboard.start(["true"]) or "")
    assert not [one for one in found.ran if one[0] == "systemd-run"]


def test_the_way_back_ends_a_change_that_still_goes_on(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(monkeypatch)
    assert aboard.arm([], 120) is None
    first = (state / "revert").read_text().splitlines()[0]
    assert first == f"systemctl stop {aboard.CHANGE}.service"


def test_a_way_back_that_has_begun_is_not_called_kept(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node(monkeypatch, f"{aboard.REVERT}.service")
    state.mkdir()
    (state / aboard.DONE).write_text("0")
    assert aboard.confirm() == "it is being taken back"
    assert state.exists()


def test_a_way_back_that_ends_meanwhile_is_not_called_kept(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir()
    (state / aboard.DONE).write_text("0")

    def run(*words: str, **_: Any) -> Ran:
        if words[:2] == ("systemctl", "stop"):
            (state / aboard.REVERTED).touch()
        return Ran(0, "", "")

    monkeypatch.setattr(aboard, "run", run)
    assert aboard.confirm() == "it is being taken back"


class Desk:
    """What the node says to each attempt, in order; an exception is raised."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.now = 0.0

    def attempt(self, *_: Any) -> tuple[bool, str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def confirm(self) -> str:
        return desk.confirm(MACHINE, attempt=self.attempt, sleep=self.sleep, clock=lambda: self.now)


CUT = OSError("no route to host")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([(True, "revert"), CUT, (True, "done revert"), (True, "")], None),
        ([CUT, (True, "done revert"), CUT, (True, "kept")], None),
        ([CUT, CUT, (True, "done reverted")], "cut the connection to iona.*after 6 s.*taken back"),
        ([(True, "done"), (False, "it failed")], "was not kept: it failed"),
        ([CUT], "iona cannot be reached 210 s after.*no route to host.*takes the change back"),
        ([(True, "done"), CUT], "no route to host.*is not known"),
        ([CUT, (True, desk.NOTHING)], "iona is not confirmed: the node was started anew"),
        ([(True, "revert")], "it does not end"),
    ],
    ids=[
        "kept",
        "kept, and the answer lost",
        "cut",
        "failed",
        "gone",
        "gone as it was confirmed",
        "started anew",
        "never ends",
    ],
)
def test_what_the_desk_makes_of_it(answers: list[Any], words: str | None) -> None:
    found = Desk(*answers).confirm()
    if words is None:
        assert found == ""
    else:
        assert "\n" not in found
        assert re.search(words, found), found


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((True, ""), ""),
        ((False, "no timer"), "the network change was not begun: no timer"),
        (ConnectionLost("no sign of life"), ""),
        (TimeoutError(), ""),
        (paramiko.SSHException("closed the channel"), ""),
    ],
    ids=["begun", "refused", "cut before its answer", "no answer", "closed"],
)
def test_a_cut_before_the_answer_is_no_failure_yet(answer: Any, words: str) -> None:
    def run_shell_command(*_: Any, **__: Any) -> Any:
        if isinstance(answer, Exception):
            raise answer
        return answer[0], SimpleNamespace(output=answer[1])

    machine: Any = SimpleNamespace(data={}, run_shell_command=run_shell_command)
    assert desk.begin(machine, ["true"]) == words


def test_what_it_would_do_is_shown() -> None:
    *_, last = desk.reverting([], [], ["nmcli connection up x", "true"])
    assert "nmcli connection up x; true" in command_texts(last)[1]
