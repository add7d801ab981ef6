"""A connection whose other end is gone ends, by signs of life and by the kernel."""

import socket
import time
from types import SimpleNamespace
from typing import Any

import paramiko
import pytest
from pyinfra.connectors import ssh
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from homeport import alive
from homeport import connector as connectors
from homeport.alive import PEER_TIMEOUT, nodelay
from homeport.connector import HomeportConnector
from homeport.memory import Memory


def test_the_kernel_gives_up_a_peer_that_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        transport = nodelay(near)
        try:
            assert near.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
            limit = near.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            assert limit == PEER_TIMEOUT * 1000
        finally:
            transport.close()
            near.close()


def test_signs_of_life_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def request(kind: str, wait: bool) -> None:
        asked.append(kind)
        assert wait
        transport.is_active = lambda: False

    transport = SimpleNamespace(is_active=lambda: True, global_request=request)
    client = SimpleNamespace(get_transport=lambda: transport, exec_command=print)
    monkeypatch.setattr(alive, "KEEPALIVE", 0.01)

    def connect(self: Any) -> None:
        self.client = client

    monkeypatch.setattr(SSHConnector, "connect", connect)
    connector = HomeportConnector.__new__(HomeportConnector)
    connector.connect()
    deadline = time.monotonic() + 5
    while not asked and time.monotonic() < deadline:
        time.sleep(0.01)
    assert asked == ["keepalive@openssh.com"]


def test_after_a_reconnect_files_go_over_the_new_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clients = [
        SimpleNamespace(get_transport=lambda n=n: f"transport {n}", exec_command=print)
        for n in (1, 2)
    ]

    def connect(self: Any) -> None:
        self.client = clients.pop(0)

    monkeypatch.setattr(SSHConnector, "connect", connect)
    monkeypatch.setattr(connectors, "keep_alive", lambda _: None)
    monkeypatch.setattr(ssh.SFTPClient, "from_transport", lambda transport: f"files by {transport}")
    connector = HomeportConnector.__new__(HomeportConnector)
    connector.data = {"ssh_file_transfer_protocol": "sftp"}  # type: ignore[typeddict-item]
    for wanted in ("files by transport 1", "files by transport 2"):
        connector.connect()
        assert connector.get_file_transfer_connection() == wanted
        assert connector.get_file_transfer_connection() == wanted


class Uploads(HomeportConnector):
    """Notes the commands that go to the node; those in `broken` find no connection."""

    def __init__(self) -> None:
        self.commands: list[str] = []
        self.broken = False
        self.client: Any = SimpleNamespace(get_transport=object, exec_command=print)
        self.data: Any = {}
        self.host: Any = SimpleNamespace(name="iona")

    def run_shell_command(self, command: Any, *_: Any, **arguments: Any) -> Any:
        self.commands.append(str(command))
        if self.broken:
            raise alive.ConnectionLost("cut off")
        return True, CommandOutput([OutputLine("stdout", "/tmp/homeport-0123456789")])


@pytest.fixture
def uploads(monkeypatch: pytest.MonkeyPatch) -> Uploads:
    def put_file(self: Any, _io: Any, _name: str, temporary: str, *_: Any, **__: Any) -> bool:
        self.commands.append(f"upload {temporary.rpartition('/')[0]}")
        return True

    monkeypatch.setattr(SSHConnector, "put_file", put_file)
    monkeypatch.setattr(SSHConnector, "connect", lambda _: None)
    monkeypatch.setattr(SSHConnector, "disconnect", lambda _: None)
    monkeypatch.setattr(connectors, "keep_alive", lambda _: None)
    made = Uploads()
    made._memory = Memory(None)
    made.data = {"ssh_hostname": "192.0.2.1"}
    made.state = SimpleNamespace(failed_hosts=())  # type: ignore[assignment]
    return made


MADE = ["mktemp -d /tmp/homeport-XXXXXXXXXX"]
REMOVED = ["rm -rf /tmp/homeport-0123456789"]


def test_another_user_enters_the_directory_of_what_is_uploaded_for_it(uploads: Uploads) -> None:
    uploads.put_file("a", "/etc/a", _sudo=True)
    assert uploads.commands == [*MADE, "upload /tmp/homeport-0123456789"]
    uploads.commands.clear()
    uploads.put_file("a", "/srv/a", _sudo=True, _sudo_user="kim")
    assert uploads.commands == [
        "setfacl -m u:kim:x /tmp/homeport-0123456789",
        "upload /tmp/homeport-0123456789",
    ]


def test_what_was_uploaded_goes_with_the_connection_or_with_the_next(uploads: Uploads) -> None:
    uploads.put_file("a", "/etc/a", _sudo=True)
    uploads.broken = True
    uploads.disconnect()
    uploads.broken = False
    uploads.commands.clear()
    uploads.connect()
    assert uploads.commands == REMOVED
    uploads.disconnect()
    uploads.connect()
    assert uploads.commands == REMOVED
    uploads.put_file("a", "/etc/a", _sudo=True)
    uploads.disconnect()
    assert uploads.commands == [*REMOVED, *MADE, "upload /tmp/homeport-0123456789", *REMOVED]


def test_a_node_that_was_not_reached_again_is_left_without_a_word(uploads: Uploads) -> None:
    uploads.put_file("a", "/etc/a", _sudo=True)
    uploads.commands.clear()
    uploads.client = paramiko.SSHClient()  # as a connect that failed leaves it
    uploads.disconnect()
    assert uploads.commands == []


@pytest.mark.parametrize("arguments", [{"_sudo": True}, {"_su_user": "kim"}])
def test_no_file_is_copied_to_where_everybody_reads_it(
    arguments: dict[str, Any], uploads: Uploads
) -> None:
    with pytest.raises(OSError, match="as the connecting user only"):
        uploads.get_file("/etc/shadow", "shadow", **arguments)
    assert uploads.commands == []
