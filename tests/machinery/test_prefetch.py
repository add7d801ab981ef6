"""Many facts in one remote command: the program aboard, the frame, what is left out."""

import inspect
import io
import json
import os
import shlex
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from pyinfra.facts.files import FindInFile, Link, Sha1File

from homeport import prefetch
from homeport.observe import NodeFact, python_program, source
from homeport_node import gather

MARKER = "0123456789abcdef" * 2


class Base(NodeFact):
    stem = "base"


def observed(
    commands: list[str],
    seconds: float = 5,
    cap: int = 1 << 20,
    environment: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What the desk makes of `commands`, run here as on a node whose session has `environment`."""
    sent = prefetch.request(commands, MARKER, seconds, cap)
    done = subprocess.run(
        prefetch.BOOT, shell=True, env=environment, input=sent, capture_output=True, check=False
    )
    assert done.stderr == b""
    return prefetch.answers(commands, MARKER, done.stdout)


def test_outputs_and_errors_come_back_as_pyinfra_would_read_them() -> None:
    commands = [
        "sh -c 'echo one; echo; echo two >&2'",
        "sh -c 'printf \"no newline\"'",
        "sh -c 'printf \"a\\rb\\f\\n\\n\"'",
        "sh -c 'cat'",
    ]
    found = observed(commands)
    assert found[commands[0]].stdout_lines == ["one", ""]
    assert found[commands[0]].stderr_lines == ["two"]
    assert found[commands[1]].stdout_lines == ["no newline"]
    assert found[commands[2]].stdout_lines == ["a\rb\x0c", ""]
    assert found[commands[3]].stdout_lines == []  # standard input is at its end


def test_what_failed_hung_talked_too_much_or_is_no_text_is_left_out() -> None:
    good, failed = "sh -c 'echo good'", "sh -c 'echo bad; exit 3'"
    hung, stuck = "sh -c 'sleep 60'", "sh -c 'sleep 60 & echo started'"
    loud, binary = "sh -c 'head -c 300000 /dev/zero | tr \"\\0\" x'", "sh -c 'printf \"\\377\"'"
    unknown = "no-such-program"
    began = time.monotonic()
    found = observed([hung, good, failed, stuck, loud, binary, unknown], seconds=0.5, cap=200_000)
    assert found.keys() == {good}
    assert time.monotonic() - began < 3


# As a Node fact: what the program starts.
CHARACTER_TYPE = "import subprocess\nsubprocess.run('echo $LC_CTYPE', shell=True)\n"


@pytest.mark.parametrize(
    "given", [{}, {"LC_CTYPE": "C"}, {"LC_CTYPE": "C.UTF-8"}, {"LANG": "xx_XX.UTF-8"}]
)
def test_every_fact_finds_the_locale_that_it_finds_alone(
    given: dict[str, str], tmp_path: Path
) -> None:
    """In a session without LANG, Python sets LC_CTYPE for whatever it starts, and a shell none."""
    (tmp_path / "link").symlink_to("/etc/café")
    (tmp_path / "accents").write_text("PORT=é\n")
    (tmp_path / "latin").write_bytes(b"# \xe9\nPORT=8\n")
    facts = [
        Link().command(f"{tmp_path}/link"),
        FindInFile().command(f"{tmp_path}/accents", "^PORT=.$"),
        FindInFile().command(f"{tmp_path}/latin", "PORT"),
        f"grep . {tmp_path}/accents",
        "echo ${LC_CTYPE-none}",
        f"python3 - <<'END'\n{CHARACTER_TYPE}END\n",
    ]
    commands = [f"sh -c {shlex.quote(str(fact))}" for fact in facts]
    program = python_program(Base().command(zone="x").get_raw_value())
    assert program is not None
    node_fact = Base().command(zone="x").get_raw_value().replace(program, CHARACTER_TYPE)
    commands.append(f"sh -c {shlex.quote(node_fact)}")
    assert prefetch.fact(commands[-1])[0] == {"python": CHARACTER_TYPE}
    environment = {"PATH": os.environ["PATH"], **given}
    found = observed(commands, environment=environment)
    for command in commands:
        alone = subprocess.run(
            shlex.split(command), env=environment, capture_output=True, text=True, check=False
        )
        assert alone.returncode == 0
        assert found[command].stdout_lines == alone.stdout.splitlines()
        assert found[command].stderr_lines == alone.stderr.splitlines()


def test_one_that_says_what_is_no_text_costs_no_other_its_answer(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"PORT=\xe9\n")
    (tmp_path / "plain").write_text("PORT=8\n")
    texts = [FindInFile().command(f"{tmp_path}/{name}", "PORT") for name in ("latin", "plain")]
    commands = [f"sh -c {shlex.quote(str(text))}" for text in texts]
    found = observed(commands, environment={"PATH": os.environ["PATH"]})
    assert found.keys() == {commands[1]}


def test_a_shell_fact_is_ended_by_a_closed_pipe() -> None:
    command = "sh -c 'yes | head -n 1'"
    assert observed([command])[command].stderr_lines == []
    ignored = "sh -c 'grep SigIgn /proc/self/status'"
    alone = subprocess.run(shlex.split(ignored), capture_output=True, text=True, check=False)
    assert observed([ignored])[ignored].stdout_lines == alone.stdout.splitlines()


def test_hanging_ones_are_ended() -> None:
    def sleepers() -> int:
        done = subprocess.run(["pgrep", "-fc", "sleep 61.2345"], capture_output=True, check=False)
        return int(done.stdout)

    observed(["sh -c 'sleep 61.2345; true'"], seconds=0.3)
    assert sleepers() == 0


def test_facts_run_side_by_side_and_more_than_fit_at_once() -> None:
    facts = [{"shell": f"sleep 0.1; echo {number}"} for number in range(20)]
    began = time.monotonic()
    found = gather.gather(facts, seconds=5, cap=1000, at_once=10)
    assert time.monotonic() - began < 1.5  # one after the other: 2
    assert [answer and answer[1] for answer in found] == [f"{number}\n" for number in range(20)]


def test_a_python_fact_is_run_in_a_fork_as_python_would() -> None:
    program = "import sys\nprint(__name__)\nprint('oh', file=sys.stderr)\nsys.exit({})\n"
    texts = [program.format(code) for code in ("None", "3", "'words'")] + [
        "print(1)\nraise KeyError"
    ]
    found = gather.gather([{"python": text} for text in texts], seconds=5, cap=10**6, at_once=8)
    assert found[0] == [0, "__main__\n", "oh\n"]
    assert found[1] == [3, "__main__\n", "oh\n"]
    assert found[2] == [1, "__main__\n", "oh\nwords\n"]
    assert found[3] is not None
    assert found[3][:2] == [1, "1\n"]
    assert found[3][2].endswith("KeyError\n")


def test_a_node_fact_gives_the_same_by_every_way() -> None:
    asked = {"zone": "Etc/UTC", "units": [], "wanted": []}
    text = Base().command(**asked).get_raw_value()
    module = {"stem": "base", "needed": ["common"], "arguments": asked}
    facts: list[Any] = [{"shell": text}, {"python": python_program(text)}, module, module]
    sources = {stem: source(stem) for stem in ("common", "base")}
    by_shell, *others = gather.gather(facts, seconds=20, cap=10**6, at_once=2, sources=sources)
    assert by_shell is not None
    assert by_shell[0] == 0
    assert others == [by_shell] * 3


def test_a_module_that_cannot_be_loaded_or_fails_costs_no_other_its_answer() -> None:
    sources = {
        "common": "",
        "good": "from homeport_node import common\ndef observe(n): return n + 1\n",
        "broken": "match x:\n",
        "raises": "import no_such_module\n",
    }
    facts = [
        {"stem": stem, "needed": ["common"], "arguments": {"n": n}}
        for stem in ("broken", "good", "raises", "absent")
        for n in (1, "x")
    ]
    # As on a node, where nothing of ours is installed.
    asked = f"gather({facts!r}, 5, 10**6, 2, {sources!r})"
    program = f"{inspect.getsource(gather)}\nprint(json.dumps({asked}))"
    done = subprocess.run(
        [sys.executable, "-I", "-"], input=program, capture_output=True, text=True, check=True
    )
    found = [answer and answer[:2] for answer in json.loads(done.stdout)]
    assert found == [[1, ""], [1, ""], [0, "2\n"], *[[1, ""]] * 5]


@pytest.mark.parametrize(
    "text",
    [
        "echo one",
        "python3 - <<'HOMEPORT_END'\nprint(1)\nHOMEPORT_END\n",
        Base().command(zone="x").get_raw_value() + "\nrm -rf /tmp/x",
        Base().command(zone="x").get_raw_value().replace("import sys", "x\nHOMEPORT_END\necho"),
    ],
)
def test_other_shell_text_is_no_python_program(text: str) -> None:
    if "HOMEPORT_END\necho" in text or not text.startswith("command -v"):
        assert python_program(text) is None
    else:
        program = python_program(text)
        assert program is None or "rm -rf" not in program


def test_only_a_node_fact_whole_and_alone_is_run_as_python() -> None:
    asked = {"zone": "it's", "units": [], "wanted": []}
    text = Base().command(**asked).get_raw_value()
    command = f"sh -c {shlex.quote(text)}"
    needed = ("common",)
    assert prefetch.fact(command) == ({"stem": "base", "needed": needed, "arguments": asked}, None)
    # The text of another Homeport, say: it is run as it is.
    older = text.replace("def observe(", "def observe( ")
    program = python_program(older)
    assert prefetch.fact(f"sh -c {shlex.quote(older)}") == ({"python": program}, None)
    hidden = command.replace("import json", "'; touch /tmp/x; 'import json", 1)
    for other in (
        hidden,
        f"{command} x",
        f"sudo {command}",
        f"sh -c {shlex.quote(text)}'a'",
        "sh -c id",
    ):
        assert prefetch.fact(other) == ({"shell": other}, None)


def test_one_sudo_serves_all_when_all_want_the_same() -> None:
    mine, theirs = "sudo -H -n sh -c 'id'", "sudo -H -n -u caddy sh -c 'id'"
    assert prefetch.elevation([mine, mine]) == prefetch.SUDO
    assert prefetch.elevation([mine, theirs]) == ""
    assert prefetch.elevation([mine, "sh -c 'id'"]) == ""
    assert prefetch.elevation([]) == ""


def framed(values: Any) -> bytes:
    return gather.frame(MARKER, values)


def test_noise_around_the_frame_does_no_harm() -> None:
    received = b"welcome\n" + framed([[0, "yes\n", ""]]) + b"bye\n"
    assert prefetch.answers(["a"], MARKER, received)["a"].stdout_lines == ["yes"]


DEEP = zlib.compress(b"[" * 100_000)


@pytest.mark.parametrize(
    "received",
    [
        b"",
        b"sh: python3: not found\n",
        framed([[0, "yes\n", ""]])[:-3],
        framed([[0, "yes\n", ""]]).replace(MARKER.encode(), b"f" * 32),
        framed([]),
        framed([[0, "", ""], [0, "", ""]]),
        framed([1]),
        framed([[0]]),
        framed([[0, None, ""]]),
        framed([[0, "yes\n", ["no"]]]),
        framed([["0", "yes\n", ""]]),
        framed([{"0": 0}]),
        framed([[3, "yes\n", ""]]),
        framed(5),
        framed({"a": [0, "yes\n", ""]}),
        MARKER.encode() + b"%08x" % len(DEEP) + DEEP,
        MARKER.encode() + b"zzzzzzzz",
        MARKER.encode() + b"-0000001",
        MARKER.encode() + b"00000003abc",
        MARKER.encode() + b"%08x" % len(zlib.compress(b"{")) + zlib.compress(b"{"),
    ],
)
def test_an_answer_that_is_not_whole_is_none(received: bytes) -> None:
    assert prefetch.answers(["a"], MARKER, received) == {}


@pytest.mark.parametrize("said", [[0], [0, '[[0, 1, ""]]', ""], [0, "[5]", ""], [0, "{}", ""]])
def test_a_batch_that_answers_nonsense_answers_nothing(said: list[Any]) -> None:
    command = f"sh -c {shlex.quote(str(Sha1File().command('/etc/passwd')))}"
    assert prefetch.fact(command)[1] is not None
    assert prefetch.answers([command], MARKER, framed([said])) == {}


def test_the_program_writes_one_frame() -> None:
    out = io.BytesIO()
    asked = {"marker": MARKER, "facts": [{"shell": "echo hi"}], "seconds": 5, "cap": 100}
    gather.main(json.dumps(asked), out)
    assert prefetch.answers(["a"], MARKER, out.getvalue())["a"].stdout_lines == ["hi"]


class Channel:
    """An ssh channel over which nothing, or too much, or a broken connection comes."""

    pause = 0.0  # seconds before each chunk
    most = 1000  # bytes that are taken at once

    def __init__(self, fails: type[Exception] | None, chunk: bytes) -> None:
        self.fails, self.chunk, self.closed = fails, chunk, False
        self.commands: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None

    def send(self, data: bytes) -> int:
        time.sleep(self.pause)
        return min(len(data), self.most)

    def exec_command(self, command: str) -> None:
        self.commands.append(command)

    def recv(self, size: int) -> bytes:
        if self.fails:
            raise self.fails
        time.sleep(self.pause)
        return self.chunk

    def close(self) -> None:
        self.closed = True


class Transport:
    def __init__(self, channel: Channel) -> None:
        self.channel = channel

    def open_session(self, timeout: float) -> Channel:
        return self.channel


@pytest.mark.parametrize("fails", [socket.timeout, EOFError, ConnectionResetError, None])
def test_a_connection_that_fails_or_floods_gives_nothing(
    fails: type[Exception] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "ANSWER_CAP", 1000)
    channel = Channel(fails, b"x" * 600)
    assert prefetch.ask(Transport(channel), ["sudo -H -n sh -c 'id'"]) == {}
    assert channel.closed
    assert channel.commands == [prefetch.SUDO + prefetch.BOOT]


def test_an_answer_that_drips_is_given_up() -> None:
    channel = Channel(None, b"x")
    channel.pause, channel.most = 0.02, 1 << 20
    began = time.monotonic()
    assert prefetch.ask(Transport(channel), ["sh -c 'id'"], deadline=0.3) == {}
    assert time.monotonic() - began < 2
    assert channel.closed


def test_a_request_that_is_taken_in_drips_is_given_up() -> None:
    channel = Channel(None, b"x")
    channel.pause, channel.most = 0.02, 1
    began = time.monotonic()
    assert prefetch.ask(Transport(channel), ["sh -c 'id'"], deadline=0.3) == {}
    assert time.monotonic() - began < 2
    assert channel.closed


def test_a_connection_that_was_closed_gives_nothing() -> None:
    assert prefetch.ask(None, ["sh -c 'id'"]) == {}
