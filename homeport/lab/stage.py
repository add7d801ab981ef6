"""The stage of a rehearsal: bare machines for an inventory's hosts, and all that they fetch from.

Everything that can be built once is taken from the cache. What the stage hands over is what a
person has of real machines: a targets file. The lock is made against the lab's own registry and
Hub by the command that makes every lock.
"""

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from homeport.inventory import unbound
from homeport.lab import LabError, cache, evidence
from homeport.lab import engine as engines
from homeport.lab.cache import Progress, quiet
from homeport.lab.content import apt_repository, llama_image, model, open_webui_image
from homeport.lab.driver import Driver
from homeport.lab.engine import Engine
from homeport.lab.machine import Neighbour, client_key, machine, neighbour
from homeport.lab.network import Network
from homeport.lab.prerequisites import require_root
from homeport.lab.sources import Sources, sources
from homeport.lab.targets import write_targets
from homeport.lab.vm.emulator import Hardware, require_host
from homeport.lab.vm.machine import DESKSIDE, emulated, virtual_machine
from homeport.pins import Card, Gpu, HubRepo, Image, Radio, find
from homeport.spec import Spec
from homeport.wheel import REQUIREMENTS, download_wheels

# Python's version in each Debian release: what the package index must hold for the programs aboard.
PYTHON = {"bookworm": "3.11", "trixie": "3.13"}

_NUMBERS = itertools.count(1)

# What a rehearsal's machines are.
Kind = Literal["container", "machine"]

Build = Callable[[Path, str, Progress, dict[str, str] | None], None]


@dataclass(frozen=True, slots=True)
class Program:
    """An image that the lab builds: its recipe's key, and the function that builds it."""

    key: Callable[[], str]
    build: Build


# By repository, whatever the tag: the lab has one version of each program.
PROGRAMS = {
    "ghcr.io/ggml-org/llama.cpp": Program(llama_image.recipe_key, llama_image.build_llama_image),
    "ghcr.io/open-webui/open-webui": Program(
        open_webui_image.recipe_key, open_webui_image.build_open_webui_image
    ),
}


@dataclass
class Stage:
    """What stands while a rehearsal goes on."""

    engine: Engine
    machines: dict[str, Driver]
    neighbour: Neighbour
    sources: Sources
    directory: Path
    targets: Path
    lock: Path
    inventory: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which Homeport's own commands work on this stage."""
        return {
            **os.environ,
            "HOMEPORT_TARGETS": str(self.targets),
            "HOMEPORT_LOCK": str(self.lock),
        }

    @property
    def machine(self) -> Driver:
        """The one machine of a system that has one."""
        (only,) = self.machines.values()
        return only


def repository_files(nodes: dict[str, Spec]) -> dict[tuple[str, str], tuple[str, ...]]:
    """The files that the lab's Hub must have: names by (repository, revision).

    They are the names that links point at, and the patterns that are names.
    """
    wanted: dict[tuple[str, str], tuple[str, ...]] = {}
    for node in nodes.values():
        for spec in find(node, Spec):
            source = getattr(spec, "source", None)
            if not isinstance(source, HubRepo):
                continue
            names = list(getattr(spec, "links", {}).values())
            names += [name for name in source.patterns if not set(name) & set("*?[")]
            wanted[source.repo, source.revision] = tuple(dict.fromkeys(names))
    return wanted


def hub_root(
    nodes: dict[str, Spec], vocabulary: int = model.VOCABULARY, progress: Progress = quiet
) -> Path:
    """A directory that the lab's Hub serves: every repository of `nodes`, with tiny models.

    `vocabulary` is how many tokens they know, by which goes the time that they take for one.
    """
    wanted = repository_files(nodes)
    files = [[list(repo), list(names)] for repo, names in sorted(wanted.items())]
    name = cache.key(model.recipe_key(), vocabulary, files)

    def build(path: Path) -> None:
        progress("writing tiny models for the lab's Hub")
        path.mkdir()
        for (repo, revision), names in wanted.items():
            folder = path / repo / revision
            folder.mkdir(parents=True)
            for file in names:
                if not file.endswith(".gguf"):
                    raise LabError(f"{repo}: {file}: the lab can stand in for GGUF files only")
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                if "mmproj" in file:
                    model.write_projector(folder / file)
                else:
                    model.write_model(folder / file, vocabulary)

    return cache.entry("hub", name, build, progress)


def _vocabulary(on: Hardware | None, engine: Engine, progress: Progress) -> int:
    """The vocabulary with which a stream takes seconds, not minutes, on a stage's machines."""
    slow = on is not None and emulated(engine, on, progress)
    return model.EMULATED_VOCABULARY if slow else model.VOCABULARY


def wheels(release: str, progress: Progress = quiet) -> Path:
    """The wheels that `homeport_node` needs on `release`, for the lab's package index."""

    def build(path: Path) -> None:
        progress("fetching the wheels that the programs aboard need")
        download_wheels(path, PYTHON[release])

    name = cache.key(REQUIREMENTS, PYTHON[release])
    return cache.entry("wheels", name, build, progress)


def pins(nodes: dict[str, Spec]) -> tuple[str, ...]:
    """The packages that `nodes` want in one version from a maker's repository: "name=version"."""
    wanted = {pin for node in nodes.values() for spec in find(node, Spec) for pin in _pins(spec)}
    return tuple(sorted(wanted))


def _pins(spec: Spec) -> tuple[str, ...]:
    found: tuple[str, ...] = getattr(spec, "pins", ())
    return found


def push_images(nodes: dict[str, Spec], found: Sources, progress: Progress = quiet) -> None:
    """Put every image that `nodes` name into the lab's registry, building what is not there."""
    names = {image.name for node in nodes.values() for image in find(node, Image)}
    for name in sorted(names):
        repository = name.rpartition(":")[0]
        if repository not in PROGRAMS:
            raise LabError(f"{name}: the lab has no such program; it has {', '.join(PROGRAMS)}")
        _push_program(name, repository, found, progress)


def _push_program(name: str, repository: str, found: Sources, progress: Progress) -> None:
    """Build the program of `repository` and push it as `name`, unless that was done before."""
    program = PROGRAMS[repository]
    short = repository.rpartition("/")[2]
    if found.pushed(name, program.key()):
        return
    # One run at a time, whatever the recipe: all builds share their directory and their tag.
    with cache.lock(f"program-{short}", progress):
        if found.pushed(name, program.key()):
            return
        tag = f"homeport-lab/{short}:{program.key()}"
        if not found.engine.image_id(tag):
            try:
                program.build(cache.directory("build"), tag, progress, found.engine.environment)
            except subprocess.TimeoutExpired as error:
                raise LabError(f"{tag}: no end within {error.timeout:g} s") from error
        found.push(tag, name, program.key())
        found.engine.run("rmi", tag)


@contextmanager
def stage(
    inventory: Path,
    *,
    on: Kind = "container",
    hardware: Hardware = DESKSIDE,
    release: str = "trixie",
    hub: Path | None = None,
    progress: Progress = quiet,
) -> Iterator[Stage]:
    """Everything that a rehearsal of `inventory` stands on, for the length of the block.

    `on` says what its machines are: containers, or virtual machines with a kernel of their own and
    with `hardware`.
    `hub` is what the Hub serves, instead of the tiny models in the cache.
    """
    nodes = unbound(inventory)
    built = hardware if on == "machine" else None
    if built:
        require_host()
    packages = pins(nodes)
    with ExitStack() as stack:
        engine = stack.enter_context(engines.engine(progress))
        cache.sweep()
        # Outlives the block when the lab is kept: the key and the targets are needed to reach it.
        name = f"{os.getpid()}-{next(_NUMBERS)}"  # a process may have several stages up at once
        directory = cache.directory("stages", name)

        def forget(_kind: object, error: BaseException | None, _trace: object) -> None:
            if isinstance(error, Exception):
                evidence.keep(evidence.place(inventory.stem, on), directory)
            if not engine.keeping:
                shutil.rmtree(directory, ignore_errors=True)

        stack.push(forget)
        network = stack.enter_context(engine.network(f"homeport-lab-{name}"))
        found = stack.enter_context(
            sources(
                engine,
                network,
                hub_root=hub or hub_root(nodes, _vocabulary(built, engine, progress), progress),
                wheels=wheels(release, progress),
                packages=apt_repository.repository(packages, progress) if packages else None,
                progress=progress,
            )
        )
        push_images(nodes, found, progress)
        key, public = client_key(directory)
        common = {
            "ssh_key": key,
            "ssh_public": public,
            "names": found.names,
            "hook": not packages,
            "progress": progress,
        }
        machines = {
            name: stack.enter_context(
                _bare(built, engine, network, name, node, directory / name, release, common)
            )
            for name, node in nodes.items()
        }
        beside = stack.enter_context(neighbour(engine, network, progress=progress))
        yield Stage(
            engine=engine,
            machines=machines,
            neighbour=beside,
            sources=found,
            directory=directory,
            targets=write_targets(
                directory,
                machines,
                found,
                handles={name: handles(node, Radio) for name, node in nodes.items()},
            ),
            lock=directory / f"{inventory.stem}.lock",
            inventory=inventory,
        )


def handles(node: Spec, kind: type[Gpu] | type[Card] | type[Radio]) -> tuple[str, ...]:
    """The handles of `kind` that `node` names, each once, in its order."""
    return tuple(dict.fromkeys(pin.handle for pin in find(node, kind)))


def _bare(
    on: Hardware | None,
    engine: Engine,
    network: Network,
    name: str,
    node: Spec,
    directory: Path,
    release: str,
    common: dict[str, Any],
) -> AbstractContextManager[Driver]:
    """The bare machine `name`: a virtual one with the hardware `on`, or a container for None."""
    gpus = handles(node, Gpu)
    if on is None:
        return machine(engine, network, name, release=release, gpus=gpus, **common)
    return virtual_machine(
        engine,
        network,
        name,
        directory=directory,
        hardware=on,
        gpus=gpus,
        cards=tuple(dict.fromkeys((*gpus, *handles(node, Card))))[: on.cards],
        radios=bool(handles(node, Radio)),
        **common,
    )


def release(progress: Progress = quiet) -> int:
    """Take away every lab that was kept, and what is left of runs that died; how many were kept."""
    require_root()
    count = engines.release_kept(progress)
    cache.sweep()
    return count
