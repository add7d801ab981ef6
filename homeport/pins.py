"""What an inventory names and a machine or a registry decides: GPUs, radios, images, repositories.

An inventory says `gpu("left")` or `image("ghcr.io/…:tag")`. The targets file says which card is
"left" and where images are fetched from; the lock says which digest or commit a name stood for.
`bind` joins the three: it returns the same specification with every such value filled in.
"""

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from homeport.lock import Lock, LockedFile
from homeport.spec import Spec, fail
from homeport.targets import PciCard, Target

T = TypeVar("T")

IMAGE_NAME = re.compile(
    r"(?P<registry>[a-z0-9.-]+(:\d+)?)/(?P<path>[a-z0-9._/-]+):(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]*)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu(Spec):
    """One GPU by its handle; `uuid` (as `nvidia-smi -L` prints it) comes from the target.

    It is "" where the target has the handle with nothing beside it, for a node without a driver.
    """

    handle: str
    uuid: str = ""

    def bound(self, target: Target, lock: Lock) -> "Gpu":
        unknown = target.gpus.get(self.handle) == ""
        return dataclasses.replace(self, uuid="" if unknown else target.gpu(self.handle))


@dataclass(frozen=True, kw_only=True, slots=True)
class Card(Spec):
    """One PCI card by its handle, whatever drives it; what it is and where comes from the target.

    `others` are all cards that the target names, by handle: among cards that look alike, one is
    known by the places of all.
    """

    handle: str
    pci: PciCard | None = None
    others: dict[str, PciCard] = dataclasses.field(default_factory=dict)

    def bound(self, target: Target, lock: Lock) -> "Card":
        card = target.card(self.handle)
        others = {name: one for name, one in target.pci.items() if name != self.handle}
        return dataclasses.replace(self, pci=card, others=others)


@dataclass(frozen=True, kw_only=True, slots=True)
class Radio(Spec):
    """One Wi-Fi radio by its handle; `mac` comes from the target."""

    handle: str
    mac: str = ""

    def bound(self, target: Target, lock: Lock) -> "Radio":
        return dataclasses.replace(self, mac=target.radio(self.handle))


@dataclass(frozen=True, kw_only=True, slots=True)
class Image(Spec):
    """A container image: `name` with registry and tag, as the inventory wants it.

    `digest` ("sha256:…") comes from the lock and is "" without one. `mirror` is the registry that
    the target's sources put in the place of the name's own, or "".
    """

    name: str
    digest: str = ""
    mirror: str = ""

    def validate(self) -> None:
        self.require(
            "name",
            IMAGE_NAME.fullmatch(self.name) is not None,
            "must be registry/path:tag, all three written out",
        )

    @property
    def reference(self) -> str:
        """What a container engine is asked for: by digest when locked, else by tag."""
        match = IMAGE_NAME.fullmatch(self.name)
        assert match is not None
        base = f"{self.mirror or match['registry']}/{match['path']}"
        return f"{base}@{self.digest}" if self.digest else f"{base}:{match['tag']}"

    def bound(self, target: Target, lock: Lock) -> "Image":
        registry = self.name.split("/", 1)[0]
        return dataclasses.replace(
            self,
            digest=lock.images.get(self.name, ""),
            mirror=target.sources.registries.get(registry, ""),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HubRepo(Spec):
    """Files of one Hugging Face repository: those whose path matches one of `patterns` (glob).

    `revision` is what the inventory asks for (a branch, a tag, a commit). `commit` (40 hex digits)
    and `files` come from the lock; both are empty without one.
    """

    repo: str
    patterns: tuple[str, ...]
    revision: str = "main"
    commit: str = ""
    files: tuple[LockedFile, ...] = ()

    def validate(self) -> None:
        self.require(
            "repo",
            re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo) is not None,
            "must be owner/name, as in the repository's address on the Hub",
        )
        self.require("patterns", bool(self.patterns), "must name at least one file or glob")

    @property
    def key(self) -> str:
        """How the lock names these files."""
        return f"{self.repo}@{self.revision}"

    def bound(self, target: Target, lock: Lock) -> "HubRepo":
        locked = lock.repos.get(self.key)
        if locked is None:
            return self
        if set(locked.patterns) != set(self.patterns):
            fail(
                "lock",
                locked.patterns,
                f"must be the patterns that the inventory asks of {self.repo}, "
                f"{self.patterns!r}: make the lock anew with `bin/homeport lock`",
            )
        return dataclasses.replace(self, commit=locked.commit, files=locked.files)


PINS = (Gpu, Card, Radio, Image, HubRepo)


def gpu(handle: str) -> Gpu:
    """The GPU that the targets file calls `handle`."""
    return Gpu(handle=handle)


def card(handle: str) -> Card:
    """The PCI card that the targets file calls `handle`: one that a virtual machine is given."""
    return Card(handle=handle)


def radio(handle: str) -> Radio:
    """The Wi-Fi radio that the targets file calls `handle`."""
    return Radio(handle=handle)


def image(name: str) -> Image:
    """The container image `name`: registry/path:tag."""
    return Image(name=name)


def bind(value: T, target: Target, lock: Lock) -> T:
    """`value`, a specification or a tuple or dict of such, with every pin in it filled in."""
    result: Any = value
    if isinstance(value, PINS):
        result = value.bound(target, lock)
    elif isinstance(value, Spec):
        changes = {}
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            old = getattr(value, field.name)
            new = bind(old, target, lock)
            if new is not old:
                changes[field.name] = new
        result = dataclasses.replace(value, **changes) if changes else value  # type: ignore[type-var]
    elif isinstance(value, tuple):
        items = tuple(bind(item, target, lock) for item in value)
        changed = any(a is not b for a, b in zip(items, value, strict=True))
        result = items if changed else value
    elif isinstance(value, dict):
        result = {key: bind(item, target, lock) for key, item in value.items()}
    return result  # type: ignore[no-any-return]


def find(value: object, kind: type[T]) -> Iterator[T]:
    """Every `kind` inside `value`, a specification or a tuple or dict of such, in order."""
    if isinstance(value, kind):
        yield value
    if isinstance(value, Spec):
        for field in dataclasses.fields(value):  # type: ignore[arg-type]
            yield from find(getattr(value, field.name), kind)
    elif isinstance(value, tuple):
        for item in value:
            yield from find(item, kind)
    elif isinstance(value, dict):
        for item in value.values():
            yield from find(item, kind)
