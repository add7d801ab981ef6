"""Reboot: why, whether, and how long it is waited for."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from deploys.reboot import patience, rebooted, wait
from homeport import connector, waiting
from homeport.cli import main
from homeport.report import PROGRESS, console, print_result, result_json
from homeport.result import HostResult, RunResult
from homeport.spec import SpecError
from homeport_node import kernel_cmdline as command_line
from homeport_node import reboot as aboard
from tests.machinery.small_sshd import small_sshd, write_key
from tests.operations import Words, is_refusal, yielded

NAMES = ("inventory", "deploy")
NOTHING: dict[str, Any] = {"released": [], "iommu": False, "cards": {}}
WAITS = {
    "boot_id": "boot-1",
    "reasons": {"kernel_cmdline": "the command line to be tried: iommu=pt"},
    "faults": {},
}
A_CARD = {**NOTHING, "released": ["0000:01:00.0"]}
REASONS = {
    "kernel_cmdline": "the command line to be tried: iommu=pt",
    "vfio": "0000:01:00.0 is still with vfio-pci",
}


@pytest.mark.parametrize(
    ("given", "may"), [({}, True), ({"reboot": "auto"}, True), ({"reboot": "never"}, False)]
)
def test_a_run_may_reboot_unless_it_is_told_never(given: dict[str, str], may: bool) -> None:
    assert waiting.may_reboot(given) is may


@pytest.mark.parametrize(
    "given",
    [
        {"reboot": "no"},
        {"reboot_timeout": "59"},
        {"reboot_timeout": "7201"},
        {"reboot_timeout": "long"},
    ],
)
def test_wrong_data_is_refused(given: dict[str, str]) -> None:
    with pytest.raises(SpecError, match=r"--data reboot.*must be"):
        _ = (waiting.may_reboot(given), patience(given))


@pytest.mark.parametrize("data", ["reboot=no", "reboot", "reboots=never", "reboot_timeout=x"])
def test_wrong_data_dies_before_any_connection(data: str) -> None:
    done = CliRunner().invoke(main, ["converge", "inventory/none.py", "--data", data])
    assert done.exit_code == 1
    assert "must be" in done.output


# The operation ----------------------------------------------------------------------------------


def test_without_a_reason_there_is_no_reboot() -> None:
    assert yielded(rebooted, {"reasons": {}}, NOTHING, may=True, seconds=900, vfio=None) == []


def test_one_reboot_for_all_reasons_announced_and_waited_for() -> None:
    said, command, back = yielded(rebooted, WAITS, A_CARD, may=True, seconds=900, vfio=None)
    assert (
        "reboots, for kernel_cmdline: the command line to be tried: iommu=pt; vfio: 0000:01" in said
    )
    assert "systemctl reboot" in command
    assert "'boot-1', 900" in back


def test_never_names_what_waits() -> None:
    waiting.begin()
    assert yielded(rebooted, WAITS, A_CARD, may=False, seconds=900, vfio=None) == []
    assert [*waiting.waiting("a node")] == [*REASONS.items()]


def test_no_reboot_into_what_the_boot_menu_does_not_know() -> None:
    faults = {"kernel_cmdline": "the next boot is not marked"}
    waits = {**WAITS, "faults": faults}
    (refusal,) = yielded(rebooted, waits, NOTHING, may=True, seconds=900, vfio=None)
    assert is_refusal(refusal)
    assert "kernel_cmdline: the next boot is not marked" in refusal


def test_the_end_of_the_run_names_what_waits() -> None:
    one = waiting.Waiting("vfio", "the card left has another driver")
    result = RunResult(hosts=[HostResult(name="iona", waiting=(one,))])
    with console.capture() as shown:
        print_result(result, "bin/homeport converge i.py")
    assert "waits for a reboot  iona: vfio: the card left has another driver" in shown.get()
    (host,) = result_json("i.py", result)["hosts"]
    assert host["waiting"] == [{"capability": one.capability, "words": one.words}]


# Waiting ----------------------------------------------------------------------------------------


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def _waited(answers: list[Any], seconds: float = 60) -> tuple[str, float]:
    """What comes of waiting for a node that answers each attempt so, and how long it took."""
    clock = _Clock()
    data = SimpleNamespace(ssh_user="root", ssh_hostname="192.0.2.1", ssh_port=22)
    machine: Any = SimpleNamespace(name="iona", data=data)

    def attempt(_: Any) -> str:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            clock.now += 5
            raise answer
        return str(answer)

    words = wait(machine, "boot-1", seconds, attempt=attempt, sleep=clock.sleep, clock=clock)
    return words, clock.now


def test_the_node_is_back_when_it_answers_in_another_boot() -> None:
    refused = OSError("refused")
    assert _waited(["boot-1", "boot-1", refused, EOFError(), "", "boot-2"]) == ("", 28)


@pytest.mark.parametrize(
    ("answer", "words"),
    [("boot-1", "it has not gone down"), (TimeoutError("no banner"), "TimeoutError: no banner")],
)
def test_the_deadline_is_one_of_the_clock_on_the_wall(answer: Any, words: str) -> None:
    said, took = _waited([answer])
    assert 60 <= took <= 68
    assert words in said
    assert "did not come back within 60 s" in said
    assert "`ssh -p 22 root@192.0.2.1`" in said


def test_how_long_it_takes_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    show: Callable[[str, str], None] = lambda _, line: lines.append(line)  # noqa: E731
    monkeypatch.setattr(connector, "on_line", show)
    _waited(["boot-1", "boot-2"])
    shown = [json.loads(line.removeprefix(PROGRESS)) for line in lines]
    assert [(one["done"], one["total"], one["unit"]) for one in shown] == [
        (3, 60, "s"),
        (6, 60, "s"),
    ]


NODE = """
import sys
import pyinfra_cli
from types import SimpleNamespace
from homeport import result, run
from pathlib import Path

class Seen(result.Progress):
    def line(self, host, line):
        print(line, flush=True)

made = run.converge(Path(sys.argv[1]), Path(sys.argv[2]), progress=Seen())
print([h.failure for h in made.hosts], made.ok)
"""
INVENTORY = """
hosts = [("@homeport/iona", {{
    "ssh_hostname": "127.0.0.1", "ssh_port": {port}, "ssh_user": "root", "ssh_key": {key!r},
    "ssh_known_hosts_file": {known!r}, "ssh_strict_host_key_checking": "yes",
}})]
"""
DEPLOY = """
from pyinfra.api import FunctionCommand, StringCommand, operation
from deploys import reboot

reboot.BOOT_ID = {boot_id!r}
reboot.PAUSE = 0.2

@operation()
def goes_down():
    yield StringCommand("( sleep 1; echo boot-2 > {boot_id} ) </dev/null >/dev/null 2>&1 &")
    yield FunctionCommand(reboot._back, ("boot-1", {seconds}), {{}})
    yield StringCommand("echo homeport-says after {boot_id}")

goes_down(name="goes down")
"""


@pytest.mark.parametrize(("seconds", "ok"), [(30, True), (0.5, False)])
def test_a_run_goes_on_over_a_new_connection(tmp_path: Path, seconds: float, ok: bool) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("boot-1\n")
    with small_sshd() as way:
        known = tmp_path / "known_hosts"
        known.write_text(f"[127.0.0.1]:{way.port} {way.host_key}\n")
        places = {"port": way.port, "key": str(write_key(tmp_path)), "known": str(known)}
        (tmp_path / "inventory.py").write_text(INVENTORY.format(**places))
        deploy = DEPLOY.format(boot_id=str(boot_id), seconds=seconds)
        (tmp_path / "deploy.py").write_text(deploy)
        done = subprocess.run(
            [sys.executable, "-c", NODE, *(str(tmp_path / f"{n}.py") for n in NAMES)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    assert done.stdout.splitlines()[-1].endswith(str(ok)), done.stdout + done.stderr
    assert ("homeport-says iona: is back after" in done.stdout) is ok
    assert (f"homeport-says after {boot_id}" in done.stdout) is ok
    assert ("iona did not come back within 0.5 s" in done.stdout) is not ok


# Aboard -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("staged", "marked", "reasons", "faults"),
    [
        (None, False, {}, {}),
        ("{", False, {}, {}),
        ({"boot_id": "boot-0", "parameters": ["a"]}, False, {}, {}),
        (
            {"boot_id": "boot-1", "parameters": ["a", "b=c"]},
            True,
            {"kernel_cmdline": "the command line to be tried: a b=c"},
            {},
        ),
        (
            {"boot_id": "boot-1", "parameters": []},
            False,
            {"kernel_cmdline": "the command line to be tried: nothing of ours"},
            {"kernel_cmdline": "the next boot is not marked to be the trial"},
        ),
    ],
)
def test_a_trial_that_was_staged_in_this_boot_is_a_reason(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    staged: Any,
    marked: bool,
    reasons: dict[str, str],
    faults: dict[str, str],
) -> None:
    monkeypatch.setattr(aboard, "BOOT_ID", tmp_path / "boot_id")
    monkeypatch.setattr(command_line, "RECORD", tmp_path / "record")
    boot = SimpleNamespace(marked=lambda: marked)
    monkeypatch.setattr(command_line, "boot_loader", lambda: boot)
    aboard.BOOT_ID.write_text("boot-1\n")
    if staged is not None:
        command_line.RECORD.write_text(staged if isinstance(staged, str) else json.dumps(staged))
    assert aboard.observe() == {"boot_id": "boot-1", "reasons": reasons, "faults": faults}


# What drift says --------------------------------------------------------------------------------

WORDS: list[Words] = [
    (
        rebooted,
        [WAITS, A_CARD],
        {"may": True, "seconds": 900, "vfio": None},
        [
            (
                "kernel_cmdline: in force",
                "waits for a reboot: the command line to be tried: iommu=pt",
            ),
            ("vfio: in force", "waits for a reboot: 0000:01:00.0 is still with vfio-pci"),
        ],
    ),
]
