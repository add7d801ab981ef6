"""One command on each host: what it says, how it ended, and why it could not be asked."""

import io
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from pyinfra.api.host import HostData

from homeport import remote
from homeport.spec import SpecError
from tests.machinery.small_sshd import Way, host_data, small_sshd, write_key

DRIVER = """
import json, sys
from pathlib import Path
import pyinfra_cli  # patches the standard library, as our command line does
from homeport import remote
from homeport.spec import SpecError

statuses, said = {}, ""
try:
    for name, status in remote.run_on(Path(sys.argv[1]), (), lambda node: node):
        statuses[name] = status
except SpecError as error:
    said = str(error)
print(json.dumps([statuses, said]))
"""


@pytest.fixture
def way() -> Iterator[Way]:
    with small_sshd() as made:
        yield made


def _host(way: Way, tmp_path: Path, text: str, **changes: Any) -> dict[str, Any]:
    strict = {"ssh_strict_host_key_checking": "yes"}
    return {**host_data(way, tmp_path), **strict, "node": text, **changes}


def _begin(tmp_path: Path, hosts: dict[str, Any]) -> subprocess.Popen[str]:
    pairs = [(f"@homeport/{name}", data) for name, data in hosts.items()]
    (tmp_path / "inventory.py").write_text(f"hosts = {pairs!r}\n")
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path / "inventory.py")],
        env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _end(run: subprocess.Popen[str]) -> tuple[str, dict[str, int], str]:
    """What the nodes said, the exit statuses, and why some could not be asked."""
    output, errors = run.communicate(timeout=30)
    assert run.returncode == 0, errors
    *said, last = output.splitlines()
    statuses, cause = json.loads(last)
    return "\n".join(said), statuses, cause


def test_each_host_is_asked_and_says_how_it_ended(way: Way, tmp_path: Path) -> None:
    hosts = {
        "near": _host(way, tmp_path, "echo one; echo two\n"),
        "far": _host(way, tmp_path, "exit 3\n"),
    }
    assert _end(_begin(tmp_path, hosts)) == ("one\ntwo", {"near": 0, "far": 3}, "")


def test_a_host_that_is_down_does_not_keep_the_others_from_answering(
    way: Way, tmp_path: Path
) -> None:
    good = _host(way, tmp_path, "echo here\n")
    stranger = {**good, "ssh_known_hosts_file": str(tmp_path / "none")}
    hosts = {"down": {**good, "ssh_port": 1}, "stranger": stranger, "good": good}
    output, statuses, cause = _end(_begin(tmp_path, hosts))
    assert (output, statuses) == ("here", {"good": 0})
    first, second = cause.splitlines()
    assert first.startswith("down: kim@127.0.0.1:1: no ssh connection: Connection refused: `ssh -v")
    assert second.startswith(f"stranger: kim@127.0.0.1:{way.port}: ")
    assert "host key" in second.lower()


def test_a_connection_that_breaks_is_said_in_words(way: Way, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    run = _begin(tmp_path, {"far": _host(way, tmp_path, f"touch {begun}; sleep 30\n")})
    deadline = time.monotonic() + 20
    while not begun.exists():
        assert time.monotonic() < deadline, "the command did not begin"
        time.sleep(0.02)
    way.reset()
    _, statuses, cause = _end(run)
    assert statuses == {}
    assert f"far: the connection to kim@127.0.0.1:{way.port} broke: connection reset" in cause


def test_the_users_own_ssh_configuration_counts(way: Way, tmp_path: Path) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host behind-a-jump\n  HostName 127.0.0.1\n")
    hosts = {"far": _host(way, tmp_path, "echo here\n", ssh_hostname="behind-a-jump")}
    assert _end(_begin(tmp_path, hosts)) == ("here", {"far": 0}, "")


def test_a_connection_that_is_gone_before_the_command_is_said_in_words(
    way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
    key = str(write_key(tmp_path))
    client.connect("127.0.0.1", way.port, "kim", key_filename=key, allow_agent=False)
    way.reset()
    transport = client.get_transport()
    assert transport is not None
    transport.join(10)
    monkeypatch.setattr(remote, "connect", lambda _: client)
    data = {"ssh_user": "kim", "ssh_hostname": "far", "ssh_port": 22}
    host: Any = SimpleNamespace(data=HostData(None, data))  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="the connection to kim@far:22 broke: connection reset"):
        remote._run(host, "true", io.BytesIO())
