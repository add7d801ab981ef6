"""`homeport-node <stem> <verb> …`: runs one of the programs aboard.

A module of this package offers verbs by defining `VERBS = {…}`, a dictionary from a verb's name to
a function that takes the rest of the command line and returns the exit status. A verb that cannot
do its work raises `SystemExit("why")`: the words go to standard error and the status is 1.
"""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

Verb = Callable[[list[str]], int]


def stems() -> list[str]:
    """The modules that offer verbs, found in their text: importing each would load its needs."""
    texts = {path.stem: path.read_text() for path in Path(__file__).parent.glob("*.py")}
    return sorted(stem for stem, text in texts.items() if "\nVERBS = {" in text)


def verbs(stem: str) -> dict[str, Verb]:
    """The verbs of the module `stem`; empty when it offers none."""
    if stem not in stems():
        return {}
    module = importlib.import_module(f"homeport_node.{stem}")
    return dict(module.VERBS)


def main(arguments: list[str] | None = None) -> int:
    """Run the verb that the command line names; returns the exit status, 2 for a wrong one."""
    given = sys.argv[1:] if arguments is None else arguments
    offered = verbs(given[0]) if given else {}
    if len(given) < 2 or given[1] not in offered:
        known = given[:1] if offered else stems()
        print("usage: homeport-node <stem> <verb> …; known:", file=sys.stderr)
        for stem in known:
            print(f"  {stem} {'|'.join(sorted(verbs(stem)))}", file=sys.stderr)
        return 2
    return offered[given[1]](given[2:])
