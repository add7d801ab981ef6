"""What a drift check says is wanted and there: of every operation, and never a secret."""

import ast
import importlib
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import gevent
import pytest
from pyinfra.context import ctx_host, ctx_state
from pyinfra.facts.files import Directory, File, Md5File, Sha1File
from pyinfra.operations import files, server

from homeport import own_files
from homeport.differs import Pair, differs, noted
from homeport.observe import act
from homeport.pending import LONGEST, pending
from homeport.refuse import refuse
from tests.operations import Words, said

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    importlib.import_module(f"tests.{path.parent.name}.{path.stem}")
    for path in sorted(ROOT.glob("tests/*/test_*.py"))
    if path.stem == f"test_{path.parent.name}"
]
CASES: list[Words] = [case for module in MODULES for case in getattr(module, "WORDS", ())]


def _name(operation: Any) -> str:
    return f"{operation._inner.__module__}.{operation._inner.__name__}"


# Our own operations -----------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=[_name(case[0]) for case in CASES])
def test_what_is_wanted_and_what_is_there(case: Words) -> None:
    operation, observed, arguments, pairs = case
    assert said(operation, *observed, **arguments) == pairs


def _operations() -> set[str]:
    """Every operation that a converge may run: ours by module, pyinfra's by its own."""
    found = set()
    for path in [*ROOT.glob("deploys/**/*.py"), *ROOT.glob("homeport/*.py")]:
        tree = ast.parse(path.read_text())
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        theirs = {
            alias.asname or alias.name: alias.name
            for node in imports
            if node.module == "pyinfra.operations"
            for alias in node.names
        }
        # An operation imported by its name would not be seen below.
        assert not [one for one in imports if (one.module or "").startswith("pyinfra.operations.")]
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and any(
                ast.unparse(one).startswith("operation(") for one in node.decorator_list
            ):
                found.add(f"{module}.{node.name}")
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                name = theirs.get(node.value.id)
                found |= {f"pyinfra.operations.{name}.{node.attr}"} if name else set()
    return found


def test_every_operation_has_words_of_its_own() -> None:
    """One that is missing here falls back to its name: add a case to the WORDS of its tests."""
    known = {_name(case[0]) for case in CASES if case[3]}
    known |= {_name(case[0]) for case in OF_PYINFRA if case[3]}
    assert len(known) > 25
    assert _operations() == known


# pyinfra's operations on files ------------------------------------------------------------------


class _Node:
    """Stands in for pyinfra's host: a node whose `facts` are {(fact, path): answer}."""

    current_op_global_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(self, facts: dict[tuple[type, str], Any]) -> None:
        self.facts = facts

    def get_fact(self, fact: type, *, path: str) -> Any:
        return self.facts.get((fact, path))

    def get_temp_filename(self, path: str, **_: Any) -> str:
        return f"{path}.new"

    def noop(self, words: str) -> None:
        pass


_STATE = SimpleNamespace(config=SimpleNamespace(DIFF=False), cwd=None, inventory=None)


def said_of(operation: Any, facts: dict[tuple[type, str], Any], **arguments: Any) -> list[Pair]:
    node = _Node(facts)
    with ctx_host.use(node), ctx_state.use(_STATE):
        return list(pending(node, "its name", lambda: operation._inner(**arguments)).differs)


AT = "/etc/x/file"
OURS = {"mode": 644, "user": "root", "group": "root"}
SAME = "a9993e364706816aba3e25717850c26c9cd0d89d"  # FIPS 180's example: SHA-1 of "abc"
THERE: dict[tuple[type, str], Any] = {
    (Directory, "/etc/x"): {**OURS, "mode": 755},
    (File, AT): OURS,
    (Sha1File, AT): SAME,
}
PUT = {"dest": AT, "user": "root", "group": "root", "mode": "644"}
WRITE = {"path": AT, "text": "abc"}
WHOLE = f"{AT}: sha1 a9993e364706, owner root:root, mode 644"
OF_PYINFRA: list[tuple[Any, dict[tuple[type, str], Any], dict[str, Any], list[tuple[str, str]]]] = [
    (files.put, THERE, PUT, []),
    (files.put, {}, PUT, [(WHOLE, "no such file")]),
    (files.put, {**THERE, (File, AT): False}, PUT, [(WHOLE, "no file, but something else")]),
    (
        files.put,
        {**THERE, (Sha1File, AT): "f" * 40},
        PUT,
        [(f"{AT}: sha1 a9993e364706", "sha1 ffffffffffff")],
    ),
    # A node without sha1sum.
    (
        files.put,
        {**THERE, (Sha1File, AT): None, (Md5File, AT): "f" * 32},
        PUT,
        [(f"{AT}: md5 900150983cd2", "md5 ffffffffffff")],
    ),
    (
        files.put,
        {**THERE, (File, AT): {**OURS, "mode": 666}},
        PUT,
        [(f"{AT}: mode 644", "mode 666")],
    ),
    (
        files.put,
        {**THERE, (File, AT): {**OURS, "user": "ann", "mode": 600}},
        {**PUT, "group": None},
        [(f"{AT}: mode 644, owner root", "mode 600, owner ann")],
    ),
    (own_files.write, THERE, WRITE, []),
    (
        own_files.write,
        {**THERE, (Sha1File, AT): "f" * 40, (File, AT): {**OURS, "mode": 600}},
        WRITE,
        [(f"{AT}: sha1 a9993e364706, mode 644", "sha1 ffffffffffff, mode 600")],
    ),
    (
        own_files.write,
        {**THERE, (File, AT): {**OURS, "group": "ann"}},
        WRITE,
        [(f"{AT}: owner root:root", "owner root:ann")],
    ),
    (
        own_files.write,
        {**THERE, (File, AT): False},
        WRITE,
        [(f"{AT}: a file", "a link, or something else")],
    ),
    (
        files.directory,
        {},
        {"path": "/srv/x", "mode": "755", "user": "root", "group": "root"},
        [("/srv/x: a directory, mode 755, owner root:root", "no such directory")],
    ),
    (
        files.directory,
        THERE,
        {"path": "/etc/x", "mode": "700"},
        [("/etc/x: mode 700", "mode 755")],
    ),
    (files.directory, THERE, {"path": "/etc/x", "mode": "755"}, []),
    (files.file, THERE, {"path": AT, "present": False}, [(f"{AT}: no such file", "a file")]),
    (files.file, {}, {"path": AT, "present": False}, []),
]


@pytest.mark.parametrize("case", OF_PYINFRA, ids=[_name(case[0]) for case in OF_PYINFRA])
def test_what_pyinfras_operations_find(case: Any) -> None:
    operation, facts, arguments, pairs = case
    if operation is files.put:
        arguments = {**arguments, "src": io.StringIO("abc")}
    assert said_of(operation, facts, **arguments) == pairs


def test_what_is_not_known_is_said_by_its_name() -> None:
    assert said_of(server.shell, {}, commands=["it's odd"]) == [("its name", "not so")]
    assert said_of(server.shell, {}, commands=["rm -f /x /y"]) == [("its name", "not so")]


# The words themselves ---------------------------------------------------------------------------


def _yields(*commands: Any) -> list[Pair]:
    node = _Node({})
    return list(pending(node, "its name", lambda: iter(commands)).differs)


def test_a_refusal_says_what_is_in_the_way() -> None:
    assert _yields(refuse("a is b", "do c")) == [("its name", "a is b")]
    assert _yields(refuse("a is b", "do c", wanted="a"), act("stack_actions", "pull")) == [
        ("a", "a is b")
    ]


def test_words_are_one_line_without_passwords_and_not_without_end() -> None:
    cause = "https://ann:s3cret@index.example/simple\nsays\x1b[31m no" + "!" * LONGEST
    ((_, there),) = _yields(refuse(cause, ""))
    assert there.startswith("https://ann:*MASKED*@index.example/simple says no!!!")
    assert len(there) == LONGEST + 1


def test_nobody_listens_in_a_converge() -> None:
    def words() -> Any:
        raise AssertionError("not even asked")
        yield

    differs(words())
    with noted() as outer, noted() as inner:
        differs([Pair("a", "b")])
    assert (outer, inner) == ([], [("a", "b")])


def test_hosts_side_by_side_do_not_mix() -> None:
    def one(name: str) -> list[Pair]:
        with noted() as pairs:
            for _ in range(3):
                differs([Pair(name, "")])
                gevent.sleep(0)
        return pairs

    greenlets = [gevent.spawn(one, name) for name in "ab"]
    gevent.joinall(greenlets)
    assert [greenlet.value for greenlet in greenlets] == [[("a", "")] * 3, [("b", "")] * 3]
