"""What a specification is: a frozen dataclass that refuses wrong input with one clear line.

A capability's spec is written as

    @dataclass(frozen=True, kw_only=True, slots=True)
    class Caddy(Spec):
        STEM = "caddy"
        http: Literal["redirect", "serve"] = "redirect"

        def validate(self) -> None:
            self.require("http", ..., "must be ...")

Construction checks, in this order: unknown and missing fields, the type of every field, then
`validate()`. Each failure is a `SpecError` whose text names the inventory, the field, what was
given and what is allowed. Nothing here talks to a machine.
"""

import dataclasses
import difflib
import functools
import re
import sys
import typing
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from pyinfra.api.exceptions import PyinfraError
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

# Characters of a wrong value that a message has at most: a specification can fill a screen.
SHOWN = 60


class SpecError(PyinfraError):
    """Wrong input, found before anything was touched.

    A `PyinfraError`, so that pyinfra's own command line prints it as one line too.
    """


def _inventory_name() -> str:
    """The stem of the inventory file that is being loaded, found on the call stack, or ""."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.parent.name == "inventory" and path.suffix == ".py":
            return path.stem
        frame = frame.f_back  # type: ignore[assignment]
    return ""


def fail(path: str, given: object, allowed: str) -> NoReturn:
    """Raise the `SpecError` for the field at `path` (`llama_server.ctx_size`).

    `allowed` says what is allowed and why, and starts with a verb ("must be …").
    """
    shown = repr(given)
    shown = shown if len(shown) <= SHOWN else f"{shown[: SHOWN - 1]}…"
    raise SpecError(f"{_where(path)}: {shown} {allowed}")


def _where(path: str) -> str:
    name = _inventory_name()
    return f"{name}: {path}" if name else path


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _wanted(hint: Any, given: object) -> str:
    """What a value of the type `hint` is, for a person who has `given` another."""
    if typing.get_origin(hint) is typing.Literal:
        *others, last = map(repr, typing.get_args(hint))
        return f"{', '.join(others)} or {last}" if others else last
    if typing.get_origin(hint) is tuple and not isinstance(given, tuple):
        return "a tuple: for one, write a comma after it: (…,)"
    wanted = hint.__name__ if isinstance(hint, type) else str(hint)
    return f"of type {re.sub(r'[a-z][a-z0-9_.]*[.](?=[A-Za-z])', '', wanted)}"


class _SpecType(type):
    """Turns unknown and missing keyword arguments into a `SpecError` that names the field."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if args:
            fail(cls._stem(), args, "must be given by name")  # type: ignore[attr-defined]
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        for name in kwargs:
            if name not in fields:
                near = difflib.get_close_matches(name, fields, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(fields)}"
                path = cls.path_of(name)  # type: ignore[attr-defined]
                fail(path, kwargs[name], f"is given for an unknown field{hint}")
        for name, field in fields.items():
            no_default = field.default is dataclasses.MISSING
            if name not in kwargs and no_default and field.default_factory is dataclasses.MISSING:
                path = cls.path_of(name)  # type: ignore[attr-defined]
                raise SpecError(f"{_where(path)}: is missing: it has no default")
        return super().__call__(**kwargs)


class Spec(metaclass=_SpecType):
    """Base of every specification; see the module's docstring.

    `STEM` names the capability in messages. `NEEDS` names what a machine must offer to carry it
    ("radio", "boot_loader", …): a target that lists one of them under `lacks` does without the
    capability, and the run reports it as not exercised. `CHECKS_NEED` names what a machine must
    offer for a part of the capability to be shown, and that part in words: a target that lacks it
    carries the capability all the same, and that part is reported as not exercised. `brings_driver`
    says that the node may be without NVIDIA's driver, and so its GPUs without known UUIDs, until
    this capability had its turn.
    """

    __slots__ = ()
    STEM: ClassVar[str] = ""
    NEEDS: ClassVar[frozenset[str]] = frozenset()
    CHECKS_NEED: ClassVar[dict[str, str]] = {}

    @property
    def brings_driver(self) -> bool:
        return False

    @classmethod
    def _stem(cls) -> str:
        return cls.STEM or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    @classmethod
    def path_of(cls, field: str) -> str:
        """How messages name `field` of this spec: `llama_server.ctx_size`."""
        return f"{cls._stem()}.{field}"

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            if typing.get_origin(hint) is ClassVar:
                continue
            value = getattr(self, name)
            try:
                # bool is an int in Python, and never what a number's field means.
                if isinstance(value, bool) and hint is int:
                    raise TypeCheckError("is not an int")
                check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
            except TypeCheckError:
                fail(self.path_of(name), value, f"must be {_wanted(hint, value)}")
        self.validate()

    def validate(self) -> None:
        """Check the values; overridden by each spec. Raises `SpecError` through `require`."""

    def require(self, field: str, ok: bool, allowed: str) -> None:
        """Refuse this spec unless `ok`; `allowed` starts with a verb and says why."""
        if not ok:
            fail(self.path_of(field), getattr(self, field), allowed)


HOST_NAME = re.compile(r"(?=.{1,253}\Z)([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)*[a-z][a-z0-9-]{0,62}")


def is_host_name(name: str) -> bool:
    """Whether `name` is a lower-case DNS host name (RFC 1123), without a trailing dot."""
    return HOST_NAME.fullmatch(name) is not None and not name.endswith("-")


def is_port(port: int) -> bool:
    """Whether `port` is a TCP or UDP port number that a service can be given."""
    return 1 <= port <= 65535


def is_inside(path: str) -> bool:
    """Whether `path` is relative and stays inside the directory it is relative to."""
    parts = Path(path).parts
    return bool(parts) and not Path(path).is_absolute() and ".." not in parts
