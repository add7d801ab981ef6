"""Shortcuts say what the commands would, byte for byte, or leave them to be run."""

import grp
import os
import random
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import StringCommand, arguments, facts
from pyinfra.connectors.util import CommandOutput, make_unix_command
from pyinfra.facts.files import Directory, File, FindInFile, Link, Sha1File, Sha256File
from pyinfra.facts.server import Users
from pyinfra.facts.systemd import SystemdEnabled, SystemdStatus

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
    assert aboard.answer(*found, text) == by_shell(text)
    otherwise = aboard.answer(*found, "exit 99")
    assert otherwise is not None
    assert (otherwise[0] == 0) is short, text


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


def test_what_lies_about_its_size_is_left_to_the_command(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aboard, "LARGE", 8)
    assert Path("/proc/version").stat().st_size == 0
    assert_same(text_of(Sha1File().command("/proc/version")), short=False)
    assert_same(text_of(FindInFile().command("/proc/version", "Linux")), short=False)
    (tree / "eight").write_text("PORT=80\n")
    assert_same(text_of(Sha1File().command(f"{tree}/eight")))


def test_accounts_beyond_ascii_are_left_to_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    if os.getuid() != 0 or aboard.accounts() is None:
        pytest.skip("this machine's accounts are out of the ordinary, or hidden")
    monkeypatch.setattr(grp, "getgrgid", lambda _: SimpleNamespace(gr_name="größe"))
    assert aboard.accounts() is None


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


SYSTEMCTL = """#!/bin/sh
# Stands for the program where there is no systemd: a block for each unit, properties in its order.
echo "$@" >>"$ASKED"
wanted=
while [ $# -gt 0 ]; do
    case $1 in
    show | --all) ;;
    --property) wanted="$wanted $2"; shift ;;
    *)
        [ -z "$more" ] || echo
        more=1
        for name in Id SubState UnitFileState; do
            case "$wanted " in *" $name "*) echo "$name=${name%d}-$1" ;; esac
        done ;;
    esac
    shift
done
[ ! -e "$ASKED.wrong" ] || exit 1
"""


def unit_texts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What pyinfra sends for two facts of two units."""
    texts: list[str] = []

    def run_shell_command(command: StringCommand, **_: Any) -> tuple[bool, CommandOutput]:
        texts.append(text_of(command))
        return True, CommandOutput([])

    arguments = dict.fromkeys(all_global_arguments_names(), None)
    host: Any = SimpleNamespace(connected=True, run_shell_command=run_shell_command)
    host.print_prefix = ""
    monkeypatch.setattr(facts, "_handle_fact_kwargs", lambda s, h, c, a, kw: (kw, dict(arguments)))
    state: Any = SimpleNamespace(
        print_fact_output=False, print_fact_input=False, print_fact_info=False
    )
    for unit in ("a.service", "b@1.timer"):
        for fact in (SystemdStatus, SystemdEnabled):
            facts.get_fact(state, host, fact, kwargs={"services": unit})
    return texts


def all_global_arguments_names() -> list[str]:
    return [name for name, _ in arguments.all_global_arguments()]


def test_units_are_asked_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = unit_texts(monkeypatch)
    (tmp_path / "systemctl").write_text(SYSTEMCTL)
    (tmp_path / "systemctl").chmod(0o755)
    asked = tmp_path / "asked"
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("ASKED", str(asked))
    found = [shortcuts.shortcut(text) for text in texts]
    assert [short and short[0] for short in found] == ["unit"] * 4
    request = [[*(short or ()), text] for short, text in zip(found, texts, strict=True)]
    alone = [by_shell(text) for text in texts]
    asked.unlink()
    assert list(aboard.answers(request)) == alone
    assert "SubState=SubState-a.service\n" in alone[0][1]
    assert len(asked.read_text().splitlines()) == 1
    (tmp_path / "asked.wrong").touch()  # when together went wrong, each is asked by itself
    assert list(aboard.answers(request)) == [by_shell(text) for text in texts]
    assert alone != list(aboard.answers(request))


@pytest.mark.parametrize(
    "text",
    [
        text_of(SystemdStatus().command(services="a.service")),
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
