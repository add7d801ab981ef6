"""A watch that runs for weeks does not grow, and leaves no process, file or connection open."""

import sys
from pathlib import Path
from typing import Any

import pytest

from homeport import watch
from homeport.teller import Teller
from tests.drift.hook import Hook

pytestmark = pytest.mark.soak

# A check that is as quick as a process can be: the state alternates, so each one is told.
PROGRAM = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[2]).with_name("count")
count.write_text(count.read_text() + "x")
drift = [{"capability": "caddy", "operation": "x" * 1000}] * (len(count.read_text()) % 2)
host = {"name": "iona", "state": "drift" if drift else "clean", "drift": drift, "failure": None}
pathlib.Path(sys.argv[-1]).write_text(json.dumps({"hosts": [host]}))
"""


def resident() -> int:
    """KiB of memory that this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])


def test_hundreds_of_checks_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(watch, "PROGRAM", (sys.executable, "-Ic", PROGRAM))
    (tmp_path / "count").write_text("")
    hook, inventory = Hook(), tmp_path / "iona.py"
    teller = Teller(inventory, hook.address, every=10)
    figures: list[tuple[int, int, int]] = []

    def look() -> list[dict[str, Any]]:
        return watch.check(inventory, (), ["iona"])

    def wait(seconds: float) -> None:
        hook.got.clear()
        hook.requests.clear()
        files = sum(1 for _ in tmp_path.rglob("*"))
        figures.append((resident(), sum(1 for _ in Path("/proc/self/fd").iterdir()), files))
        if len(figures) == 300:
            raise StopIteration

    with pytest.raises(StopIteration):
        watch.watch(look, teller, wait=wait)
    print(
        "KiB after 1, 50, 100, 200, 300 checks:",
        [figures[n - 1][0] for n in (1, 50, 100, 200, 300)],
    )
    hook.close()
    memory, open_files, files = zip(*figures, strict=True)
    # gevent forgets a child 60 s after its end: a few bytes for each of these.
    assert max(memory[250:]) - max(memory[50:100]) < 512
    assert max(open_files[50:]) == max(open_files[:50])
    assert set(files[1:]) == {files[1]}
