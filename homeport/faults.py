"""Whatever goes wrong in an inventory, a program of the user's, as one line that says where."""

import contextlib
import traceback
from collections.abc import Iterator
from pathlib import Path

from pyinfra.api.exceptions import PyinfraError

from homeport.spec import SpecError


@contextlib.contextmanager
def in_one_line(path: Path) -> Iterator[None]:
    """Run the inventory at `path` in the block. What it raises becomes a `SpecError`.

    `inventory/iona.py:45: NameError: name 'CTX' is not defined`
    """
    _check(path)
    try:
        yield
    except PyinfraError:
        raise
    except Exception as error:
        cause: Exception = getattr(error, "exception", error)  # pyinfra wraps what a file raises
        words = cause.msg if isinstance(cause, SyntaxError) else str(cause)
        kind = type(cause).__name__
        raise SpecError(f"{_where(path, cause)}: {kind}: {' '.join(words.split())}") from error


def _check(path: Path) -> None:
    if path.suffix == ".py" and path.is_file():
        return
    said = (
        "is no inventory: one is a Python file" if path.exists() else "there is no such inventory"
    )
    there = sorted(path.parent.glob("*.py")) or sorted(Path("inventory").glob("*.py"))
    raise SpecError(f"{path}: {said}; there are {', '.join(map(str, there))}")


def _where(path: Path, error: Exception) -> str:
    """The file and the line of `error`: the innermost in the inventory, where there is one."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [one.lineno for one in frames if Path(one.filename).resolve() == path.resolve()]
    return f"{path}:{lines[-1]}" if lines else str(path)
