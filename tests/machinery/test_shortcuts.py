"""Shortcuts say what the commands would, byte for byte, or leave them to be run."""

import os
import random
import shlex
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from pyinfra.api import StringCommand
from pyinfra.connectors.util import make_unix_command
from pyinfra.facts.files import Directory, File, FindInFile, Link, Sha1File, Sha256File
from pyinfra.facts.server import Users

from homeport import prefetch, shortcuts
from homeport_node import shortcuts as aboard

MARKER = "0123456789abcdef" * 2


def text_of(command: Any) -> str:
    return command.get_raw_value() if isinstance(command, StringCommand) else str(command)


def by_shell(text: str) -> list[Any]:
    done = subprocess.run(["/bin/sh", "-c", text], capture_output=True, check=False)
    return [done.returncode, done.stdout.decode(), done.stderr.decode()]


def assert_same(text: str, *, short: bool = True) -> None:
    """The answer is the shell's, and it came without one as `short` says."""
    found = shortcuts.shortcut(text)
    assert found is not None, text
    kind, arguments = found
    assert aboard.answer(kind, arguments, text) == by_shell(text)
    assert (aboard.answer(kind, arguments, "exit 99")[0] == 0) is short, text


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "directory").mkdir(mode=0o1770)
    (tmp_path / "file").write_text("PORT=80\nHOST=a b\n\nPORT = 81\n")
    (tmp_path / "file").chmod(0o4750)
    (tmp_path / "empty").touch()
    (tmp_path / "unended").write_text("one\nPORT=80")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "odd-link").symlink_to("..//a/./b")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "quoted-link").symlink_to("it's here")
    (tmp_path / "binary").write_bytes(b"PORT=80\0\n")
    (tmp_path / "accents").write_text("PORT=é\n")
    os.mkfifo(tmp_path / "fifo")
    # Looked at in the near future, so that looking at them now does not change that.
    soon = (time.time_ns() // 10**9 + 100) * 10**9 + 999_999_999
    os.utime(tmp_path / "file", ns=(soon, -5_500_000_000))
    for name in ("link", "odd-link", "dangling", "circle"):
        os.utime(tmp_path / name, ns=(soon, 5), follow_symlinks=False)
    return tmp_path


def test_the_status_of_every_kind_of_file(tree: Path) -> None:
    for name in ("directory", "file", "link", "odd-link", "dangling", "circle", "fifo", "none"):
        for fact in (File, Directory, Link):
            assert_same(text_of(fact().command(f"{tree}/{name}")))
    assert_same(text_of(File().command(f"{tree}/file/below")))
    assert_same(text_of(File().command("/dev/null")))
    assert_same(text_of(File().command(f"{tree}/quoted-link")), short=False)


def test_unknown_owners_are_called_so(tree: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(tree / "file", 54321, 54322)
    assert_same(text_of(File().command(f"{tree}/file")))


def test_the_sums_of_files(tree: Path) -> None:
    for name in ("file", "empty", "link", "binary", "none", "dangling"):
        assert_same(text_of(Sha1File().command(f"{tree}/{name}")))
    for name in ("directory", "circle"):
        assert_same(text_of(Sha1File().command(f"{tree}/{name}")), short=False)


PATTERNS = ("^PORT=.*$", "PORT", "^PORT=80$", "^.*PORT.*$", "^$", "PORT.=", "HOST=a b", "#", "x/y")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_lines_of_files(tree: Path, pattern: str) -> None:
    for name in ("file", "unended"):
        assert_same(text_of(FindInFile().command(f"{tree}/{name}", pattern)))


def test_the_lines_of_files_that_are_not_ordinary(tree: Path) -> None:
    pattern = "^PORT=.*$"
    for name in ("empty", "link"):
        assert_same(text_of(FindInFile().command(f"{tree}/{name}", pattern)))
    for name in ("none", "directory", "binary", "accents"):
        assert_same(text_of(FindInFile().command(f"{tree}/{name}", pattern)), short=False)


def test_random_files_and_patterns(tree: Path) -> None:
    chance = random.Random(4)
    path = tree / "random"
    for _ in range(25):
        path.write_text("".join(chance.choices("ab.=\n ", k=40)))
        pattern = "".join(chance.choices(["a", "b", ".", "=", ".*", " "], k=4))
        if shortcuts.shortcut(text_of(FindInFile().command(str(path), pattern))):
            assert_same(text_of(FindInFile().command(str(path), pattern)))


def test_the_accounts() -> None:
    text = text_of(Users().command())
    found = shortcuts.shortcut(text)
    assert found == ("accounts", [])
    assert aboard.answer("accounts", [], text) == by_shell(text)


@pytest.mark.parametrize(
    "text",
    [
        text_of(File().command("/a b")),
        text_of(File().command("/a'b")),
        text_of(File().command("~/a")),
        text_of(Sha256File().command("/a")),
        text_of(FindInFile().command("/a", "a+b")),
        text_of(FindInFile().command("/a", "a*")),
        text_of(FindInFile().command("/a", "[ab]")),
        text_of(FindInFile().command("/a", r"a\|b")),
        text_of(FindInFile().command("/a", "a$b")),
        text_of(FindInFile().command("/a", ".*" * 4)),
        text_of(FindInFile().command("/a", "it's")),
        text_of(FindInFile().command("/a", "x", extended_regex=True)),
        text_of(File().command("/a")) + "; rm -rf /tmp/x",
        text_of(File().command("/a")).replace("stat -c", "stat -L -c"),
        "echo",
    ],
)
def test_nothing_else_is_taken_for_one(text: str) -> None:
    assert shortcuts.shortcut(text) is None


def wrapped(command: Any) -> str:
    return make_unix_command(StringCommand(text_of(command))).get_raw_value()


def observed(commands: list[str]) -> dict[str, list[str]]:
    sent = prefetch.request(commands, MARKER)
    done = subprocess.run(prefetch.BOOT, shell=True, input=sent, capture_output=True, check=False)
    found = prefetch.answers(commands, MARKER, done.stdout)
    return {command: output.stdout_lines for command, output in found.items()}


def test_the_desk_puts_every_answer_where_it_belongs(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shortcuts, "AT_ONCE", 2)
    commands = [
        wrapped("echo first"),
        wrapped(File().command(f"{tree}/file")),
        wrapped(Sha1File().command(f"{tree}/file")),
        wrapped("exit 3"),
        wrapped(FindInFile().command(f"{tree}/file", "PORT")),
        wrapped(Sha1File().command(f"{tree}/directory")),
        wrapped("echo last"),
    ]
    found = observed(commands)
    assert list(found) == [command for command in commands if "exit 3" not in command]
    for command, lines in found.items():
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        assert lines == done.stdout.splitlines()


def test_a_process_that_broke_answers_nothing() -> None:
    assert shortcuts.expanded("", 2) == [None, None]
    assert shortcuts.expanded("[[0, ", 1) == [None]
    assert shortcuts.expanded("[[0, 1, 2]]", 2) == [None, None]
    assert shortcuts.expanded("[[0, 1, 2]]", 1) == [[0, 1, 2]]
