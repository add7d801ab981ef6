"""A planted secret is found in each disguise, and an absent one is not."""

import base64
from urllib.parse import quote

import pytest

from homeport.leaks import find_leaks

SECRET = "s3cr/et+of=32~characters&more!!x"


@pytest.mark.parametrize(
    "text",
    [
        SECRET,
        quote(SECRET, safe=""),
        base64.b64encode(SECRET.encode()).decode(),
        base64.b64encode(f"a{SECRET}".encode()).decode(),
        base64.b64encode(f"key={SECRET}&x".encode()).decode(),
        base64.urlsafe_b64encode(f"ab{SECRET}c".encode()).decode(),
    ],
)
def test_found(text: str) -> None:
    assert len(find_leaks({"key": SECRET}, {"ps": f"before {text} after"})) == 1


def test_not_found() -> None:
    assert find_leaks({"key": SECRET}, {"ps": SECRET[:-8] + "aaaaaaaa"}) == []


def test_the_value_is_not_told() -> None:
    assert SECRET not in find_leaks({"key": SECRET}, {"ps": SECRET})[0]


def test_a_short_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="too short"):
        find_leaks({"key": "short"}, {})
