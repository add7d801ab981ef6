"""What waits for a reboot that this run was told not to make, by host: the run's end says it."""

from typing import NamedTuple


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
