"""Whether this run may reboot, and what waits for that when it may not: the run's end says it."""

from typing import Any, NamedTuple

from homeport.spec import fail


def may_reboot(data: Any) -> bool:
    """Whether the run with this host data may reboot. Raises `SpecError` for another word."""
    given = data.get("reboot") or "auto"
    if given not in ("auto", "never"):
        fail("--data reboot", given, "must be 'auto' or 'never'")
    return bool(given == "auto")


class Waiting(NamedTuple):
    """What of a capability is not in force yet, in words."""

    capability: str
    words: str


_waiting: dict[str, dict[Waiting, None]] = {}


def begin() -> None:
    """Forget what an earlier run in this process said."""
    _waiting.clear()


def waits(host: str, capability: str, words: str) -> None:
    """Note that `capability` waits on the host of this name."""
    _waiting.setdefault(host, {})[Waiting(capability, words)] = None


def waiting(host: str) -> tuple[Waiting, ...]:
    """What was noted of the host of this name, in order."""
    return tuple(_waiting.get(host, ()))
