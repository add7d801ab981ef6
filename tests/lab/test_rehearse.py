"""The rehearsal's own judgement: what it takes for a failure, and what it leaves behind."""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from homeport import report
from homeport.lab import LabError, StepFailed, desk, evidence, rehearse
from homeport.lock import Lock, LockedFile, LockedRepo

INVENTORY = Path("inventory/iona.py")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.fixture
def rehearsed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[rehearse.Rehearsal, list[str]]]:
    """Rehearse on a stage that only says so: the result, and the lines that were printed."""

    def run(
        lock: Exception | None = None, stage: Exception | None = None, keep: bool = False
    ) -> tuple[rehearse.Rehearsal, list[str]]:
        place = tmp_path / "stage"
        (place / "iona").mkdir(parents=True, exist_ok=True)
        (place / "iona" / "console.log").write_text("Kernel panic\r\n")
        machine = SimpleNamespace(
            name="iona",
            journal=lambda lines: "a unit failed",
            succeed=lambda command: "Python 3.13.5\nDebian GNU/Linux 13 (trixie)",
            ssh_key="key",
            address="192.0.2.1",
        )
        made = SimpleNamespace(
            directory=place,
            machines={"iona": machine},
            engine=SimpleNamespace(keep=lambda: None),
            targets="targets",
            lock="lock",
            inventory=INVENTORY,
        )

        @contextmanager
        def staged(*_: object, **__: object) -> Iterator[Any]:
            if stage:
                raise stage
            yield made

        def steps(on: Any) -> str:
            raise lock or StepFailed("the lock failed")

        monkeypatch.setattr(rehearse, "stage", staged)
        monkeypatch.setattr(rehearse, "_lock", steps)
        with report.console.capture() as printed:
            result = rehearse.rehearse(INVENTORY, on="machine", keep=keep)
        return result, printed.get().strip().splitlines()

    return run


def test_what_a_failed_rehearsal_s_machines_said_is_kept(rehearsed: Any) -> None:
    result, printed = rehearsed()
    log = evidence.place("iona", "machine")
    kept = log.read_text()
    assert all(words in kept for words in ("the lock failed", "a unit failed", "Kernel panic\n"))
    assert not result.ok
    assert result.steps[0].said == "Python 3.13.5, Debian GNU/Linux 13 (trixie); ssh answers"
    assert str(log) in printed[-2]
    assert printed[-1].endswith("bin/homeport rehearse inventory/iona.py --on machine --keep")


def test_a_machine_that_was_kept_is_not_to_be_kept(rehearsed: Any) -> None:
    _, printed = rehearsed(keep=True)
    assert "kept: ssh -i key root@192.0.2.1" in "\n".join(printed)
    assert not any("--keep" in line for line in printed)
    assert "What its machines said" in printed[-1]


@pytest.mark.parametrize("error", [LabError("no"), ValueError("psk is too short"), KeyError("x")])
def test_whatever_a_step_raises_is_its_failure(rehearsed: Any, error: Exception) -> None:
    result, _ = rehearsed(lock=error)
    assert [step.ok for step in result.steps] == [True, False]
    assert str(error) in result.steps[-1].said
    assert result.to_json()["ok"] is False
    assert ("test_rehearse.py" in result.steps[-1].said) != isinstance(error, LabError)


def test_a_lab_that_does_not_come_up_is_a_failed_rehearsal(rehearsed: Any) -> None:
    old = evidence.place("iona", "machine")
    old.write_text("of another day")
    result, printed = rehearsed(stage=LabError("there is no docker here: install it"))
    assert result.to_json()["ok"] is False
    assert result.steps[0].said == "there is no docker here: install it"
    assert "--keep" not in "\n".join(printed)  # there was nothing to keep
    assert not old.exists()


@pytest.mark.parametrize("code", [0, 1])
def test_what_a_failed_pyinfra_prints_is_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    done = subprocess.CompletedProcess("pyinfra", code, "", "no connection")
    monkeypatch.setattr(desk, "pyinfra", lambda on, *words: done)
    on: Any = SimpleNamespace(lock=file, targets=file, machines={})
    if code == 0:
        assert desk.places(on)["pyinfra --dry -vvv"] == "no connection"
        return
    with pytest.raises(StepFailed, match=r"pyinfra --dry -vvv exited 1\nno connection"):
        desk.places(on)


def test_a_lock_is_told_by_what_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = tmp_path / "iona.lock"
    repo = LockedRepo(commit="c", patterns=(), files=(LockedFile(path="a", size=1, sha256="s"),))
    lock.write_text(Lock(images={"x:1": "sha256:0"}, repos={"a/b@main": repo}).to_json())
    done = subprocess.CompletedProcess("lock", 0, "", "")
    monkeypatch.setattr(desk, "homeport", lambda on, *words: done)
    on: Any = SimpleNamespace(inventory=INVENTORY, lock=lock)
    assert rehearse._lock(on) == "1 images by digest, 1 files of models by commit and sha256"
