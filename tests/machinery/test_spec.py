"""Wrong input dies at the desk, with one line that names the field."""

import copy
import re
from dataclasses import dataclass, replace
from typing import Literal

import pytest

from homeport.pins import Gpu
from homeport.spec import Spec, SpecError, is_host_name, is_inside, is_port


@dataclass(frozen=True, kw_only=True, slots=True)
class Tap(Spec):
    STEM = "tap"
    port: int
    name: str = "a"
    sizes: tuple[int, ...] = ()
    mode: Literal["on", "off", "idle"] = "on"
    others: tuple[Gpu, ...] = ()

    def validate(self) -> None:
        self.require("port", is_port(self.port), "must be a TCP port, 1 to 65535")


def test_a_right_one_is_taken() -> None:
    tap = Tap(port=80, sizes=(1, 2))
    assert replace(tap, port=81).port == 81
    assert copy.deepcopy(tap) == tap


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({}, "tap.port: is missing: it has no default"),
        ({"port": 0}, "tap.port: 0 must be a TCP port, 1 to 65535"),
        ({"port": "80"}, "tap.port: '80' must be of type int"),
        ({"port": True}, "tap.port: True must be of type int"),
        (
            {"port": 80, "nane": "b"},
            "tap.nane: 'b' is given for an unknown field; did you mean name?",
        ),
        (
            {"port": 80, "xyz": 1},
            "tap.xyz: 1 is given for an unknown field; known: port, name, sizes, mode, others",
        ),
        ({"port": 80, "sizes": (1, "2")}, "tap.sizes: (1, '2') must be of type tuple[int, ...]"),
        (
            {"port": 80, "sizes": 1},
            "tap.sizes: 1 must be a tuple: for one, write a comma after it: (…,)",
        ),
        ({"port": 80, "mode": "up"}, "tap.mode: 'up' must be 'on', 'off' or 'idle'"),
        ({"port": 80, "others": ("a",)}, "tap.others: ('a',) must be of type tuple[Gpu, ...]"),
        (
            {"port": "9" * 80},
            f"tap.port: '{'9' * 58}… must be of type int",
        ),
    ],
)
def test_a_wrong_one_is_one_line(fields: dict[str, object], line: str) -> None:
    with pytest.raises(SpecError) as caught:
        Tap(**fields)  # type: ignore[arg-type]
    assert str(caught.value) == line


def test_fields_are_given_by_name() -> None:
    with pytest.raises(SpecError, match="must be given by name"):
        Tap(80)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("iona.local.arpeggio.one", True),
        ("iona", True),
        ("Iona.local", False),
        ("iona..local", False),
        ("-iona.local", False),
        ("iona_1.local", False),
        ("iona.local.", False),
        ("a" * 64 + ".local", False),
        ("192.0.2.1", False),
        ("", False),
    ],
)
def test_host_names(name: str, good: bool) -> None:
    assert is_host_name(name) is good


@pytest.mark.parametrize(
    ("path", "good"),
    [("a/b.gguf", True), ("/a", False), ("../a", False), ("a/../../b", False), ("", False)],
)
def test_paths_inside(path: str, good: bool) -> None:
    assert is_inside(path) is good


def test_messages_name_the_inventory(tmp_path: object) -> None:
    source = "from tests.machinery.test_spec import Tap\nTap(port=0)\n"
    code = compile(source, "/x/inventory/iona.py", "exec")
    with pytest.raises(SpecError, match=re.escape("iona: tap.port: 0 must be")):
        exec(code, {})
