"""A connection that breaks: the run ends, exits with the cause, and says what to type."""

import errno
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from homeport import alive
from homeport.report import console, print_result
from homeport.result import Failure, HostResult, RunResult
from homeport.spec import SpecError
from tests.machinery.small_sshd import Way, host_data, small_sshd, write_key
from tests.machinery.test_run import DRIVER

DEPLOY = """
from pyinfra.api import StringCommand, operation

@operation()
def step(command):
    yield StringCommand(command)

step(name="Quick | works", command="true")
step(name="Slow | takes long", command="touch {begun}; sleep 30")
step(name="Later | is not reached", command="true")
"""


@pytest.fixture
def way() -> Iterator[Way]:
    with small_sshd() as made:
        yield made


@pytest.fixture
def client(way: Way, tmp_path: Path) -> Iterator[paramiko.SSHClient]:
    made = paramiko.SSHClient()
    made.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = str(write_key(tmp_path))
    made.connect("127.0.0.1", way.port, "kim", key_filename=key, allow_agent=False)
    yield made
    made.close()


def test_a_command_that_is_cut_off_fails_the_run_in_words(way: Way, tmp_path: Path) -> None:
    begun, data = tmp_path / "begun", host_data(way, tmp_path)
    (tmp_path / "inventory.py").write_text(f"hosts = [('@homeport/far', {data!r})]\n")
    (tmp_path / "deploy.py").write_text(DEPLOY.format(begun=begun))
    with subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "inventory.py"), str(tmp_path / "deploy.py")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        deadline = time.monotonic() + 20
        while not begun.exists():
            assert time.monotonic() < deadline, "the slow step did not begin"
            time.sleep(0.02)
        way.reset()
        output, errors = run.communicate(timeout=20)
    assert run.returncode == 0, errors
    host = json.loads(output.splitlines()[-1])["hosts"]["far"]
    operation, words = host["failure"]
    assert operation == "Slow | takes long"
    assert words == [
        "the connection to 127.0.0.1 broke: connection reset by peer. What was begun there may "
        "still go on; the next converge waits for that, and goes on from there"
    ]
    assert "Traceback" not in errors


def test_a_node_that_gives_no_sign_of_life_is_given_up(
    way: Way, client: paramiko.SSHClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies between acknowledges every byte, as a jump host does: only sshd can tell."""
    monkeypatch.setattr(alive, "KEEPALIVE", 0.05)
    monkeypatch.setattr(alive, "peer_timeout", lambda: 0.3)
    alive.keep_alive(client)
    time.sleep(0.5)
    assert alive.why_lost(client.get_transport()) == "", "a node that answers was given up"
    _, output, _ = client.exec_command("sleep 30")
    way.silent = True
    began = time.monotonic()
    assert output.channel.recv_exit_status() == -1
    assert time.monotonic() - began < 5
    with pytest.raises(alive.ConnectionLost, match="far broke: no sign of life for 0.3 s"):
        alive.check(client, "far")


@pytest.mark.parametrize("given", ["0", "-3", "soon", "1.5"])
def test_nonsense_for_the_patience_is_refused(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEPORT_PEER_TIMEOUT", given)
    with pytest.raises(SpecError, match="HOMEPORT_PEER_TIMEOUT"):
        alive.peer_timeout()


def test_the_patience_is_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    assert alive.peer_timeout() == alive.PEER_TIMEOUT
    monkeypatch.setenv("HOMEPORT_PEER_TIMEOUT", "20")
    assert alive.peer_timeout() == 20


def test_a_connection_that_stands_is_not_called_lost(client: paramiko.SSHClient) -> None:
    alive.check(client, "far")
    with pytest.raises(FileNotFoundError), alive.in_words(client, "far"):
        raise FileNotFoundError(errno.ENOENT, "a file at the desk")
    closed = pytest.raises(paramiko.SSHException, match="far closed the channel")
    with closed, alive.in_words(client, "far"):
        raise EOFError


def _transport(active: bool, saved: BaseException | None) -> Any:
    return SimpleNamespace(is_active=lambda: active, saved_exception=saved)


@pytest.mark.parametrize(
    ("transport", "cause", "said"),
    [
        (None, None, ""),
        (_transport(True, None), OSError(5, "x"), ""),
        (_transport(True, EOFError()), None, "the node or something on the way closed it"),
        (_transport(False, None), None, "the node or something on the way closed it"),
        (_transport(False, ConnectionResetError(104, "Reset by peer")), None, "reset by peer"),
        (_transport(False, None), BrokenPipeError(32, "Broken pipe"), "broken pipe"),
        (_transport(False, TimeoutError(110, "Timed out")), BrokenPipeError(32, "x"), "timed out"),
    ],
)
def test_why_a_connection_is_lost(transport: Any, cause: BaseException | None, said: str) -> None:
    assert alive.why_lost(transport, cause) == said


def test_signs_of_life_end_with_the_connection(
    way: Way, client: paramiko.SSHClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alive, "KEEPALIVE", 0.02)
    before = threading.active_count()
    alive.keep_alive(client)
    time.sleep(0.1)
    client.close()
    deadline = time.monotonic() + 5
    while threading.active_count() >= before + 1:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_failed_run_ends_with_what_to_type() -> None:
    host = HostResult(name="far", failure=Failure(operation="Base | x", words=("it broke",)))
    with console.capture() as caught:
        print_result(RunResult(hosts=[host]), "bin/homeport converge inventory/iona.py")
    last = caught.get().splitlines()[-1]
    assert last == "Mend the cause, then go on with:  bin/homeport converge inventory/iona.py"
