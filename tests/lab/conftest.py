"""One lab for all container tests of this folder: sources, a Debian 13 machine, a neighbour.

And Iona: one machine on which `inventory/iona.py` was converged, shared by the tests that break it.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from homeport.lab.engine import Engine, engine
from homeport.lab.machine import Machine, Neighbour, client_key, machine, neighbour
from homeport.lab.network import Network
from homeport.lab.sources import Sources, sources
from tests.lab.iona import Iona, built


@dataclass(frozen=True)
class Lab:
    """A lab that is up, and how to reach its machines."""

    engine: Engine
    network: Network
    sources: Sources
    machine: Machine
    neighbour: Neighbour
    ssh_key: Path
    ssh_public: str


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    directory = tmp_path_factory.mktemp("lab")
    wheels = directory / "wheels"
    wheels.mkdir()
    (wheels / "lab_sample-1.0-py3-none-any.whl").write_bytes(b"a wheel to be served")
    key, public = client_key(directory)
    with ExitStack() as stack:
        found = stack.enter_context(engine())
        network = stack.enter_context(found.network(f"homeport-test-{os.getpid()}"))
        served = stack.enter_context(sources(found, network, wheels=wheels))
        node = stack.enter_context(
            machine(
                found,
                network,
                "iona",
                ssh_key=key,
                ssh_public=public,
                names=served.names,
                gpus=("left", "right"),
            )
        )
        beside = stack.enter_context(neighbour(found, network))
        yield Lab(found, network, served, node, beside, key, public)


@pytest.fixture(scope="session")
def converged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iona]:
    """A bare machine that was locked and converged once. For tests: `iona`."""
    with built(tmp_path_factory.mktemp("stage")) as made:
        yield made


@pytest.fixture
def iona(converged: Iona) -> Iterator[Iona]:
    """Iona, converged. Every test leaves it so: a converge after it changes nothing."""
    yield converged
    converged.hub.faults({})
    again = converged.converge()
    assert again["changed"] == 0, again["hosts"]
