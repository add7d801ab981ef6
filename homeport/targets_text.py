"""Puts one host's tables into a targets file by its text: what else is there stays as it is."""

import itertools
import tomllib
from collections.abc import Iterator
from pathlib import Path

from homeport.describe import place_id
from homeport.spec import SpecError


def put(path: Path, name: str, text: str) -> Path | None:
    """Put `text`, the tables of host `name`, into the file at `path`, in the place of its own.

    Returns the file that now holds what was there, None when a person would not miss it. Raises
    `SpecError`, having changed nothing, for a file that cannot be taken apart.
    """
    if not path.exists():
        path.write_text(text)
        return None
    try:
        old = path.read_bytes()
        hosts = tomllib.loads(old.decode()).get("hosts", {})
        merged = _merged(old.decode(), name, text)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SpecError(
            f"{path}: holds more than a table [hosts.{name}], or is not TOML: leave --write out, "
            "and put into it what is printed"
        ) from error
    aside = None
    if hosts.get(name, {}).get("address"):
        aside = next(one for one in _names(path) if not one.exists() or one.read_bytes() == old)
        aside.write_bytes(old)
    path.write_text(merged)
    return aside


def known(path: Path, name: str) -> dict[str, str]:
    """The handle of each UUID, MAC address and card in the table of host `name`; {} without one."""
    try:
        host = tomllib.loads(path.read_text())["hosts"][name]
        found = {place_id(card): handle for handle, card in host.get("pci", {}).items()}
        for table in ("gpus", "radios"):
            found.update((one, handle) for handle, one in host.get(table, {}).items() if one)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return {}  # `put` says what is wrong with it
    return found


def _names(path: Path) -> Iterator[Path]:
    for number in itertools.count(1):
        yield path.with_name(f"{path.name}.old{number if number > 1 else ''}")


def _merged(old: str, name: str, text: str) -> str:
    """`old` with `text` for the tables of host `name`. Raises `ValueError` where that fails."""
    kept = [one for one in _tables(old) if name not in tomllib.loads(one).get("hosts", {})]
    merged = "\n\n".join(one.strip() for one in (*kept, text) if one.strip()) + "\n"
    wanted = tomllib.loads(old)
    wanted.setdefault("hosts", {})[name] = tomllib.loads(text)["hosts"][name]
    if tomllib.loads(merged) != wanted:
        raise ValueError(name)
    return merged


def _tables(text: str) -> list[str]:
    """The tables of a TOML file, each with the comments above it."""
    tables, above = [""], ""
    for line in text.splitlines(keepends=True):
        if not line.strip() or line.startswith("#"):
            above += line
        elif line.startswith("["):
            tables.append(above + line)
            above = ""
        else:
            tables[-1] += above + line
            above = ""
    return [*tables[:-1], tables[-1] + above]
