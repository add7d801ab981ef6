"""Commands inside a virtual machine, by QEMU's guest agent: they need no network in the guest.

The agent's protocol is JSON, an object a line, on a socket. Source: QEMU's "Guest Agent Protocol
Reference" (docs/interop/qemu-ga-ref).
"""

import base64
import contextlib
import json
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from homeport.lab import LabError

# What a guest-exec-status may hold is bounded by the agent: 16 MiB of output.
SENTINEL = b"\xff"


class AgentGone(LabError):
    """The guest's agent does not answer: the machine is off, hangs, or is on its way up or down."""


class Agent:
    """The guest agent behind the Unix socket `path`. A connection is made for each command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(
        self, command: str, *, timeout: float = 300, stdin: bytes | None = None
    ) -> tuple[int, bytes, bytes]:
        """Exit status, output and errors of a shell command as root; `timeout` in seconds.

        Raises `AgentGone` when the agent is not there or goes away, `LabError` after `timeout` and
        when it keeps only the beginning of what the command says.
        """
        deadline = time.monotonic() + timeout
        with contextlib.closing(self._connect(min(timeout, 20))) as line:
            arguments: dict[str, Any] = {
                "path": "/bin/sh",
                "arg": ["-c", command],
                "capture-output": True,
            }
            if stdin is not None:
                arguments["input-data"] = base64.b64encode(stdin).decode()
            pid = line.ask("guest-exec", **arguments)["pid"]
            pause = 0.05
            while True:
                try:
                    status = line.ask("guest-exec-status", pid=pid)
                except LabError as error:
                    # An agent knows the commands that it began alone; QEMU, qga/commands.c.
                    if "does not exist" not in str(error):
                        raise
                    raise AgentGone("another guest agent: the machine booted") from error
                if status["exited"]:
                    break
                if time.monotonic() > deadline:
                    raise LabError(f"{command[:200]}: no end within {timeout:g} s")
                time.sleep(pause)
                pause = min(pause * 2, 0.8)  # each answer costs the guest time
        if status.get("out-truncated") or status.get("err-truncated"):
            raise LabError(f"{command[:200]}: said more than the guest agent keeps")
        code = status.get("exitcode", 128 + status.get("signal", 0))
        return code, _decoded(status, "out-data"), _decoded(status, "err-data")

    def alive(self, timeout: float = 3) -> bool:
        """Whether the agent answers within `timeout` seconds."""
        try:
            self._connect(timeout).close()
        except AgentGone:
            return False
        return True

    def _connect(self, timeout: float) -> "_Line":
        line = _Line(self.path, timeout)
        try:
            line.synchronize()
        except BaseException:
            line.close()
            raise
        # A busy guest may be slow between two answers, but not for ever.
        line.socket.settimeout(60)
        return line


class _Line:
    """One connection to the agent."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.pending = b""
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise AgentGone(f"the machine is off: {error}") from error

    def close(self) -> None:
        self.socket.close()

    def synchronize(self) -> None:
        """Throw away what is left of an earlier connection: the channel is one, and has no end."""
        number = secrets.randbelow(2**31)
        request = json.dumps({"execute": "guest-sync-delimited", "arguments": {"id": number}})
        self._send(SENTINEL + request.encode() + b"\n")
        while True:
            answer = self._receive().rpartition(SENTINEL)[2]
            with contextlib.suppress(ValueError):
                if json.loads(answer).get("return") == number:
                    return

    def ask(self, command: str, **arguments: Any) -> Any:
        """The answer to `command`. Raises `LabError` with the agent's words when it refuses."""
        self._send(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(self._receive())
        if "error" in answer:
            raise LabError(f"{command}: {answer['error'].get('desc')}")
        return answer["return"]

    def _send(self, data: bytes) -> None:
        try:
            self.socket.sendall(data)
        except OSError as error:
            raise AgentGone(f"the guest agent: {error}") from error

    def _receive(self) -> bytes:
        while b"\n" not in self.pending:
            try:
                data = self.socket.recv(1 << 16)
            except OSError as error:
                raise AgentGone(f"the guest agent does not answer: {error}") from error
            if not data:
                raise AgentGone("the machine went off")
            self.pending += data
        line, _, self.pending = self.pending.partition(b"\n")
        return line


def _decoded(status: dict[str, Any], name: str) -> bytes:
    return base64.b64decode(status.get(name, ""))
