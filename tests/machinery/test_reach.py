"""Why a machine was not reached: one line with the next command to type, from every command."""

import socket
import subprocess
import sys
from pathlib import Path

import paramiko
import pytest

from homeport.describe import Reached
from homeport.reach import check_passphrase, private_key, why_not
from homeport.spec import SpecError
from tests.machinery.test_bad_input import homeport, write


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (socket.gaierror(-2, "unknown"), "does not resolve: `getent hosts 192.0.2.10`"),
        (
            paramiko.ssh_exception.NoValidConnectionsError(
                {("192.0.2.10", 2222): ConnectionRefusedError(111, "Connection refused")}
            ),
            "Connection refused: `ssh -v -p 2222 -i k op@192.0.2.10 true`",
        ),
        (TimeoutError("timed out"), "timed out: `ssh -v"),
        (paramiko.AuthenticationException("no"), "`ssh-copy-id -p 2222 op@192.0.2.10`"),
        (paramiko.SSHException("No authentication methods available"), "`ssh-copy-id"),
        (paramiko.PasswordRequiredException("locked"), "`ssh-add k`"),
    ],
)
def test_why_a_machine_was_not_reached(error: Exception, words: str) -> None:
    way = Reached(address="192.0.2.10", user="op", port=2222, key="k")
    line = why_not(way, error)
    assert words in line
    assert "\n" not in line


def test_a_node_is_known_by_its_targets_file() -> None:
    key = paramiko.RSAKey.generate(1024)
    error = paramiko.BadHostKeyException("192.0.2.10", key, key)
    line = why_not(Reached(address="192.0.2.10"), error, "its targets file")
    assert "another host key than its targets file has" in line
    assert "`ssh-keyscan 192.0.2.10`" in line


def key(directory: Path, passphrase: str = "") -> Path:
    path = directory / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", path], check=True)
    return path


def test_a_key_is_there_and_is_a_key(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"hosts\.n\.ssh_key: '/nope': there is no such file"):
        private_key("n", "/nope")
    (tmp_path / "no").write_text("nonsense")
    with pytest.raises(SpecError, match=r"hosts\.n\.ssh_key: '.*/no': must be a private key"):
        private_key("n", str(tmp_path / "no"))
    assert private_key("n", str(key(tmp_path))) == tmp_path / "key"


def test_nobody_is_asked_for_a_passphrase_without_a_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(private_key("n", str(key(tmp_path, "secret"))))
    with pytest.raises(SpecError, match=rf"no terminal to ask for it: `ssh-add {path}`"):
        check_passphrase("n", path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    check_passphrase("n", path)


@pytest.mark.parametrize("command", ["converge", "drift", "verify", "stop"])
def test_every_command_says_what_to_type(tmp_path: Path, command: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        done = homeport(command, str(write(tmp_path, "", "", port=port)))
    assert done.returncode == 1
    line = f"no ssh connection: Connection refused: `ssh -v -p {port} root@127.0.0.1 true`"
    assert line in done.stderr
    assert "Traceback" not in done.stderr
