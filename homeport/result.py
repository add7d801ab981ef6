"""What a run is told while it goes on, and what it leaves behind, as plain data."""

from dataclasses import dataclass, field

from homeport.inventory import NotExercised
from homeport.waiting import Waiting


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One operation that ran commands on one host; `seconds` is its wall time."""

    operation: str
    commands: int
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """What stopped a host: the step, and the node's own words, last lines last."""

    operation: str
    words: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class HostResult:
    """What a run did to one host. `operations` counts all of them, changed or not."""

    name: str
    operations: int = 0
    changed: list[Change] = field(default_factory=list)
    failure: Failure | None = None
    not_exercised: tuple[NotExercised, ...] = ()
    closing: tuple[str, ...] = ()
    waiting: tuple[Waiting, ...] = ()


@dataclass(kw_only=True, slots=True)
class RunResult:
    """A whole run; `seconds` is wall time including connecting."""

    hosts: list[HostResult]
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        return all(host.failure is None for host in self.hosts)

    @property
    def changed(self) -> int:
        """How many operations ran commands, over all hosts."""
        return sum(len(host.changed) for host in self.hosts)


class Progress:
    """What a run tells while it goes on; the base class says nothing."""

    def step(self, host: str, operation: str, done: int, total: int) -> None:
        """`operation` begins on `host`; `done` of `total` operations are behind it."""

    def line(self, host: str, line: str) -> None:
        """The node printed `line` while an operation ran."""
