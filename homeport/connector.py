"""How a node is reached: pyinfra's SSH connector, without Nagle's delay, with every fact at once.

Hosts are addressed `@homeport/NAME`; everything else comes from the host's data, as with
`@ssh/`. paramiko never sets TCP_NODELAY, which costs about 40 ms for every command.
What is known of the node, and for how long, is `homeport/memory.py`.
"""

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import paramiko
from pyinfra.api import QuoteString, StringCommand, facts
from pyinfra.api.arguments import ConnectorArguments
from pyinfra.api.output import echo, format_text
from pyinfra.api.state import StateStage
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine, make_unix_command
from typing_extensions import Unpack

from homeport import alive, prefetch
from homeport.alive import ConnectionLost, keep_alive, nodelay
from homeport.memory import Memory
from homeport.record import Record

# Called with the host's name and each line that a command of an operation prints on standard
# output, as it is printed: this is how a download's progress reaches the person who waits.
on_line: Callable[[str, str], None] | None = None

# Seconds after which a fact that does not say otherwise is given up, or None for pyinfra's own
# way: to wait for ever.
fact_timeout: int | None = None

# Arguments with which a command's text, or its run, may hold a secret or mean something else.
_UNUSUAL = ("_env", "_get_pty", "_stdin", "_sudo_password", "_su_user", "_success_exit_codes")
# A user, a password or a token in an address, such as a mirror's.
_USER_INFO = re.compile(r"://[^/\s]*@")


class _Lines:
    """A command's standard output, each line shown to `on_line` on its way through."""

    def __init__(self, host: str, buffer: Any) -> None:
        self.host = host
        self.buffer = buffer
        self.channel = buffer.channel

    def __iter__(self) -> Iterator[str]:
        for line in self.buffer:
            if on_line is not None:
                on_line(self.host, line.rstrip("\n"))
            yield line


def _asked_by_fact(depth: int) -> bool:
    """Whether the caller `depth` frames up is pyinfra's own gathering of a fact."""
    return sys._getframe(depth + 1).f_code is facts._get_fact.__code__


class HomeportConnector(SSHConnector):
    """`@homeport/NAME`: a node of an inventory made by `homeport.inventory`."""

    # Why the connection broke, in words, once it did.
    lost = ""

    _uploads = ""
    _memory: Memory | None = None

    @staticmethod
    def make_names_data(name: str) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
        yield name, {}, []

    def make_paramiko_kwargs(self) -> dict[str, Any]:
        kwargs = super().make_paramiko_kwargs()
        extra = dict(kwargs["_pyinfra_ssh_paramiko_connect_kwargs"] or {})
        extra.setdefault("transport_factory", nodelay)
        kwargs["_pyinfra_ssh_paramiko_connect_kwargs"] = extra
        return kwargs

    def connect(self) -> None:
        if self._memory is not None:
            self._memory.forget()
        self.lost = ""
        # pyinfra keeps the channel for files when it connects anew, and would use the closed one.
        self.get_file_transfer_connection.cache.clear()
        super().connect()
        client = self.client
        assert client is not None
        keep_alive(client)
        run = client.exec_command

        def exec_command(*args: Any, **kwargs: Any) -> Any:
            stdin, stdout, stderr = run(*args, **kwargs)
            return stdin, _Lines(self.host.name, stdout), stderr

        client.exec_command = exec_command  # type: ignore[method-assign]
        self._remove_uploads()  # of a connection that broke
        self._uploads = ""  # a node that was rebooted has an empty /tmp

    def _remove_uploads(self) -> None:
        # A connection that could not be made leaves a client without a transport.
        if self._uploads and self.client is not None and self.client.get_transport() is not None:
            with contextlib.suppress(OSError, paramiko.SSHException):
                self.run_shell_command(StringCommand("rm", "-rf", self._uploads))
                self._uploads = ""

    def disconnect(self) -> None:
        self._remove_uploads()
        if self._memory is not None:
            self._memory.keep(complete=self.host not in self.state.failed_hosts)
            self._memory.forget()
        super().disconnect()

    @property
    def memory(self) -> Memory:
        """What is known of this node."""
        if self._memory is None:
            try:
                self._memory = Memory(self._record())
            except (OSError, RuntimeError):  # a file of the deploys vanished, or there is no home
                self._memory = Memory(None)
        return self._memory

    def _record(self) -> Record | None:
        """None when it is switched off, and without a deploy file, as in `pyinfra … exec`."""
        deploy = getattr(self.state, "current_deploy_filename", None)
        wanted = self.host.data.get("homeport_prefetch", True)
        if not deploy or not wanted or os.environ.get("HOMEPORT_PREFETCH", "1") == "0":
            return None
        key = {
            "inventory": self.host.data.get("inventory_file"),
            "host": self.host.name,
            "address": [self.data["ssh_hostname"], self.data["ssh_port"]],
            "user": self.data["ssh_user"],
            "sudo": bool(self.host.data.get("_sudo") or self.state.config.SUDO),
        }
        return Record(key, deploy)

    def _fact_text(self, command: StringCommand, arguments: dict[str, Any]) -> str | None:
        """The text that the node is to run for a fact; None when that must not be remembered."""
        if any(arguments.get(name) for name in _UNUSUAL if arguments.get(name) != [0]):
            return None
        if self.host.connector_data.get("prompted_sudo_password"):
            return None
        plain = {k: v for k, v in arguments.items() if k not in (*_UNUSUAL, "_timeout")}
        unix = make_unix_command(command, **plain)
        text = unix.get_raw_value()
        hidden = text != unix.get_masked_value() or _USER_INFO.search(text)
        return None if hidden else text

    def _ask(self, commands: list[str]) -> dict[str, Any]:
        assert self.client is not None
        return prefetch.ask(self.client.get_transport(), commands)

    def run_shell_command(
        self,
        command: StringCommand,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Any,
    ) -> tuple[bool, CommandOutput]:
        """As pyinfra's, but a fact may be answered from memory."""
        is_fact = _asked_by_fact(2)
        text = self._fact_text(command, arguments) if is_fact else None
        stage = self.state.current_stage
        if text is not None and stage in (StateStage.Prepare, StateStage.Execute):
            self._note_changes()
            self.memory.enter(stage, self._ask)
            if stage is StateStage.Prepare:
                self.memory.asked[text] = None
            answer = self.memory.recall(text)
            if answer is not None:
                self._show(text, answer, print_output, print_input)
                return True, answer
        # In prepare only what is no fact can change anything. In execute whatever is not known
        # ends it: what is asked now, and not before, is asked because something is different.
        if stage is StateStage.Execute or not is_fact:
            self.memory.change()
        given_up = fact_timeout if is_fact and arguments.get("_timeout") is None else None
        if given_up is not None:
            arguments["_timeout"] = given_up
        with self._in_words():
            try:
                done = super().run_shell_command(command, print_output, print_input, **arguments)
            except TimeoutError:
                if given_up is None:
                    raise
                # pyinfra would name the timeout that it was told of, which is none.
                words = f"the node did not answer within {given_up} s"
                done = False, CommandOutput([OutputLine("stderr", words)])
            if not done[0]:  # a command that was cut off has no exit status, and says nothing
                alive.check(self.client, str(self.data["ssh_hostname"]))
        return done

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        """Raise `ConnectionLost` when the connection breaks, and remember its words."""
        try:
            with alive.in_words(self.client, str(self.data["ssh_hostname"])):
                yield
        except ConnectionLost as error:
            self.lost = self.lost or str(error)
            raise

    def _note_changes(self) -> None:
        """Python functions that operations ran are not seen here, but their operations are."""
        if self.state.current_stage is StateStage.Execute and not self.memory.changed:
            done = self.state.ops[self.host].values()
            if any(data.operation_meta.executed for data in done):
                self.memory.change()

    def _show(self, text: str, answer: CommandOutput, output: bool, command: bool) -> None:
        prefix = self.host.print_prefix
        if command:
            echo(f"{prefix}>>> {text}", err=True)
        for line in answer.combined_lines if output else ():
            words = line.line if line.buffer_name == "stdout" else format_text(line.line, "red")
            echo(f"{prefix}{words}", err=True)

    def get_file(self, *args: Any, **kwargs: Any) -> bool:
        """As pyinfra's; ends what is known.

        Not for another user's files: pyinfra makes a copy that everybody on the node may read.
        """
        if kwargs.get("_sudo") or kwargs.get("_su_user"):
            raise OSError("files are fetched as the connecting user only: leave out _sudo")
        self.memory.change()
        with self._in_words():
            return bool(super().get_file(*args, **kwargs))

    def put_file(
        self,
        filename_or_io: Any,
        remote_filename: str,
        remote_temp_filename: str | None = None,
        print_output: bool = False,
        print_input: bool = False,
        **arguments: Unpack[ConnectorArguments],
    ) -> bool:
        """Upload a file; for a user with sudo, by way of a directory that nobody else enters.

        pyinfra's own way is a name in /tmp that can be foretold, and read by everybody.
        """
        self.memory.change()
        if arguments.get("_sudo"):
            name = hashlib.sha256(remote_filename.encode()).hexdigest()[:16]
            directory = self._upload_directory()
            remote_temp_filename = f"{directory}/{name}"
            if user := arguments.get("_sudo_user"):
                # As pyinfra has that user read the file, which fails in words when this did.
                self.run_shell_command(
                    StringCommand("setfacl", "-m", QuoteString(f"u:{user}:x"), directory)
                )
        with self._in_words():
            return super().put_file(
                filename_or_io,
                remote_filename,
                remote_temp_filename,
                print_output,
                print_input,
                **arguments,
            )

    def _upload_directory(self) -> str:
        """A directory of this connection's on the node, 0700, gone when it is closed."""
        if not self._uploads:
            # No arguments: as the connecting user, who is the one that SFTP writes as.
            good, output = self.run_shell_command(
                StringCommand("mktemp", "-d", "/tmp/homeport-XXXXXXXXXX")
            )
            if not good or not output.stdout_lines:
                raise OSError(f"mktemp failed on {self.host.name}: {output.stderr}")
            self._uploads = output.stdout_lines[-1].strip()
        return self._uploads
