"""What a node was asked and what it answered: facts from memory, as long as that is right.

pyinfra asks facts one by one, each at two round trips. Here the facts that the last run of the
same deploy asked (`homeport/record.py`) are asked together when the first of them is (one remote
command, `homeport/prefetch.py`), and a fact whose command is the same to the byte is answered
from memory. Everything else goes to the node as it always did: what is not in the record, what
failed, hung, or printed too much. The record only says what to ask, so a wrong one costs time and
nothing else.

Answers are of one moment, and are used only as long as that moment counts: within one phase
of the run, and when operations execute, until the first of them does anything, and for `FRESH`
seconds at most. `HOMEPORT_PREFETCH=0`, or the host's data `homeport_prefetch=False`, turns it off.
"""

import time
from collections.abc import Callable
from typing import Any

from pyinfra.api.state import StateStage
from pyinfra.connectors.util import CommandOutput

from homeport.record import Record

# Seconds for which answers are good while operations execute: other hosts may keep this one
# waiting at a step for as long as they like.
FRESH = 30.0


class Memory:
    """What one node was asked and what it answered, over one run."""

    def __init__(self, record: Record | None) -> None:
        self.record = record
        self.recorded = record.read() if record else []
        self.asked: dict[str, None] = {}  # in the prepare phase, in order
        self.known: dict[str, CommandOutput] = {}
        self.stage: StateStage | None = None
        self.fetched_at = 0.0
        self.changed = False

    def enter(self, stage: StateStage, ask: Callable[[list[str]], dict[str, Any]]) -> None:
        """Have the answers of `stage`, asking for them when they are of another or there are none.

        After the first change there are none, and none are asked for.
        """
        if self.changed or stage is self.stage:
            return
        self.stage = stage
        self.known = {}
        self.fetched_at = time.monotonic()
        if self.recorded:
            self.known = ask(self.recorded)

    def recall(self, command: str) -> CommandOutput | None:
        """The answer to `command`, if there is one that still counts."""
        if self.stage is StateStage.Execute and time.monotonic() - self.fetched_at > FRESH:
            self.known = {}
        return self.known.get(command)

    def change(self) -> None:
        """The node is about to be changed: nothing that was known counts any more."""
        self.changed = True
        self.known = {}

    def forget(self) -> None:
        """The connection is over. What comes after may find another node, or a rebooted one."""
        self.known = {}
        self.stage = None

    def keep(self, complete: bool) -> None:
        """Write the record of this run; what it did not come to ask stays when it broke off."""
        if self.record is None or not self.asked:
            return
        commands = list(self.asked if complete else dict.fromkeys([*self.recorded, *self.asked]))
        if commands != self.recorded:
            self.record.write(commands)
        else:
            self.record.touch(commands)
        self.recorded = commands
