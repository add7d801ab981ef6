"""What an operation does on a node in a given state, without a node."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, ClassVar

from pyinfra.context import ctx_host, ctx_state

from homeport import own_files
from homeport.differs import Pair, noted
from homeport.pending import pending
from homeport.refuse import Refusal

# A case of what drift says: an operation, what its looks find, its arguments, the words.
Words = tuple[Any, list[Any], dict[str, Any], list[tuple[str, str]]]
# What pyinfra's `files.put` does besides for a new file of root's: its own business.
AROUND_A_FILE = ("mkdir -p /", "chmod 644 /", "chown root:root /")


class _Host:
    """Stands in for pyinfra's host: answers each look at the node with the next of `answers`,
    the last one for good. pyinfra's own operations find nothing there."""

    def __init__(self, answers: tuple[Any, ...]) -> None:
        self.answers = list(answers)
        self.noops: list[str] = []

    name = "a node"
    current_op_global_arguments: ClassVar[dict[str, Any]] = {}

    def get_fact(self, fact: type, *_: Any, **__: Any) -> Any:
        if fact.__module__.startswith("pyinfra."):
            return None
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def get_temp_filename(self, path: str, **_: Any) -> str:
        return f"{path}.new"

    def noop(self, words: str) -> None:
        self.noops.append(words)


_STATE = SimpleNamespace(config=SimpleNamespace(DIFF=False), cwd=None)


def yielded(operation: Any, *observed: Any, **arguments: Any) -> list[str]:
    """The commands of `operation` where its looks at the node find `observed`, one after another.

    It must yield commands or say that there is nothing to do, and not both; and, unless it refuses
    at once, say what differs when it yields commands, and only then. A refusal counts as a command;
    those after it are left out, as pyinfra does.
    """
    host = _Host(observed)
    commands = []
    with ctx_host.use(host), ctx_state.use(_STATE), noted() as pairs:
        for command in operation._inner(**arguments):
            if not str(command).startswith(AROUND_A_FILE):
                commands.append(str(command))
            if is_refusal(str(command)):
                break
    assert bool(host.noops) is not bool(commands), (host.noops, commands)
    if not commands or not is_refusal(commands[0]):
        assert bool(pairs) is bool(commands), (pairs, commands)
    return commands


def said(operation: Any, *observed: Any, **arguments: Any) -> list[Pair]:
    """What a drift check says of `operation` where it finds `observed`: wanted and there."""
    host = _Host(observed)
    with ctx_host.use(host), ctx_state.use(_STATE):
        found = pending(host, "its name", lambda: operation._inner(**arguments))
    assert Pair("its name", "not so") not in found.differs
    return list(found.differs)


def refused(operation: Any, *observed: Any, **arguments: Any) -> list[Refusal]:
    """The refusals of `operation` where its looks at the node find `observed`."""
    host = _Host(observed)
    with ctx_host.use(host), ctx_state.use(_STATE):
        return [one for one in operation._inner(**arguments) if isinstance(one, Refusal)]


def as_put(texts: Mapping[str, str], modes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a fact says of the files {path: text} as we put them; `modes` are those not 644."""
    return {
        path: own_files.as_put(text, (modes or {}).get(path, own_files.MODE))
        for path, text in texts.items()
    }


THEIRS = "/etc/systemd/system/x.service.d/override.conf"


def not_ours(unit: str) -> tuple[str, str]:
    """The words where the drop-in THEIRS changes a unit of ours."""
    cause = f"{unit} is Homeport's, and {THEIRS} changes what it does"
    return f"{unit}: as Homeport wrote it", cause


def is_refusal(command: str) -> bool:
    """Whether `command` is one that `homeport.refuse.refuse` made."""
    return command.startswith("printf") and command.endswith(">&2; exit 1")
