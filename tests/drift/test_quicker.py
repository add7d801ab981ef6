"""What is quicker than pyinfra's own gives what pyinfra's own gives."""

import importlib
from types import SimpleNamespace
from typing import Any

import pyinfra
import pytest
from pyinfra.api import arguments, util
from pyinfra.api.host import HostData

from homeport import quicker

THEIRS = HostData.__getattr__
OPERATION: Any = importlib.import_module("pyinfra.api.operation")

# A deploy that calls through a function and a loop, compiled under a name of its own.
DEPLOY = """
def step(depth):
    return ask() if depth == 0 else step(depth - 1)
found = [
    step(depth)
    for depth in range(3)
]
found.append(step(
    1,
))
"""


@pytest.mark.parametrize("is_cli", [True, False])
@pytest.mark.parametrize("deploy", ["/nowhere/deploy.py", "/nowhere/other.py", None])
def test_the_order_of_operations_is_the_same(
    deploy: str | None, is_cli: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyinfra, "is_cli", is_cli)
    state: Any = SimpleNamespace(current_deploy_filename=deploy, current_op_file_number=7)

    def run(ask: Any) -> Any:
        space = {"ask": lambda: ask(state)}
        exec(compile(DEPLOY, "/nowhere/deploy.py", "exec"), space)
        return space["found"]

    theirs, ours = (
        run(ask) for ask in (util.get_operation_order_from_stack, quicker.operation_order)
    )
    if deploy == "/nowhere/other.py":  # pyinfra then names the innermost frame, which is its own
        assert theirs == ours == [[7] if is_cli else []] * 4
    else:
        assert ours == theirs
        assert len(ours[0]) > 1


def test_the_arguments_are_the_same_and_nobody_can_change_them() -> None:
    theirs = quicker._all_global_arguments()
    assert quicker.all_global_arguments() == theirs
    quicker.all_global_arguments().clear()
    assert quicker.all_global_arguments() == theirs


def test_the_data_of_a_host_is_the_same() -> None:
    given: list[int] = [1]
    layers: tuple[Any, ...] = ({}, lambda: {"a": 1}, {"a": 2, "b": given}, lambda: {"c": None})
    data = HostData(SimpleNamespace(__str__=lambda: "x"), *layers)  # type: ignore[arg-type]
    data.d = 4
    for key in "abcd":
        assert quicker.host_data(data, key) == THEIRS(data, key)
    assert quicker.host_data(data, "b") is not given
    for lookup in (quicker.host_data, THEIRS):
        with pytest.raises(AttributeError, match="has no data `e`"):
            lookup(data, "e")


def test_pyinfra_has_what_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in (
        (OPERATION, "get_operation_order_from_stack"),
        (arguments, "all_global_arguments"),
        (HostData, "__getattr__"),
    ):
        assert callable(getattr(module, name))
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    quicker.quicken()
    assert OPERATION.get_operation_order_from_stack is quicker.operation_order
    assert arguments.all_global_arguments is quicker.all_global_arguments
    assert HostData.__getattr__ is quicker.host_data
