"""What commands take: paths as the person means them, files to write to; and how they give up."""

import os
from pathlib import Path
from typing import Any, NoReturn

import click
from pyinfra.api.exceptions import PyinfraError

from homeport import report
from homeport.lab import LabError
from homeport.spec import fail

ROOT = Path(__file__).resolve().parent.parent

# Where the person stands: `main` moves to the checkout, from which pyinfra finds its files.
HERE = Path.cwd()


def _from_here(text: str) -> Path:
    """The path that `text` means to the person, shown from the checkout when it lies there."""
    path = Path(os.path.normpath(HERE / text))
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) else path


class FromHere(click.ParamType[Path]):
    name = "path"

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        return value if isinstance(value, Path) else _from_here(value)


class Key(click.ParamType[str]):
    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        path = Path(os.path.normpath(HERE / Path(value).expanduser()))
        home = Path.home()
        return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


class JsonFile(click.ParamType[str]):
    name = "file"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        path = HERE / value
        where = path if path.exists() else path.parent
        if value != "-" and (path.is_dir() or not os.access(where, os.W_OK)):
            fail("--json", value, "must be a file in a folder that exists and can be written to")
        return "-" if value == "-" else str(path)


INVENTORY = click.argument("inventory", type=FromHere())
JSON = click.option(
    "--json", "to", metavar="FILE", type=JsonFile(), help="Also write JSON; - is standard output."
)
LIMIT = click.option("--limit", multiple=True, metavar="HOST", help="Only this host; repeatable.")


def give_up(message: str) -> NoReturn:
    """Print one line and exit 1."""
    report.console.print(message, style="red", markup=False)
    raise SystemExit(1)


def command_line(command: str, inventory: Path) -> str:
    """How a person types `command` for `inventory`, environment included."""
    settings = [
        f"{name}={os.environ[name]} "
        for name in ("HOMEPORT_TARGETS", "HOMEPORT_LOCK")
        if os.environ.get(name)
    ]
    return f"{''.join(settings)}bin/homeport {command} {inventory}"


click.UsageError.exit_code = 1  # click's own 2 means "differs" here


class Group(click.Group):
    """Wrong input and refusals end in one line and exit status 1, never in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (PyinfraError, LabError) as error:
            give_up(str(error))
