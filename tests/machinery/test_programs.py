"""The programs that observe a node travel as source: each works alone, on a bare Python."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import homeport_node
from homeport.observe import needed, program
from homeport_node.common import Ran, run

FOLDER = Path(homeport_node.__file__).parent
TREES = {path.stem: ast.parse(path.read_text()) for path in FOLDER.glob("*.py")}
OBSERVE = sorted(
    stem
    for stem, tree in TREES.items()
    if any(isinstance(node, ast.FunctionDef) and node.name == "observe" for node in tree.body)
)


def imported(tree: ast.Module) -> set[str]:
    """What the module imports when it is loaded."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "homeport_node":
            names |= {f"homeport_node.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            own = node.module.startswith("homeport_node")
            names.add(node.module if own else node.module.partition(".")[0])
    return names


def test_there_is_one_for_each_capability_that_looks_at_the_node() -> None:
    assert {"base", "caddy", "docker", "hf_models", "probe", "secrets", "stack"} <= set(OBSERVE)


@pytest.mark.parametrize("stem", OBSERVE)
def test_it_needs_nothing_but_the_standard_library_and_what_travels_with_it(stem: str) -> None:
    known = {*sys.stdlib_module_names}
    for name in (*needed(stem), stem):
        assert imported(TREES[name]) <= known
        known.add(f"homeport_node.{name}")
    text = program(stem, {})
    assert "def observe(" in text
    compile(text, stem, "exec")


def test_what_a_program_needs_travels_before_it() -> None:
    names = [f"kernel_cmdline_{name}" for name in ("switch", "grub", "proxmox")]
    assert needed("kernel_cmdline") == ("common", *names)
    done = subprocess.run(
        [sys.executable, "-I", "-"],
        input=program("kernel_cmdline", {"wanted": []}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "boot_id" in json.loads(done.stdout)


def test_what_cannot_be_run_or_is_no_text_is_an_answer_too(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("no program")
    for command in (tmp_path / "plain", tmp_path / "none", tmp_path):
        ran = run(str(command))
        assert ran.status == 127
        assert str(command) in ran.err
    assert run("printf", r"caf\351\n") == Ran(0, "caf\N{REPLACEMENT CHARACTER}\n", "")
    assert run("cat", stdin="café") == Ran(0, "café", "")
    assert run("sleep", "5", timeout=0.1).status == 124
