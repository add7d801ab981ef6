"""Three of pyinfra's own functions, with the same results in less time.

pyinfra orders operations by the lines they were called from, and asks `inspect` for them, which
reads and searches source files that nobody looks at afterwards; and for every operation and every
fact it resolves the types of its global arguments, and looks each of them up in the host's data by
way of five exceptions. Together they are most of what a drift check computes at the desk.
`tests/drift/test_quicker.py` holds them equal to pyinfra's, and fails when an upgrade moves
them.
"""

import functools
import importlib
import sys
from copy import copy
from types import FrameType
from typing import Any

import pyinfra
from pyinfra.api import arguments, util
from pyinfra.api.host import HostData
from pyinfra.api.state import State

# By name: `pyinfra.api.operation` as an attribute is the decorator.
_operation = importlib.import_module("pyinfra.api.operation")
_all_global_arguments = arguments.all_global_arguments


def operation_order(state: State) -> list[int]:
    """The lines of the frames from the deploy's file on, outermost first, without pyinfra's own.

    As `pyinfra.api.util.get_operation_order_from_stack`.
    """
    frames = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        frames.append((frame.f_code.co_filename, frame.f_lineno))
        frame = frame.f_back
    frames.reverse()
    deploy = state.current_deploy_filename
    if deploy:
        begin = next((n for n, (name, _) in enumerate(frames) if name == deploy), len(frames))
        frames = frames[begin:]
    lines = [line for name, line in frames if not name.startswith(util.PYINFRA_INSTALL_DIR)]
    return [state.current_op_file_number, *lines] if pyinfra.is_cli else lines


@functools.cache
def _arguments() -> tuple[tuple[str, type], ...]:
    return tuple(_all_global_arguments())


def all_global_arguments() -> list[tuple[str, type]]:
    """As `pyinfra.api.arguments.all_global_arguments`, whose answer never changes."""
    return list(_arguments())


def host_data(self: HostData, key: str) -> Any:
    """As `pyinfra.api.host.HostData.__getattr__`: the value in the first data that has `key`."""
    for data in self.datas:
        if callable(data):
            data = data()
        if key in data:
            return copy(data[key])
    raise AttributeError(f"Host `{self.host}` has no data `{key}`")


def quicken() -> None:
    """Have pyinfra use these, in this process."""
    vars(_operation)["get_operation_order_from_stack"] = operation_order
    vars(arguments)["all_global_arguments"] = all_global_arguments
    HostData.__getattr__ = host_data  # type: ignore[method-assign]
