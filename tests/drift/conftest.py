"""What more than one of these tests needs."""

import os
from collections.abc import Iterator

import pytest


@pytest.fixture
def unread() -> Iterator[int]:
    """The end of a pipe whose other end is closed, as that to a `head` that has ended."""
    reads, writes = os.pipe()
    os.close(reads)
    yield writes
    os.close(writes)
