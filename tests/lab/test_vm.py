"""What speaks with a virtual machine, without one."""

import base64
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from homeport.lab import LabError
from homeport.lab.vm.agent import SENTINEL, Agent, AgentGone
from homeport.lab.vm.emulator import Hardware
from homeport.lab.vm.machine import command_line, placed


class Guest:
    """A stand-in for QEMU's guest agent: answers on a socket as the protocol has it.

    `before` is what an earlier connection has left in the channel.
    """

    def __init__(self, path: Path, before: bytes = b"") -> None:
        self.before = before
        self.asked: list[dict[str, Any]] = []
        self.polls = 0
        self.forgets = False
        self.more: dict[str, Any] = {}
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen()
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            with connection, connection.makefile("rwb") as stream:
                connection.sendall(self.before)
                for line in stream:
                    request = json.loads(line.lstrip(SENTINEL))
                    self.asked.append(request)
                    answer = self.answer(request["execute"], request.get("arguments", {}))
                    mark = SENTINEL if "sync" in request["execute"] else b""
                    stream.write(mark + json.dumps(answer).encode() + b"\n")
                    stream.flush()

    def answer(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if command == "guest-sync-delimited":
            return {"return": arguments["id"]}
        if command == "guest-exec":
            if arguments["arg"][1] == "forbidden":
                return {"error": {"desc": "command forbidden"}}
            return {"return": {"pid": 7}}
        self.polls += 1
        if self.forgets:
            return {"error": {"desc": "PID ld does not exist"}}
        if self.polls < 3:
            return {"return": {"exited": False}}
        out = base64.b64encode(b"said").decode()
        return {"return": {"exited": True, "exitcode": 3, "out-data": out, **self.more}}


def test_a_command_is_run_and_waited_for(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "agent", before=b'{"return": {}}\n{"return": 1')
    assert Agent(tmp_path / "agent").run("words", stdin=b"given") == (3, b"said", b"")
    asked = guest.asked[1]["arguments"]
    assert asked["arg"] == ["-c", "words"]
    assert base64.b64decode(asked["input-data"]) == b"given"


def test_what_the_agent_refuses_and_a_machine_that_is_off(tmp_path: Path) -> None:
    Guest(tmp_path / "agent")
    with pytest.raises(LabError, match="command forbidden"):
        Agent(tmp_path / "agent").run("forbidden")
    with pytest.raises(AgentGone, match="the machine is off"):
        Agent(tmp_path / "nobody").run("true")
    assert not Agent(tmp_path / "nobody").alive()


def test_a_guest_that_hangs_is_gone_in_time(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "agent"))
        listener.listen()
        assert not Agent(tmp_path / "agent").alive(timeout=0.1)


def test_a_command_without_an_end_is_given_up(tmp_path: Path) -> None:
    guest = Guest(tmp_path / "agent")
    guest.polls = -1000
    with pytest.raises(LabError, match="no end within 0.1 s"):
        Agent(tmp_path / "agent").run("sleep", timeout=0.1)


def test_a_reboot_while_a_command_is_waited_for_is_a_machine_that_is_gone(tmp_path: Path) -> None:
    Guest(tmp_path / "agent").forgets = True
    with pytest.raises(AgentGone, match="the machine booted"):
        Agent(tmp_path / "agent").run("systemctl reboot")


@pytest.mark.parametrize("of", ["out", "err"])
def test_half_an_answer_is_none(tmp_path: Path, of: str) -> None:
    Guest(tmp_path / "agent").more = {f"{of}-truncated": True}
    with pytest.raises(LabError, match="journalctl: said more than"):
        Agent(tmp_path / "agent").run("journalctl")


def test_cards_are_told_as_a_probe_tells_them() -> None:
    bare, shifted = Hardware(), Hardware(port_before=True)
    assert bare.card(1)["address"] == "0000:02:00.0"
    assert shifted.card(1)["address"] == "0000:03:00.0"
    assert bare.card(1)["place"] == shifted.card(1)["place"] == "pci0000:00/09.0/00.0"


def test_the_files_of_a_container_are_placed_for_a_machine() -> None:
    lab = "/usr/lib/lab-machine"
    files = {f"{lab}/power-on": (b"", 0o755), f"{lab}/hosts": (b"h", 0o644), "/a": (b"", 0o600)}
    servers = (b"nameserver 192.0.2.53\n", 0o644)
    files[f"{lab}/resolv.conf"] = servers
    there = placed(files)
    assert there == {"/etc/hosts": (b"h", 0o644), "/a": (b"", 0o600), "/etc/resolv.conf": servers}


def test_a_machine_always_has_a_name_server() -> None:
    assert b"nameserver 8.8.8.8\n" in placed({})["/etc/resolv.conf"][0]


def test_a_machine_without_kvm_has_the_same_devices() -> None:
    from homeport.lab.vm.emulator import KVM, TRANSLATING

    address = "10.214.1.12"
    one, other = (command_line(Hardware(), how, address).split() for how in (KVM, TRANSLATING))
    assert set(one) ^ set(other) == {*KVM, *TRANSLATING} - {"-accel", "-cpu"}


def test_each_machine_has_a_card_of_its_own() -> None:
    cards = {
        word.partition("mac=")[2].partition(",")[0]
        for address in ("10.214.1.12", "10.214.1.13")
        for word in command_line(Hardware(second_nic=False), (), address).split()
        if "mac=" in word
    }
    assert cards == {"52:54:00:d6:01:0c", "52:54:00:d6:01:0d"}
