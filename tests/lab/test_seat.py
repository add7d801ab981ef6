"""What a Wi-Fi client's seat takes for a proof; with a client that only says so."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from homeport.lab import LabError, StepFailed
from homeport.lab.resolver import ANSWER
from homeport.lab.vm import seat
from homeport.lab.vm.client import Answer, Client, Refused

NODE = SimpleNamespace(
    hotspot=SimpleNamespace(ssid="some", ip="10.42.0.1"), names=("box.internal",)
)


def client(*outcomes: str | Exception) -> Client:
    """A client whose attempts to join end so, one after the other."""
    left = list(outcomes)

    def join(ssid: str, psk: str) -> str:
        outcome = left.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return cast(Client, SimpleNamespace(join=join))


REFUSED = Refused("the network refuses the passphrase: reason=WRONG_KEY")


@pytest.mark.parametrize("more", [(), (REFUSED,)])
def test_a_refusal_and_then_an_address(more: tuple[Exception, ...]) -> None:
    joining = client(REFUSED, *more, "10.42.0.7")
    assert seat.joined(joining, NODE, "right") == "10.42.0.7"


@pytest.mark.parametrize(
    ("outcomes", "error"),
    [
        (("10.42.0.7",), StepFailed),  # the wrong passphrase was taken
        ((LabError("no network joined"), "10.42.0.7"), LabError),  # nobody has refused it
        ((REFUSED, REFUSED, REFUSED), LabError),
        ((REFUSED, "192.0.2.7"), StepFailed),
    ],
)
def test_anything_else_proves_nothing(outcomes: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        seat.joined(client(*outcomes), NODE, "right")


@pytest.mark.parametrize(("code", "good"), [(0, True), (3, True), (2, False)])
def test_a_server_that_fails_has_not_said_no(
    monkeypatch: pytest.MonkeyPatch, code: int, good: bool
) -> None:
    asked: list[tuple[str, int]] = []

    @contextmanager
    def recording(*_: object) -> Iterator[Any]:
        yield SimpleNamespace(asked=lambda: asked)

    def resolve(name: str, kind: str = "A") -> Answer:
        if name not in NODE.names:
            asked.append((name, 1))
            return Answer(0, (ANSWER,))
        return Answer(0, (NODE.hotspot.ip,)) if kind == "A" else Answer(code, ())

    monkeypatch.setattr(seat, "resolver", recording)
    on: Any = SimpleNamespace(neighbour=None)
    resolving = cast(Client, SimpleNamespace(resolve=resolve))
    try:
        said = seat.names(on, cast(Any, None), resolving, NODE)
    except StepFailed:
        assert not good
    else:
        assert good
        assert said.startswith("1 names lead to")
