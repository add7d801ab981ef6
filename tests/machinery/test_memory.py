"""What the connector answers from memory, and when it does not."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import Config, FactBase, Inventory, QuoteString, State, StringCommand
from pyinfra.api.hiddenvalue import HiddenValue
from pyinfra.api.host import Host
from pyinfra.api.state import StateStage
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import CommandOutput, OutputLine

from homeport import connector, memory, prefetch, record
from homeport.connector import HomeportConnector
from homeport.record import Record


class Text(FactBase[str]):
    def command(self, text: str) -> str:
        return f"echo {text}"


class Hidden(FactBase[str]):
    def command(self) -> StringCommand:
        return StringCommand("echo", QuoteString(HiddenValue("s3cret")))


class Node:
    """A node that counts what reaches it, one by one and together; `wrong` commands fail."""

    def __init__(self) -> None:
        self.alone: list[str] = []
        self.timeouts: list[Any] = []
        self.together: list[list[str]] = []
        self.says = "then"
        self.wrong: set[str] = set()

    def run(self, command: Any, *_: Any, **arguments: Any) -> Any:
        text = str(command)
        self.alone.append(text)
        self.timeouts.append(arguments.get("_timeout"))
        return text not in self.wrong, CommandOutput([OutputLine("stdout", f"{self.says} {text}")])

    def ask(self, _transport: Any, commands: list[str]) -> dict[str, Any]:
        self.together.append(commands)
        said = f"together {self.says}"
        return {
            command: CommandOutput([OutputLine("stdout", said), OutputLine("stderr", "a warning")])
            for command in commands
            if not any(text in command for text in self.wrong)
        }


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Node:
    made = Node()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("HOMEPORT_PREFETCH", raising=False)
    monkeypatch.setattr(SSHConnector, "run_shell_command", made.run)
    monkeypatch.setattr(SSHConnector, "disconnect", lambda _: None)
    monkeypatch.setattr(SSHConnector, "put_file", lambda *_, **__: True)
    monkeypatch.setattr(SSHConnector, "get_file", lambda *_, **__: True)
    monkeypatch.setattr(prefetch, "ask", made.ask)
    monkeypatch.setattr(connector, "fact_timeout", None)
    return made


def begin(name: str = "iona", deploy: str | None = __file__, **data: Any) -> Host:
    """A host in the prepare phase of a run of `deploy`."""
    data = {"ssh_hostname": "192.0.2.1", "ssh_user": "root", "inventory_file": "i.py", **data}
    inventory = Inventory(([(f"@homeport/{name}", data)], {}))
    state = State(inventory, Config())
    state.current_deploy_filename = deploy
    state.set_stage(StateStage.Prepare)
    host: Host = inventory.get_host(name)
    host.connector.client = SimpleNamespace(get_transport=lambda: None)  # type: ignore[attr-defined]
    state.activate_host(host)
    host.connected = True
    return host


def learn(*texts: str, **data: Any) -> None:
    """One run that asks for `texts`, to its end."""
    host = begin(**data)
    for text in texts:
        host.get_fact(Text, text=text)
    host.disconnect()


def test_a_second_run_asks_once_for_everything(node: Node) -> None:
    learn("one", "two", "one")
    assert node.alone == ["echo one", "echo two", "echo one"]
    assert node.together == []
    node.alone.clear()
    host = begin()
    assert host.get_fact(Text, text="one") == "together then"
    assert host.get_fact(Text, text="two") == "together then"
    assert node.alone == []
    assert node.together == [["sh -c 'echo one'", "sh -c 'echo two'"]]


def test_answers_keep_what_was_said_on_stderr(node: Node) -> None:
    learn("one")
    host = begin()
    host.get_fact(Text, text="one")
    assert isinstance(host.connector, HomeportConnector)
    assert host.connector.memory.known["sh -c 'echo one'"].stderr_lines == ["a warning"]


def test_the_record_is_pruned_to_what_the_last_run_asked(node: Node) -> None:
    learn("one", "two")
    learn("two", "three")
    learn("two")
    begin().get_fact(Text, text="two")
    assert node.together[1:] == [["sh -c 'echo two'", "sh -c 'echo three'"], ["sh -c 'echo two'"]]


def test_a_run_that_failed_prunes_nothing(node: Node) -> None:
    learn("one", "two")
    host = begin()
    host.get_fact(Text, text="three")
    host.state.failed_hosts.add(host)
    host.disconnect()
    begin().get_fact(Text, text="one")
    assert node.together[-1] == [f"sh -c 'echo {text}'" for text in ("one", "two", "three")]


def test_misses_and_failures_are_asked_by_themselves(node: Node) -> None:
    learn("one", "two")
    node.alone.clear()
    node.wrong = {"two"}
    host = begin()
    host.get_fact(Text, text="one")
    assert host.get_fact(Text, text="two") == "then echo two"
    assert host.get_fact(Text, text="new") == "then echo new"
    assert host.get_fact(Text, text="one") == "together then"
    assert node.alone == ["echo two", "echo new"]
    assert len(node.together) == 1


def test_two_records_for_two_ways_to_a_node(node: Node) -> None:
    learn("one")
    for other in ({"ssh_user": "ann"}, {"_sudo": True}, {"inventory_file": "j.py"}):
        begin(**other).get_fact(Text, text="one")
    assert node.together == []


def test_another_node_of_the_inventory_is_asked_the_same_together(node: Node) -> None:
    learn("one")
    host = begin(name="x")
    assert host.get_fact(Text, text="one") == "together then"
    assert node.together == [["sh -c 'echo one'"]]


@pytest.mark.parametrize("data", [{"homeport_prefetch": False}, {}])
def test_it_is_switched_off(
    data: dict[str, Any], node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn("one")
    if not data:
        monkeypatch.setenv("HOMEPORT_PREFETCH", "0")
    begin(**data).get_fact(Text, text="one")
    assert node.together == []


def test_without_a_deploy_there_is_no_record(node: Node, tmp_path: Path) -> None:
    learn("one", deploy=None)
    learn("one", deploy=None)
    assert node.together == []
    assert not (tmp_path / "homeport").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        {"_env": {"TOKEN": "s3cret"}},
        {"_sudo": True, "_sudo_password": "s3cret"},
        {"_su_user": "ann"},
        {"_get_pty": True},
        {"_success_exit_codes": [0, 1]},
    ],
)
def test_what_may_hold_a_secret_or_means_something_else_is_not_recorded(
    arguments: dict[str, Any], node: Node, tmp_path: Path
) -> None:
    host = begin()
    host.get_fact(Text, text="one")
    host.get_fact(Text, text="two", **arguments)
    host.get_fact(Hidden)
    host.disconnect()
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(texts) == 1
    assert "echo one" in texts[0]
    assert "two" not in texts[0]
    assert "s3cret" not in texts[0]


@pytest.mark.parametrize("user", ["bob:s3cret@", "s3cret@", "bob:s3'cret@", ":s3cret@"])
def test_an_address_with_credentials_is_not_recorded(user: str, node: Node, tmp_path: Path) -> None:
    host = begin()
    host.get_fact(Text, text="https://mirror.example/a@b")
    assert host.get_fact(Text, text=f'"https://{user}mirror.example/apt"')
    host.disconnect()
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(texts) == 1
    assert "mirror.example/a@b" in texts[0]
    assert "cret" not in texts[0]


def _lock(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Emacs marks a file that is edited."""
    monkeypatch.setattr(record, "ROOT", root)
    (root / "deploys").mkdir()
    (root / "deploys" / ".#full.py").symlink_to("kim@desk.4242:1795290000")


def _no_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(root / "file"))


def _no_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", lambda: Path("~nobody-of-that-name").expanduser())


@pytest.mark.parametrize("spoil", [_lock, _no_cache, _no_home])
def test_where_no_record_can_be_kept_facts_are_asked_one_by_one(
    spoil: Any, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn("one")
    record.content.cache_clear()
    spoil(tmp_path, monkeypatch)
    host = begin()
    assert host.get_fact(Text, text="one") == "then echo one"
    host.disconnect()
    record.content.cache_clear()
    assert node.together == []


def test_only_facts_are_recorded(node: Node) -> None:
    host = begin()
    host.get_fact(Text, text="one")
    host.run_shell_command(StringCommand("echo", "touch"))
    host.disconnect()
    begin().get_fact(Text, text="one")
    assert node.together == [["sh -c 'echo one'"]]


CHANGES = {
    "command": lambda host: host.run_shell_command(StringCommand("touch", "/x")),
    "put_file": lambda host: host.put_file("a", "b"),
    "get_file": lambda host: host.get_file("a", "b"),
    "unknown fact": lambda host: host.get_fact(Text, text="unknown"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_nothing_known_survives_the_first_change(change: str, node: Node) -> None:
    learn("one", "two")
    host = begin()
    host.state.set_stage(StateStage.Execute)
    assert host.get_fact(Text, text="one") == "together then"
    CHANGES[change](host)
    node.says = "now"
    assert host.get_fact(Text, text="one") == "now echo one"
    host.disconnect()
    host.connected = True
    assert host.get_fact(Text, text="two") == "now echo two"
    assert len(node.together) == 1


def test_an_operation_that_ran_a_function_counts_as_a_change(node: Node) -> None:
    learn("one")
    host = begin()
    host.state.set_stage(StateStage.Execute)
    host.get_fact(Text, text="one")
    done = SimpleNamespace(operation_meta=SimpleNamespace(executed=True))
    host.state.ops[host]["x"] = done  # type: ignore[assignment]
    assert host.get_fact(Text, text="one") == "then echo one"


def test_what_prepare_knew_is_asked_again_by_execute(node: Node) -> None:
    learn("one")
    host = begin()
    host.get_fact(Text, text="one")
    host.state.set_stage(StateStage.Execute)
    node.says = "now"
    assert host.get_fact(Text, text="one") == "together now"
    assert len(node.together) == 2


def test_answers_grow_old_while_operations_execute(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn("one")
    host = begin()
    host.state.set_stage(StateStage.Execute)
    host.get_fact(Text, text="one")
    monkeypatch.setattr(memory, "FRESH", -1.0)
    assert host.get_fact(Text, text="one") == "then echo one"


def test_a_reconnect_forgets(node: Node) -> None:
    learn("one")
    host = begin()
    host.get_fact(Text, text="one")
    host.disconnect()
    host.connected = True
    node.says = "after"
    assert host.get_fact(Text, text="one") == "together after"


def test_a_fact_is_given_up_only_where_a_run_says_when(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = begin()
    host.get_fact(Text, text="one")
    monkeypatch.setattr(connector, "fact_timeout", 7)
    host.get_fact(Text, text="two")
    host.get_fact(Text, text="three", _timeout=3)
    host.run_shell_command(StringCommand("true"))
    assert node.timeouts == [None, 7, 3, None]


def test_two_runs_at_once_leave_a_whole_record(node: Node) -> None:
    first, second = begin(), begin()
    first.get_fact(Text, text="one")
    second.get_fact(Text, text="two")
    first.disconnect()
    second.disconnect()
    kept: Record | None = begin().connector.memory.record  # type: ignore[attr-defined]
    assert kept is not None
    assert kept.read() == ["sh -c 'echo two'"]
