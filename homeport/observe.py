"""Observed state: one remote command per subsystem, whose answer is one JSON value.

The program is a module of `homeport_node` that defines `observe(**arguments)`. Its source travels
over standard input, so it works on a node where nothing of ours is installed yet. The answer of a
node without python3 is the fact's default.
"""

import ast
import functools
import json
import re
from pathlib import Path
from typing import Any, ClassVar

from pyinfra.api import FactBase, StringCommand
from pyinfra.api.exceptions import FactProcessError

_FOLDER = Path(__file__).resolve().parent.parent / "homeport_node"
_LOADER = """\
import json, sys, types
def _load(name, source):
    module = sys.modules[name] = types.ModuleType(name)
    exec(compile(source, name, "exec"), module.__dict__)
    return module
_package = _load("homeport_node", "")
_package.__path__ = []
{needed}
_module = _load("homeport_node.{stem}", {source!r})
"""
_ARGUMENTS = "_arguments = json.loads({!r})\n"
_ASKED = re.compile(
    r'^_module = _load\("homeport_node\.(\w+)", .*\n_arguments = json\.loads\((.*)\)\n', re.M
)
_OBSERVE = "print(json.dumps(_module.observe(**_arguments)))\n"
_ACT = "sys.exit(_module.{function}(**_arguments) or 0)\n"
_SHELL = "python3 - <<'HOMEPORT_END'\n{text}\nHOMEPORT_END\n"
_IF_PYTHON = "command -v python3 >/dev/null || { echo null; exit 0; }; "


_NEED = re.compile(r"^from homeport_node import (.+)", re.M)


@functools.cache
def source(stem: str) -> str:
    """The text of `homeport_node.<stem>`."""
    return (_FOLDER / f"{stem}.py").read_text(encoding="utf-8")


@functools.cache
def needed(stem: str) -> tuple[str, ...]:
    """The modules that travel with `homeport_node.<stem>`, in the order in which they are loaded:
    `common`, and those that it names in lines `from homeport_node import a, b as c`."""
    found = dict.fromkeys(["common"])
    listed = ", ".join(_NEED.findall(source(stem)))
    for name in re.findall(r"(?:^|, )(\w+)", listed):
        found.update(dict.fromkeys((*needed(name), name)))
    return tuple(found)


@functools.cache
def _loads(stem: str) -> str:
    loads = [
        f"_package.{name} = _load({f'homeport_node.{name}'!r}, {source(name)!r})"
        for name in needed(stem)
    ]
    return _LOADER.format(stem=stem, needed="\n".join(loads), source=source(stem))


def _loader(stem: str, arguments: dict[str, Any]) -> str:
    return _loads(stem) + _ARGUMENTS.format(json.dumps(arguments, sort_keys=True))


def program(stem: str, arguments: dict[str, Any]) -> str:
    """The Python text that runs `homeport_node.<stem>.observe(**arguments)` and prints JSON."""
    return _loader(stem, arguments) + _OBSERVE


def asked(text: str) -> tuple[str, dict[str, Any]] | None:
    """(stem, arguments) of which `program` makes this very `text`, None for any other text."""
    found = _ASKED.search(text)
    if found is None:
        return None
    try:
        stem, arguments = found[1], json.loads(ast.literal_eval(found[2]))
        return (stem, arguments) if program(stem, arguments) == text else None
    except (ValueError, SyntaxError, OSError, TypeError):
        return None


class Act(StringCommand):
    """A command that runs one of our programs; `words` says which, without the program's text."""

    def __init__(self, text: str, words: str) -> None:
        super().__init__(text)
        self.words = words


def act(stem: str, function: str, **arguments: Any) -> StringCommand:
    """A command for an operation to yield: it runs `homeport_node.<stem>.<function>` on the node.

    The function returns None when it did its work, else what went wrong, in words: they appear on
    stderr and the command fails. Arguments travel as JSON and must not hold secrets.
    """
    text = _loader(stem, arguments) + _ACT.format(function=function)
    shown = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
    return Act(_SHELL.format(text=text), f"{stem}.{function}({shown})")


def python_program(shell: str) -> str | None:
    """The Python text that the shell text of a `NodeFact` runs; None when it is no such text."""
    begin, end = (_IF_PYTHON + _SHELL).split("{text}")
    if not shell.startswith(begin) or not shell.rstrip("\n").endswith(end.rstrip("\n")):
        return None
    program = shell[len(begin) :].rstrip("\n").removesuffix(end.rstrip("\n"))
    # Were the here-document to end earlier, the shell would run what follows.
    return None if end.strip() in program.split("\n") else program


class NodeFact(FactBase[Any]):
    """Base of a capability's fact. A subclass sets `stem`, and `absent` when `{}` will not do.

        class CaddyState(NodeFact):
            '''{"installed": true, …}'''
            stem = "caddy"

        host.get_fact(CaddyState, config="/etc/homeport/Caddyfile")

    Arguments are passed on as JSON: they must not hold secrets.
    """

    abstract = True
    stem: ClassVar[str]
    absent: ClassVar[Any] = {}

    def command(self, **arguments: Any) -> StringCommand:
        # pyinfra binds the arguments to this signature first, and so hands them over wrapped.
        arguments = arguments.get("arguments", arguments)
        text = program(self.stem, arguments)
        return StringCommand(_IF_PYTHON + _SHELL.format(text=text))

    def process(self, output: Any) -> Any:
        text = "\n".join(output)
        try:
            value = json.loads(text)
        except ValueError as error:
            raise FactProcessError(f"{type(self).__name__}: not JSON: {text[:300]!r}") from error
        return self.default() if value is None else value

    def default(self) -> Any:  # type: ignore[override]
        return self.absent
