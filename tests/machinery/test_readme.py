"""The README says what the code says."""

import re
from pathlib import Path

import click

from homeport.capability import table
from homeport.cli import capabilities, main

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def test_the_table_is_the_codes() -> None:
    found = re.search(r"<!-- capabilities -->\n(.*?)<!-- /capabilities -->", README, re.DOTALL)
    assert found is not None
    assert found[1] == table(capabilities()), "paste what `bin/homeport table` prints"


def test_every_command_is_written_of() -> None:
    texts = README + (ROOT / "CONTRIBUTING.md").read_text()
    missing = [
        name
        for name, command in main.commands.items()
        if not re.search(rf"`(bin/homeport )?{name}\b", texts)
        and isinstance(command, click.Command)
    ]
    assert missing == []


def test_every_capability_has_its_parts() -> None:
    for stem in capabilities():
        cases = list((ROOT / "tests" / stem).glob("test_*.py"))
        checks = [path for path in cases if path.name.startswith("test_node")]
        assert checks, f"tests/{stem}/test_node.py is missing: nothing checks a live node"
        assert len(cases) > len(checks), f"tests/{stem}/test_{stem}.py is missing: no cases"
        observing = ROOT / "homeport_node" / f"{stem}.py"
        assert observing.is_file(), f"homeport_node/{stem}.py is missing: nothing reads the node"
        assert f"{stem}.apply(" in (ROOT / "deploys" / "full.py").read_text()


def test_capabilities_are_applied_one_to_a_line() -> None:
    """pyinfra names an operation by the lines it is called from."""
    lines = (ROOT / "deploys" / "full.py").read_text().splitlines()
    assert max(line.count(".apply(") for line in lines) == 1
