"""/etc/hosts: our block comes, changes and goes, and nothing else does."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploys.host_names import (
    BEGIN,
    END,
    PATH,
    HostNames,
    conflict,
    hosts_file,
    with_block,
    write_command,
)
from homeport.spec import SpecError
from tests.operations import Words, is_refusal, yielded

FOREIGN = "127.0.0.1\tlocalhost\n# a remark\n192.0.2.7 printer printer.example\n"
ONE = HostNames(names=("a.example",))
BLOCK = f"{BEGIN}\n127.0.0.1 a.example\n{END}\n"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"names": ("A.example",)}, "names: .*lower-case"),
        ({"names": ("a b",)}, "names: .*lower-case"),
        ({"names": ("a.example", "a.example")}, "names: .*once"),
        ({"names": ("localhost",)}, "names: .*localhost"),
        ({"names": ("a",), "address": "127.0.0.256"}, "address: .*IPv4 or IPv6"),
    ],
)
def test_wrong_input_names_its_field(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=f"host_names.{message}"):
        HostNames(**fields)


@pytest.mark.parametrize(
    ("text", "spec", "wanted"),
    [
        (FOREIGN + BLOCK, ONE, FOREIGN + BLOCK),
        (FOREIGN, None, FOREIGN),
        (FOREIGN, ONE, FOREIGN + BLOCK),
        (FOREIGN.rstrip("\n"), ONE, FOREIGN + BLOCK),
        ("", ONE, BLOCK),
        (FOREIGN + BLOCK, None, FOREIGN),
        (BLOCK + FOREIGN, None, FOREIGN),
        (FOREIGN + BLOCK + "192.0.2.9 late\n", ONE, FOREIGN + BLOCK + "192.0.2.9 late\n"),
        (BLOCK.replace("a.example", "old") + FOREIGN, ONE, BLOCK + FOREIGN),
        (BLOCK + FOREIGN + BLOCK, ONE, BLOCK + FOREIGN),
        (FOREIGN + BLOCK.rstrip("\n"), ONE, FOREIGN + BLOCK),
    ],
    ids=[
        "no-op",
        "no-op-none",
        "new",
        "no-line-end",
        "empty",
        "removed",
        "removed-first",
        "stays-in-place",
        "changed",
        "twice",
        "end-without-line-end",
    ],
)
def test_the_block(text: str, spec: HostNames | None, wanted: str) -> None:
    assert with_block(text, spec) == wanted


def test_a_block_without_its_end_takes_no_foreign_line() -> None:
    torn = f"{BEGIN}\n127.0.0.1 a.example\n"
    kept = "192.0.2.7 printer printer.example\n192.0.2.8 scanner\n"
    assert with_block(torn + kept, None) == kept
    assert with_block(torn + kept + BLOCK, ONE) == BLOCK + kept


def test_a_name_that_is_elsewhere_is_named_with_its_line() -> None:
    text = f"{FOREIGN}192.0.2.8 b.example A.Example # old\n"
    assert conflict(text, ONE) == f"line 4 of {PATH}: 192.0.2.8 b.example A.Example # old"


@pytest.mark.parametrize(
    "line",
    ["127.0.1.1 a.example", "127.0.0.1 a.example", "::1 a.example", "# 192.0.2.8 a.example", ""],
)
def test_what_is_no_conflict(line: str) -> None:
    assert conflict(f"{FOREIGN}{line}\n{BLOCK}", ONE) is None


def test_the_file_is_written_whole(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("old\n")
    text = "127.0.0.1 it's $HOME `id` %s\n"
    command = write_command(text).replace(PATH, str(hosts))
    assert subprocess.run(["sh", "-c", command], check=False).returncode == 0
    assert hosts.read_text() == text
    assert [*tmp_path.iterdir()] == [hosts]


def test_nothing_is_done_when_the_names_are_there() -> None:
    assert yielded(hosts_file, {"hosts": FOREIGN + BLOCK}, spec=ONE) == []
    assert yielded(hosts_file, {"hosts": FOREIGN}, spec=None) == []


def test_the_file_is_written_in_one_command() -> None:
    assert yielded(hosts_file, {"hosts": FOREIGN}, spec=ONE) == [write_command(FOREIGN + BLOCK)]
    assert yielded(hosts_file, {"hosts": FOREIGN + BLOCK}, spec=None) == [write_command(FOREIGN)]
    assert yielded(hosts_file, {}, spec=ONE) == [write_command(BLOCK)]


def test_a_name_that_is_elsewhere_is_refused() -> None:
    (refusal,) = yielded(hosts_file, {"hosts": "192.0.2.7 a.example\n"}, spec=ONE)
    assert is_refusal(refusal)
    assert "line 1 of /etc/hosts: 192.0.2.7 a.example" in refusal


# What drift says --------------------------------------------------------------------------------

BLOCKS = "/etc/hosts, Homeport's block: "
WORDS: list[Words] = [
    (hosts_file, [{"hosts": text}], {"spec": spec}, [(BLOCKS + wanted, there)])
    for text, spec, wanted, there in [
        (FOREIGN, ONE, "127.0.0.1 a.example", "no such line"),
        (
            FOREIGN + BLOCK.replace("a.example", "old"),
            ONE,
            "127.0.0.1 a.example",
            "127.0.0.1 old",
        ),
        (FOREIGN + BLOCK, None, "no other line", "127.0.0.1 a.example"),
        (BLOCK + FOREIGN + BLOCK, ONE, "once and whole, or none", "torn, empty, or there twice"),
    ]
]
