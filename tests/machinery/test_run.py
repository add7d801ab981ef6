"""The run drives pyinfra through names that are private to it: they are where they were."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

DEPLOY = """
from pyinfra import host
from pyinfra.api import StringCommand, operation
from homeport.refuse import refuse

@operation()
def step(command):
    if command is None:
        host.noop("as wanted")
        return
    yield command

step(name="one | as wanted", command=None)
step(name="two | changes", command="echo homeport-line; true")
if host.name == "bad":
    step(name="three | refuses", command=refuse("the port is taken", "stop it"))
step(name="four | after", command="true")
"""

DRIVER = """
import sys, json
from pathlib import Path
import pyinfra_cli  # patches the standard library, as pyinfra's own command line does
from homeport import result, run

class Seen(result.Progress):
    steps = []
    def step(self, host, operation, done, total):
        self.steps.append([host, operation, done, total])

made = run.converge(Path(sys.argv[1]), Path(sys.argv[2]), progress=Seen())
print(json.dumps({
    "ok": made.ok,
    "steps": Seen.steps,
    "hosts": {h.name: {
        "changed": [c.operation for c in h.changed],
        "operations": h.operations,
        "failure": h.failure and [h.failure.operation, list(h.failure.words)],
    } for h in made.hosts},
}))
"""


def drive(directory: Path) -> Any:
    """What `DRIVER` says of the inventory and the deploy in `directory`."""
    files = (str(directory / "inventory.py"), str(directory / "deploy.py"))
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_run_says_what_it_did(tmp_path: Path) -> None:
    (tmp_path / "inventory.py").write_text('hosts = ["@local", ]\n')
    (tmp_path / "deploy.py").write_text(DEPLOY.replace('host.name == "bad"', "True"))
    said = drive(tmp_path)
    host = said["hosts"]["@local"]
    assert said["ok"] is False
    assert host["operations"] == 4
    assert host["changed"] == ["two | changes"]
    assert host["failure"] == ["three | refuses", ["the port is taken: stop it"]]
    assert [step[1:] for step in said["steps"]] == [
        ["one | as wanted", 0, 4],
        ["two | changes", 1, 4],
        ["three | refuses", 2, 4],
    ]


def test_a_host_that_is_not_connected_fails_and_stops_no_other(tmp_path: Path) -> None:
    hosts = '[("@ssh/192.0.2.1", {"ssh_key": "/nope"}), "@local"]'
    (tmp_path / "inventory.py").write_text(f"hosts = {hosts}\n")
    (tmp_path / "deploy.py").write_text(DEPLOY)
    said = drive(tmp_path)
    assert said["ok"] is False
    assert said["hosts"]["@local"]["changed"] == ["two | changes", "four | after"]
    words = ["[@ssh/192.0.2.1] No such private key file: /nope"]
    assert said["hosts"]["@ssh/192.0.2.1"]["failure"][1] == words


def test_pyinfra_is_the_version_that_was_read() -> None:
    assert version("pyinfra") == "3.10.0"
