"""The machine that the soak compares with."""

from collections.abc import Iterator

import pytest

from tests.lab.iona import Iona, built


@pytest.fixture(scope="session")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iona]:
    """A machine whose first converge nobody interrupted, with a Hub to publish on."""
    with built(tmp_path_factory.mktemp("stage")) as made:
        yield made
