"""The judgement on a stream can fail."""

import pytest

from tests.llama_server.streaming import Stream


@pytest.mark.parametrize(
    ("chunks", "first", "last", "words"),
    [
        (400, 0.1, 3.0, ""),
        (299, 0.1, 3.0, "fewer than 300"),
        (400, 0.1, 1.9, "too short to tell"),
        (400, 2.9, 3.0, "buffered"),
        (0, 0.0, 0.0, "fewer than 300"),
    ],
)
def test_complaint(chunks: int, first: float, last: float, words: str) -> None:
    complaint = Stream(chunks=chunks, first=first, last=last).complaint()
    assert (words in complaint) if words else complaint == ""
