"""Lock-up recovery: what is refused, what is written and put into force, and what is given back."""

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from deploys.lockup_recovery import (
    CONF_FILE,
    SYSCTL_FILE,
    UNIT_FILE,
    LockupRecovery,
    no_sysctls,
    no_watchdog,
    sysctls,
    wanted_files,
    watchdog,
)
from homeport.spec import SpecError
from homeport_node import lockup_recovery as aboard
from homeport_node.common import Ran, describe_file
from tests.operations import THEIRS, Words, as_put, is_refusal, not_ours, yielded

PLAIN = LockupRecovery()
SPEC = LockupRecovery(watchdog_seconds=30, watchdog_module="i6300esb", on_soft_lockup=True)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("panic_seconds", {"panic_seconds": 0}),
        ("panic_seconds", {"panic_seconds": 601}),
        ("watchdog_seconds", {"watchdog_seconds": 9}),
        ("watchdog_seconds", {"watchdog_seconds": 601}),
        ("watchdog_module", {"watchdog_seconds": 30, "watchdog_module": "a b"}),
        ("watchdog_module", {"watchdog_seconds": 30, "watchdog_module": "-r"}),
        ("watchdog_module", {"watchdog_seconds": 30, "watchdog_module": "softdog"}),
        ("watchdog_module", {"watchdog_module": "iTCO_wdt"}),
    ],
)
def test_wrong_input_names_its_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"lockup_recovery\.{field}: .*must"):
        LockupRecovery(**fields)


def test_what_is_written() -> None:
    text = wanted_files(PLAIN)
    assert [*text] == [SYSCTL_FILE]
    assert text[SYSCTL_FILE].splitlines()[1:] == [
        "-kernel.panic = 10",
        "-kernel.nmi_watchdog = 1",
        "-kernel.hardlockup_panic = 1",
        "-kernel.panic_on_oops = 1",
    ]
    text = wanted_files(SPEC)
    assert "-kernel.softlockup_panic = 1" in text[SYSCTL_FILE]
    assert text[CONF_FILE].endswith("[Manager]\nRuntimeWatchdogSec=30\n")
    lines = text[UNIT_FILE].splitlines()
    starts = [line.split()[-1] for line in lines if line.startswith("ExecStart=")]
    assert starts == ["i6300esb", "0", "30000000"]
    without = wanted_files(LockupRecovery(watchdog_seconds=30))[UNIT_FILE]
    assert "modprobe" not in without
    assert LockupRecovery(on_oops=False).sysctls.keys().isdisjoint({"kernel.panic_on_oops"})


# The operations ---------------------------------------------------------------------------------

FILES = wanted_files(SPEC)
AS_WANTED: dict[str, Any] = {
    "files": as_put(FILES),
    "sysctls": SPEC.sysctls,
    "refused": [],
    "record": True,
    "watchdogs": ["i6300ESB timer"],
    "module": True,
    "held": True,
    "seconds": 30,
    "enabled": True,
    "mux": False,
}
BARE: dict[str, Any] = {
    **AS_WANTED,
    "files": {},
    "sysctls": dict.fromkeys(SPEC.sysctls, "0"),
    "record": False,
    "module": False,
    "held": False,
    "seconds": 0,
    "enabled": False,
}
CHANGED = {**AS_WANTED, "sysctls": {**SPEC.sysctls, "kernel.panic": "0"}}
NO_PMU = {**SPEC.sysctls, "kernel.nmi_watchdog": "0"}


@pytest.mark.parametrize(
    ("operation", "observed", "spec", "commands"),
    [
        (sysctls, AS_WANTED, SPEC, []),
        (sysctls, BARE, SPEC, ["_module.set_sysctls(", "FileUpload"]),
        (sysctls, CHANGED, SPEC, ["_module.set_sysctls("]),
        (sysctls, {**AS_WANTED, "left": {"kernel.x": "0"}}, SPEC, ["_module.give_back("]),
        (sysctls, {**AS_WANTED, "files": {}}, SPEC, ["FileUpload"]),
        (sysctls, {**AS_WANTED, "sysctls": dict.fromkeys(SPEC.sysctls)}, SPEC, []),
        (
            sysctls,
            {**AS_WANTED, "sysctls": NO_PMU, "refused": ["kernel.nmi_watchdog"]},
            SPEC,
            [],
        ),
        (sysctls, {**AS_WANTED, "sysctls": NO_PMU}, SPEC, ["_module.set_sysctls("]),
        (watchdog, AS_WANTED, SPEC, []),
        (watchdog, BARE, SPEC, ["FileUpload", "FileUpload", "_module.hold("]),
        (watchdog, {**AS_WANTED, "held": False}, SPEC, ["_module.hold("]),
        (watchdog, {**AS_WANTED, "seconds": 60}, SPEC, ["_module.hold("]),
        (watchdog, {**AS_WANTED, "enabled": False}, SPEC, ["_module.hold("]),
        (no_watchdog, BARE, None, []),
        (no_watchdog, AS_WANTED, None, ["_module.let_go("]),
        (no_sysctls, BARE, None, []),
        (no_sysctls, AS_WANTED, None, ["_module.restore("]),
        (no_sysctls, {**BARE, "record": True}, None, ["_module.restore("]),
    ],
)
def test_operations(
    operation: Any, observed: dict[str, Any], spec: LockupRecovery | None, commands: list[str]
) -> None:
    found = yielded(operation, observed, **({"spec": spec} if spec else {}))
    assert len(found) == len(commands), found
    for one, part in zip(found, commands, strict=True):
        assert part in one


def test_only_what_differs_is_set() -> None:
    (command,) = yielded(sysctls, CHANGED, spec=SPEC)
    assert json.dumps({"values": {"kernel.panic": "10"}}) in command


def test_one_device_has_one_keeper() -> None:
    (refusal,) = yielded(watchdog, {**BARE, "mux": True}, spec=SPEC)
    assert is_refusal(refusal)
    assert "WATCHDOG_MODULE" in refusal


# Aboard -----------------------------------------------------------------------------------------


@pytest.fixture
def kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A kernel with two sysctls, in a folder."""
    for name in ("CMDLINE", "SYSCTLS", "RECORD", "CLASS", "MODULES", "MANAGER_FILES"):
        monkeypatch.setattr(aboard, name, tmp_path / name)
    (tmp_path / "SYSCTLS/kernel").mkdir(parents=True)
    (tmp_path / "SYSCTLS/kernel/panic").write_text("0\n")
    (tmp_path / "SYSCTLS/kernel/nmi_watchdog").write_text("0\n")
    monkeypatch.setattr(aboard, "run", lambda *_, **__: Ran(0, "", ""))
    return tmp_path


def test_what_was_in_force_before_is_given_back(kernel: Path) -> None:
    file = kernel / "90.conf"
    file.touch()
    for value in ("10", "20"):
        assert aboard.set_sysctls({"kernel.panic": value}) is None
        assert (kernel / "SYSCTLS/kernel/panic").read_text() == f"{value}\n"
    assert aboard.restore(str(file)) is None
    assert (kernel / "SYSCTLS/kernel/panic").read_text() == "0\n"
    assert not file.exists()
    assert not aboard.RECORD.exists()


def test_what_is_asked_for_no_more_is_given_back(kernel: Path) -> None:
    asked = ["kernel.panic", "kernel.nmi_watchdog"]
    assert aboard.set_sysctls({"kernel.panic": "10", "kernel.nmi_watchdog": "1"}) is None
    assert aboard.observe([], asked, "")["left"] == {}
    left = aboard.observe([], asked[:1], "")["left"]
    assert left == {"kernel.nmi_watchdog": "0"}
    assert aboard.give_back([*left]) is None
    assert (kernel / "SYSCTLS/kernel/nmi_watchdog").read_text() == "0\n"
    assert (kernel / "SYSCTLS/kernel/panic").read_text() == "10\n"
    assert aboard.observe([], asked[:1], "")["left"] == {}


@pytest.mark.parametrize(
    ("arguments", "before"),
    [("quiet homeport.trial=1 panic=30", "0"), ("panic=5 homeport.trial=1 panic=30", "5")],
)
def test_the_panic_of_a_trial_is_not_what_was_before(
    kernel: Path, arguments: str, before: str
) -> None:
    aboard.CMDLINE.write_text(arguments)
    (kernel / "SYSCTLS/kernel/panic").write_text("30\n")
    assert aboard.set_sysctls({"kernel.panic": "10"}) is None
    assert aboard.restore(str(kernel / "file")) is None
    assert (kernel / "SYSCTLS/kernel/panic").read_text() == f"{before}\n"


@pytest.mark.parametrize("code", [aboard.ENOTSUPP, errno.EOPNOTSUPP, errno.EACCES])
def test_what_the_kernel_refuses_is_said_and_remembered_for_this_kernel(
    code: int, kernel: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write = Path.write_text

    def refusing(path: Path, text: str) -> int:
        if path.name == "nmi_watchdog":
            raise OSError(code, "refused")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", refusing)
    assert aboard.set_sysctls({"kernel.nmi_watchdog": "1", "kernel.panic": "10"}) is None
    assert "kernel.nmi_watchdog=1 is not in force" in capsys.readouterr().out
    assert (kernel / "SYSCTLS/kernel/panic").read_text() == "10\n"
    assert aboard.refused() == ["kernel.nmi_watchdog"]
    release = os.uname()
    monkeypatch.setattr(os, "uname", lambda: type(release)(("Linux", "x", "7.0", "y", "z")))
    assert aboard.refused() == []


def test_a_sysctl_that_fails_otherwise_is_a_fault(
    kernel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (kernel / "SYSCTLS/kernel/panic").unlink()
    (kernel / "SYSCTLS/kernel/panic").mkdir()
    both = {"kernel.nmi_watchdog": "1", "kernel.panic": "10"}
    assert aboard.set_sysctls(both) == "kernel.panic: Is a directory"
    # What was set before it failed can be given back.
    assert (kernel / "SYSCTLS/kernel/nmi_watchdog").read_text() == "1\n"
    assert aboard.give_back(["kernel.nmi_watchdog"]) is None
    assert (kernel / "SYSCTLS/kernel/nmi_watchdog").read_text() == "0\n"


def test_what_is_observed(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (aboard.CLASS / "watchdog0").mkdir(parents=True)
    (aboard.CLASS / "watchdog0/identity").write_text("i6300ESB timer\n")
    (aboard.MODULES / "i6300esb").mkdir(parents=True)
    aboard.MANAGER_FILES.mkdir()
    (aboard.MANAGER_FILES / "5").symlink_to("/dev/watchdog0")

    monkeypatch.setattr(aboard, "run", lambda *_: Ran(0, "t 30000000\n", ""))
    state = {"ActiveState": "active", "UnitFileState": "enabled", "DropInPaths": ""}
    monkeypatch.setattr(
        aboard, "show_units", lambda *names: {name: {"Id": name, **state} for name in names}
    )
    file = kernel / "file"
    file.write_text("text")
    names = ["kernel.panic", "kernel.softlockup_panic"]
    found = aboard.observe([str(file), "/none"], names, "i6300esb")
    assert found == {
        "files": {str(file): describe_file(file)},
        "sysctls": {"kernel.panic": "0", "kernel.softlockup_panic": None},
        "refused": [],
        "record": False,
        "left": {},
        "watchdogs": ["i6300ESB timer"],
        "module": True,
        "held": True,
        "seconds": 30,
        "enabled": True,
        "dropins": [],
        "mux": True,
    }


@pytest.mark.parametrize(
    ("said", "seconds"), [("t 0", 0), ("t 18446744073709551615", 0), ("", 0), ("t 30000000", 30)]
)
def test_how_long_the_watchdog_waits(
    monkeypatch: pytest.MonkeyPatch, said: str, seconds: int
) -> None:
    monkeypatch.setattr(aboard, "run", lambda *_: Ran(0, said, ""))
    assert aboard.watchdog_seconds() == seconds


def test_a_machine_without_a_watchdog_is_named(kernel: Path) -> None:
    assert aboard.hold("i6300esb") == (
        f"systemd holds no watchdog: i6300esb is loaded, and {aboard.CLASS} has no device"
    )


@pytest.mark.parametrize("module", ["i6300esb", None])
def test_what_the_unit_loaded_is_unloaded(
    kernel: Path, monkeypatch: pytest.MonkeyPatch, module: str | None
) -> None:
    spec = LockupRecovery(watchdog_seconds=30, watchdog_module=module)
    file, conf = kernel / "unit", kernel / "conf"
    file.write_text(wanted_files(spec)[UNIT_FILE])
    ran: list[tuple[str, ...]] = []

    def run(*words: str, **_: Any) -> Ran:
        ran.append(words)
        return Ran(0, "", "")

    monkeypatch.setattr(aboard, "run", run)
    assert aboard.let_go(str(file), str(conf)) is None
    assert not file.exists()
    unloaded = [("modprobe", "-r", module)] if module else []
    assert [words for words in ran if words[0] == "modprobe"] == unloaded


def test_a_unit_that_fails_says_why(kernel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"restart": Ran(1, "", "failed"), "-u": Ran(0, "Module x not found", "")}
    monkeypatch.setattr(aboard, "run", lambda *words, **_: answers.get(words[1], Ran(0, "", "")))
    assert "Module x not found" in (aboard.hold("x") or "")


# What drift says --------------------------------------------------------------------------------


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


HELD = "watchdog: held by systemd, 30 s, at every boot"
WORDS: list[Words] = [
    # A sysctl changed at run time.
    (sysctls, [CHANGED], {"spec": SPEC}, [("kernel.panic = 10", "0")]),
    (
        sysctls,
        [{**CHANGED, "files": as_put({SYSCTL_FILE: "x"})}],
        {"spec": SPEC},
        [
            (
                f"{SYSCTL_FILE}: sha256 {_short(FILES[SYSCTL_FILE])}",
                f"sha256 {_short('x')}",
            ),
            ("kernel.panic = 10", "0"),
        ],
    ),
    (
        watchdog,
        [{**AS_WANTED, "held": False}],
        {"spec": SPEC},
        [(HELD, "not held by systemd")],
    ),
    (
        watchdog,
        [
            {
                **AS_WANTED,
                "files": as_put({**FILES, CONF_FILE: "x"}),
                "seconds": 60,
                "enabled": False,
            }
        ],
        {"spec": SPEC},
        [
            (f"{CONF_FILE}: sha256 {_short(FILES[CONF_FILE])}", f"sha256 {_short('x')}"),
            (HELD, "held, 60 s, homeport-watchdog.service not enabled"),
        ],
    ),
    (
        watchdog,
        [{**AS_WANTED, "dropins": [THEIRS]}],
        {"spec": SPEC},
        [not_ours(aboard.UNIT)],
    ),
    (
        no_watchdog,
        [AS_WANTED],
        {},
        [(f"{path}: no such file", "a file of ours") for path in (CONF_FILE, UNIT_FILE)],
    ),
    (no_sysctls, [AS_WANTED], {}, [(f"{SYSCTL_FILE}: no such file", "a file of ours")]),
]
