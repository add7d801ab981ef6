"""What a watch saw of each host, and what its webhook was last told; and how it is told.

A host is told of when it stands otherwise than the webhook last took: it drifts, other operations
differ than before, it is as wanted again, it cannot be checked, it answers again. A host that was
never told of counts as clean, so one that is as wanted from the start is never told of. One that
cannot be checked stands as it stood until that happened `UNKNOWN_AFTER` times in a row: a lost
packet is no alarm.

Each message is one POST of one host:

    {"system": the inventory's name, "host",
     "state": "clean" | "drift" | "unknown",
     "since": when the first check found this state, UTC: "2026-11-20T20:15:00Z",
     "drift": [{"capability", "operation"}],      empty unless the state is "drift"
     "failure": [line],                           why, when the state is "unknown", else empty
     "text": all of it in one line for people}

`text` is what chat services show. No command and no content of a file is in a message; passwords
in addresses are masked, as `drift` does.

A message counts as told when the webhook answers 2xx. What it did not take is not queued: the
newest state of each host is told when it answers again, and nothing when that is the state that it
knows. A message whose answer was lost is sent twice.

The file that says so is the user's own, in $XDG_STATE_HOME/homeport/told (~/.local/state): one for
each inventory, targets file and webhook, so a new webhook is told of what drifts now.
"""

import dataclasses
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyinfra.api.exceptions import PyinfraError

from homeport import private
from homeport.pending import plain

# How many checks in a row must fail before a host counts as unknown.
UNKNOWN_AFTER = 2
# At most so many operations in `text`, and so many characters of what went wrong.
NAMED, QUOTED = 5, 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """How a host stood, and since when; `drift` is (capability, operation) of what differed."""

    state: str = "clean"
    since: str = ""
    drift: tuple[tuple[str, str], ...] = ()
    failure: tuple[str, ...] = ()

    def news_after(self, told: "Seen") -> bool:
        """Whether somebody who knows `told` does not know this."""
        return (self.state, sorted(self.drift)) != (told.state, sorted(told.drift))


@dataclass(kw_only=True, slots=True)
class Standing:
    """One host: how it stands, what was told of it, and since when it could not be checked."""

    seen: Seen = field(default_factory=Seen)
    told: Seen = field(default_factory=Seen)
    misses: int = 0
    missed_since: str = ""

    def see(self, state: str, at: str, drift: Any, failure: Any) -> None:
        """Take in one check, made at the time `at`."""
        if state == "unknown":
            self.missed_since = self.missed_since if self.misses else at
            self.misses += 1
            if self.misses < UNKNOWN_AFTER:
                return
            at = self.missed_since
        else:
            self.misses = 0
        since = self.seen.since if state == self.seen.state and self.seen.since else at
        self.seen = Seen(state=state, since=since, drift=drift, failure=failure)


def utc() -> str:
    """The time, as in messages."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Told:
    """The standings of an inventory's hosts towards one webhook, kept in a file.

    While it is open no other process can open it: raises `PyinfraError`.
    """

    def __init__(self, system: str, *key: str) -> None:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        digest = hashlib.sha256(json.dumps([system, *key]).encode()).hexdigest()[:32]
        self.path = state / "homeport" / "told" / f"{digest}.json"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.lock = os.fdopen(os.open(self.path.with_suffix(".lock"), flags, 0o600), "w")
        except OSError as error:
            raise PyinfraError(
                f"{error.filename}: {error.strerror}: what was told is kept there"
            ) from error
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.lock.close()
            raise PyinfraError(
                f"{system}: another watch tells this webhook already: end that one first"
            ) from None
        self.hosts = _standings(private.read_json(self.path))

    def keep(self) -> str:
        """Write the file; "" or why that could not be done."""
        try:
            value = {name: dataclasses.asdict(one) for name, one in self.hosts.items()}
            private.write_json({"hosts": value}, self.path)
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        return ""

    def close(self) -> None:
        """Let another process open it."""
        self.lock.close()


def _standings(value: Any) -> dict[str, Standing]:
    """The standings in the file's `value`; none when it is not what `keep` wrote."""
    try:
        return {
            name: Standing(
                seen=_seen(one["seen"]),
                told=_seen(one["told"]),
                misses=int(one["misses"]),
                missed_since=str(one["missed_since"]),
            )
            for name, one in value["hosts"].items()
        }
    except (TypeError, KeyError, ValueError, AttributeError):
        return {}


def _seen(value: Any) -> Seen:
    return Seen(
        state=str(value["state"]),
        since=str(value["since"]),
        drift=tuple((str(capability), str(name)) for capability, name in value["drift"]),
        failure=tuple(map(str, value["failure"])),
    )


def message(system: str, host: str, standing: Standing, remedy: str) -> dict[str, Any]:
    """What is sent of `host`; `remedy` is the command that puts a drift right."""
    seen = standing.seen
    return {
        "system": system,
        "host": host,
        "state": seen.state,
        "since": seen.since,
        "drift": [{"capability": stem, "operation": name} for stem, name in seen.drift],
        "failure": list(seen.failure),
        "text": " ".join(_text(system, host, standing, remedy).split()),
    }


def _text(system: str, host: str, standing: Standing, remedy: str) -> str:
    seen, who = standing.seen, host if host == system else f"{system}, {host}"
    back = "answers again, and " if standing.told.state == "unknown" else ""
    if seen.state == "unknown":
        why = (
            f"{seen.failure[0]}: {' '.join(seen.failure[1:])}" if seen.failure else "it is not said"
        )
        why = why if len(why) <= QUOTED else f"{why[:QUOTED]}…"
        return f"{who}: could not be checked {UNKNOWN_AFTER} times in a row: {why}"
    if seen.state == "clean":
        return f"{who}: {back}is as wanted{'' if back else ' again'}"
    names = [f"{stem}: {name}".removeprefix(": ") for stem, name in seen.drift]
    more = f"; and {len(names) - NAMED} more" if len(names) > NAMED else ""
    differs = "step differs" if len(names) == 1 else "steps differ"
    return f"{who}: {back}{len(names)} {differs}: {'; '.join(names[:NAMED])}{more}. {remedy}"


def clean_lines(lines: Iterable[str]) -> tuple[str, ...]:
    """`lines` as they may be sent: in plain words without passwords, the last ten only."""
    return tuple(plain(line).strip() for line in lines if line.strip())[-10:]
