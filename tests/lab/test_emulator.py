"""What the lab says of an emulator that ends, and how it is started; without one."""

import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from homeport.lab import LabError
from homeport.lab.engine import Engine
from homeport.lab.stage import stage
from homeport.lab.vm import disk, emulator
from homeport.lab.vm.agent import Agent, AgentGone
from homeport.lab.vm.emulator import KVM, EmulatorEnded, Hardware, require_running
from homeport.lab.vm.machine import VirtualMachine, command_line


class Daemon:
    """An engine with one container, whose `state` is "running exit-status out-of-memory"."""

    def __init__(self, state: str) -> None:
        self.state = state

    def docker(self, *words: str, timeout: float = 600) -> str:
        return self.state if words[0] == "inspect" else ""

    def run(self, *words: str, timeout: float = 600) -> "subprocess.CompletedProcess[bytes]":
        log = b"qemu: cannot set up guest memory" if words[0] == "logs" else b""
        return subprocess.CompletedProcess(words, 0, log, b"")


def machine(directory: Path, state: str) -> VirtualMachine:
    """A virtual machine that has been switched on, and has no agent."""
    made = VirtualMachine(
        directory=directory,
        engine=cast(Engine, Daemon(state)),
        name="box",
        container="lab-box",
        address="10.214.1.12",
        host_key="",
        ssh_key=directory / "key",
    )
    made.power_on()
    return made


def test_an_emulator_that_ended_is_told_at_once_with_its_words(tmp_path: Path) -> None:
    made, began = machine(tmp_path, "false 1 false"), time.monotonic()
    words = r"lab-box: QEMU has ended \(exit 1\)\nqemu: cannot set up guest memory"
    with pytest.raises(EmulatorEnded, match=words):
        made.wait_until("true")
    with pytest.raises(EmulatorEnded):
        made.wait_for_another_boot("a boot id")
    assert time.monotonic() - began < 2


@pytest.mark.parametrize("state", ["false 1 true", "false 137 false"])
def test_one_that_was_killed_asks_for_memory(state: str) -> None:
    with pytest.raises(EmulatorEnded, match="is there enough memory"):
        require_running(cast(Engine, Daemon(state)), "lab-box")


def test_a_machine_on_its_way_up_is_waited_for(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="the machine is off") as caught:
        machine(tmp_path, "true 0 false").wait_until("true", timeout=0.1)
    assert not isinstance(caught.value, EmulatorEnded)


def test_a_machine_that_was_switched_off_is_off(tmp_path: Path) -> None:
    made = machine(tmp_path, "false 137 false")
    made.power_cut()
    with pytest.raises(AgentGone):
        made.run("true")


def test_a_disk_s_emulator_that_ended_is_not_waited_for(tmp_path: Path) -> None:
    engine = cast(Engine, Daemon("false 1 false"))
    with pytest.raises(EmulatorEnded):
        disk._wait_for_agent(
            Agent(tmp_path / "agent"), tmp_path, lambda: require_running(engine, "lab-disk"), 5
        )


def test_a_full_host_is_told_to_the_guest() -> None:
    words = command_line(Hardware(), KVM, "10.214.1.12").split()
    (drive,) = (word for word in words if word.startswith("file="))
    assert ",werror=report" in drive


@pytest.mark.parametrize(
    ("architecture", "free", "words"),
    [
        ("aarch64", 100, "need an x86_64 host, and this is aarch64"),
        ("x86_64", 2, r"2\.0 GiB are free, and a virtual machine needs \d+ GiB"),
    ],
)
def test_a_host_that_cannot_carry_a_machine_is_told_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str, free: int, words: str
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("os.uname", lambda: SimpleNamespace(machine=architecture))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free << 30))
    monkeypatch.setattr("homeport.lab.stage.unbound", lambda inventory: {})
    monkeypatch.setattr("homeport.lab.engine.engine", lambda progress: pytest.fail("a lab began"))
    with pytest.raises(LabError, match=words), stage(Path("box.py"), on="machine"):
        pass


def test_a_kvm_that_hangs_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Hanging(Daemon):
        labels: tuple[str, ...] = ()

        def run(self, *words: str, timeout: float = 600) -> "subprocess.CompletedProcess[bytes]":
            raise LabError(f"docker {words[0]}: no end within {timeout:g} s")

    monkeypatch.setattr(emulator, "image", lambda engine, progress: "image")
    monkeypatch.setattr(Path, "exists", lambda path: True)
    kernel = tmp_path / "vmlinuz"
    assert emulator.acceleration(cast(Engine, Hanging("")), kernel) == emulator.TRANSLATING
