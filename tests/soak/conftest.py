"""The machine that the soak compares with."""

import os
import shutil
from collections.abc import Iterator

import pytest

from homeport.inventory import unbound
from homeport.lab.stage import hub_root, stage
from tests.lab.iona import Hub, Iona
from tests.soak.healing import INVENTORY


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iona]:
    """A machine whose first converge nobody interrupted, with a Hub to publish on."""
    hub = tmp_path_factory.mktemp("stage") / "hub"
    shutil.copytree(hub_root(unbound(INVENTORY)), hub, copy_function=os.link)
    with stage(INVENTORY, hub=hub) as on:
        made = Iona(on, Hub(on.sources.hub, on.sources.authority.certificate, hub))
        made.build()
        yield made
