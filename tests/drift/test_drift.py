"""Drift says what would be done, does none of it, and says clean only when it knows."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pyinfra.api import FileUploadCommand, QuoteString, StringCommand
from pyinfra.api.hiddenvalue import HiddenValue

from homeport.differs import Pair
from homeport.drift import Difference, DriftResult, HostDrift, stems
from homeport.drift_report import SHOWN, print_result, result_json
from homeport.inventory import NotExercised
from homeport.observe import act
from homeport.pending import command_texts, masked, pending, plain
from homeport.report import console
from homeport.result import Failure
from tests.machinery.small_sshd import host_data, small_sshd

ROOT = Path(__file__).resolve().parents[2]

STEP = """
from io import StringIO
from pathlib import Path
from pyinfra import host
from pyinfra.operations import files
from pyinfra.api import FactBase, StringCommand, operation
from homeport.differs import Pair, differs
from homeport.refuse import refuse

PLACE = Path(__file__).parent

class Here(FactBase[str]):
    def command(self, path): return f"ls -d {path} || true"

class Hangs(FactBase[str]):
    def command(self): return f"touch {PLACE}/hangs; sleep 30"

class Fails(FactBase[str]):
    def command(self, number):
        words = r"\033[31mno answer at https://ann:s3cret@x/\033[0m"
        return f"echo {number} >>{PLACE}/asked; printf '{words}\\n' >&2; exit 3"

@operation()
def there(path):
    if host.get_fact(Here, path=path):
        host.noop("it is there")
        return
    differs([Pair(f"{path}: there", "no such file")])
    yield StringCommand(f"touch {path}")
    if not host.get_fact(Here, path=path):
        yield StringCommand("exit 1")

@operation()
def hangs():
    host.get_fact(Hangs)
    yield StringCommand("true")

@operation()
def fails(number):
    host.get_fact(Fails, number=number)
    yield StringCommand("true")

@operation()
def says(words):
    yield StringCommand(words)

@operation()
def passes():
    if not (PLACE / "looked").exists():
        (PLACE / "looked").touch()
        yield StringCommand("true")

@operation()
def cannot_know():
    yield refuse("`pass` failed: no key", "set it", at_desk=True)

def apply(path): there(name="Make it", path=path)
def put(path): files.put(name="Put it", src=StringIO("hush"), dest=path, mode="644")
def hang(): hangs(name="Hang")
def fail(): raise KeyError("no such key")
def fail_fact(number): fails(name=f"Ask [/] {number}", number=number)
def pass_by(): passes(name="Passes")
def ask_the_desk(): cannot_know(name="Ask the desk")
def say(words): says(name=f"Say it on {host.name}", words=words)
"""

# The command line, with another checkout whose full.py is ours.
DRIVER = "import sys, homeport.cli as c, homeport.options as o; from pathlib import Path; "
# Who is started in the background by a shell ignores SIGINT, and so do all that it starts.
DRIVER += "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
DRIVER += "import homeport.drift as d; d.FACT_TIMEOUT = 1; "
DRIVER += (
    "o.ROOT = Path(sys.argv.pop(1)); sys.path.insert(0, str(o.ROOT)); c.main(prog_name='homeport')"
)

NOWHERE = '("@ssh/nowhere", {"ssh_hostname": "127.0.0.1", "ssh_port": 1})'


@pytest.fixture
def far(tmp_path: Path) -> Iterator[str]:
    """A host named far, which is this machine by way of ssh, as an inventory says it."""
    with small_sshd() as way:
        data = {**host_data(way, tmp_path), "homeport_prefetch": False}
        yield f'("@homeport/far", {data!r})'


class Checkout:
    """A folder with an inventory and a full.py, and the drift of it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "deploys").mkdir()
        (path / "step.py").write_text(STEP)
        self.to = str(path / "out.json")
        self.stdout = self.stderr = subprocess.PIPE

    def start(self, hosts: str, *lines: str, **environment: str) -> subprocess.Popen[str]:
        (self.path / "inventory.py").write_text(f"hosts = [{hosts}]\n")
        text = "\n".join(["from pyinfra import host", "import step", *lines, ""])
        (self.path / "deploys" / "full.py").write_text(text)
        words = ["drift", str(self.path / "inventory.py"), "--json", self.to]
        return subprocess.Popen(
            [sys.executable, "-c", DRIVER, str(self.path), *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=self.path,
            stdout=self.stdout,
            stderr=self.stderr,
            text=True,
        )

    def drift(self, hosts: str, *lines: str, **environment: str) -> tuple[int, Any, str]:
        run = self.start(hosts, *lines, **environment)
        said = "".join(text or "" for text in run.communicate(timeout=60))
        to = self.path / "out.json"
        return run.returncode, json.loads(to.read_text()) if to.exists() else None, said


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_finds_what_is_missing_even_with_pyinfra_yes_and_makes_nothing(
    checkout: Checkout,
) -> None:
    wanted = checkout.path / "wanted"
    put = checkout.path / "put"
    put.write_text("other")
    put.chmod(0o600)
    line = f'step.apply(path="{wanted}")'
    also = f'step.put(path="{put}")'
    code, found, said = checkout.drift('"@local"', line, also, PYINFRA_YES="1")
    assert code == 2, said
    assert not wanted.exists()
    (host,) = found["hosts"]
    assert host["state"] == "drift"
    assert host["drift"] == [
        {
            "capability": "step",
            "operation": "Make it",
            "differs": [{"wanted": f"{wanted}: there", "there": "no such file"}],
            "commands": [f"touch {wanted}"],
            "more": True,
        },
        {
            "capability": "step",
            "operation": "Put it",
            "differs": [
                {
                    "wanted": f"{put}: sha1 1f21e30bfda8, mode 644",
                    "there": "sha1 d0941e68da8f, mode 600",
                }
            ],
            "commands": [f"upload {put}", f"chmod 644 {put}"],
            "more": False,
        },
    ]
    assert "hush" not in said
    wanted.touch()
    code, found, said = checkout.drift('"@local"', line, PYINFRA_YES="1")
    assert code == 0, said
    assert found["hosts"][0]["state"] == "clean"


def test_a_host_that_cannot_be_reached_hides_no_other(checkout: Checkout) -> None:
    code, found, said = checkout.drift(f'{NOWHERE}, "@local"', 'step.apply(path="/nowhere/x")')
    assert code == 1, said
    nowhere, local = found["hosts"]
    assert [nowhere["state"], local["state"]] == ["unknown", "drift"]
    assert "nowhere" in " ".join(nowhere["failure"]["words"])


def test_a_deploy_that_breaks_on_a_host_is_not_clean(checkout: Checkout) -> None:
    code, found, said = checkout.drift('"@local"', 'step.apply(path="/")', "step.fail()")
    assert code == 1, said
    assert found["hosts"][0]["state"] == "unknown"
    assert "no such key" in " ".join(found["hosts"][0]["failure"]["words"])


def test_a_fact_that_fails_is_unknown_and_said_without_secrets(checkout: Checkout) -> None:
    code, found, said = checkout.drift('"@local"', "step.fail_fact(1)", 'step.apply(path="/")')
    assert code == 1, said
    (local,) = found["hosts"]
    assert local["state"] == "unknown"
    words = " ".join(local["failure"]["words"])
    assert "no answer at https://ann:*MASKED*@x/" in words
    assert "s3cret" not in said
    assert "\x1b" not in words + said


def test_a_host_whose_fact_fails_is_asked_no_more_and_hides_no_other(
    checkout: Checkout, far: str
) -> None:
    wanted = checkout.path / "wanted"
    facts = [f'if host.name == "far": step.fail_fact({number})' for number in (1, 2)]
    code, found, said = checkout.drift(
        f'{NOWHERE}, {far}, "@local"', *facts, f'step.apply(path="{wanted}")'
    )
    assert code == 1, said
    nowhere, bad, local = found["hosts"]
    assert [nowhere["state"], bad["state"], local["state"]] == ["unknown", "unknown", "drift"]
    assert bad["drift"] == []
    assert "nowhere" in " ".join(nowhere["failure"]["words"])
    assert "could not load fact: step.Fails number=1" in " ".join(bad["failure"]["words"])
    assert (checkout.path / "asked").read_text() == "1\n"
    assert [one["operation"] for one in local["drift"]] == ["Make it"]


def test_a_host_that_hangs_costs_one_timeout(checkout: Checkout, far: str) -> None:
    lines = ['if host.name == "far": step.hang()'] * 5
    lines.append('if host.name == "@local": step.apply(path="/")')
    code, found, said = checkout.drift(f'{far}, "@local"', *lines)
    assert code == 1, said
    assert [one["state"] for one in found["hosts"]] == ["unknown", "clean"]
    assert found["seconds"] < 3
    words = " ".join(found["hosts"][0]["failure"]["words"])
    assert "the node did not answer within 1 s" in words


def test_what_is_right_at_the_second_look_is_no_difference(checkout: Checkout) -> None:
    code, found, said = checkout.drift('"@local"', "step.pass_by()")
    assert (checkout.path / "looked").exists()
    assert (code, found["hosts"][0]["drift"]) == (0, []), said


def test_what_the_desk_cannot_know_is_not_said_of_the_node(checkout: Checkout) -> None:
    code, found, said = checkout.drift('"@local"', "step.ask_the_desk()", 'step.say("true")')
    (local,) = found["hosts"]
    assert (code, local["state"]) == (1, "unknown"), said
    assert local["failure"] == {"operation": "Ask the desk", "words": ["`pass` failed: no key"]}
    assert [one["operation"] for one in local["drift"]] == ["Say it on @local"]


def test_each_host_has_its_own_name_for_an_operation(checkout: Checkout, far: str) -> None:
    _, found, said = checkout.drift(f'"@local", {far}', 'step.say("true")')
    names = [[one["operation"] for one in host["drift"]] for host in found["hosts"]]
    assert names == [["Say it on @local"], ["Say it on far"]], said


@pytest.mark.parametrize("to", ["-", "/dev/full"])
def test_json_that_cannot_be_written_is_one_line(to: str, checkout: Checkout, unread: int) -> None:
    checkout.to, checkout.stdout = to, unread
    code, _, said = checkout.drift('"@local"', 'step.say("true")')
    assert code == 1
    assert "drift  @local: step: Say it on @local" in said
    assert said.splitlines()[-1].startswith(f"--json {to}: ")
    assert "Traceback" not in said


def test_interrupted_it_says_1_and_not_clean(checkout: Checkout) -> None:
    run = checkout.start('"@local"', "step.hang()")
    deadline = time.monotonic() + 20
    while not (checkout.path / "hangs").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert run.poll() is None
    run.send_signal(signal.SIGINT)
    said = "".join(run.communicate(timeout=20))
    assert run.returncode == 1, said
    assert "clean" not in said
    assert not (checkout.path / "out.json").exists()


def test_the_lines_of_full_name_the_capabilities() -> None:
    path = ROOT / "deploys" / "full.py"
    found, lines = stems(path), path.read_text().splitlines()
    applied = [number for number, line in enumerate(lines, 1) if ".apply(" in line]
    assert applied
    for number in applied:
        assert lines[number - 1].startswith(f"{found[number]}.apply(")


def test_secrets_are_masked_and_uploads_not_shown() -> None:
    hidden = StringCommand("login", QuoteString(HiddenValue("s3cret")))
    upload = FileUploadCommand(io.StringIO("s3cret"), "/etc/key")
    address = StringCommand("pip --index-url https://ann:s3cret@index.example/simple")
    for command in (hidden, upload, address):
        assert "s3cret" not in "".join(command_texts(command))
    assert command_texts(upload)[0] == "upload /etc/key"
    assert plain("https://ann:s3\x07\x1b[0mcret@x/\ty") == "https://ann:*MASKED*@x/ y"
    assert masked("https://ann@x/ http://x:80/a@b") == "https://ann@x/ http://x:80/a@b"


def test_programs_of_ours_are_named_for_people_and_whole_in_json() -> None:
    exact, words = command_texts(act("stack_actions", "pull", images=["a"]))
    assert "def pull" in exact
    assert words == 'homeport-node stack_actions.pull(images=["a"])'
    assert command_texts(StringCommand("one\ntwo"))[1] == "one … (2 lines)"


def test_an_operation_is_followed_until_it_looks_again() -> None:
    host = SimpleNamespace(get_fact=lambda name: name)
    asked = []

    def generate() -> Iterator[str]:
        asked.append(host.get_fact("before"))
        yield "one"
        yield "two"
        host.get_fact("after")
        yield "three"

    get_fact = host.get_fact
    told = (Pair("its name", "not so"),)
    assert pending(host, "its name", generate) == (["one", "two"], True, told)
    assert asked == ["before"]
    assert host.get_fact is get_fact
    assert pending(host, "its name", lambda: iter(["one"])) == (["one"], False, told)


DIFFERS = Difference(
    capability="caddy",
    operation="Serve [it]",
    commands=("x",),
    words=("x",),
    more=True,
    differs=tuple(Pair(f"[{number}] on", "off") for number in range(SHOWN + 2)),
)
LACKS = (NotExercised(capability="vfio", reason="[no] PCI"),)
CLEAN = HostDrift(name="a", not_exercised=LACKS)
DRIFTED = HostDrift(name="b", differences=[DIFFERS])
UNKNOWN = HostDrift(
    name="c", differences=[DIFFERS], failure=Failure(operation="reading [/x]", words=("it hung",))
)


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([CLEAN], 0),
        ([CLEAN, DRIFTED], 2),
        ([DRIFTED, UNKNOWN, CLEAN], 1),
        ([UNKNOWN], 1),
        ([], 1),
    ],
)
def test_the_status_is_the_worst_that_is_known(hosts: list[HostDrift], status: int) -> None:
    assert DriftResult(hosts=hosts).status == status
    assert result_json("i.py", DriftResult(hosts=hosts))["status"] == status


def test_people_read_what_and_where() -> None:
    with console.capture() as captured:
        print_result(DriftResult(hosts=[CLEAN, DRIFTED, UNKNOWN]), "bin/homeport converge i.py")
    said = captured.get()
    assert "drift  b: caddy: Serve [it]\n    wanted  [0] on\n    there   off\n    wanted" in said
    assert "    there   off\n    and 2 more: --json has them all\n    x\n    then looks ag" in said
    assert said.count("wanted  ") == 2 * SHOWN
    assert "unknown  c: reading [/x]\n    it hung" in said
    assert "clean  a: 0 steps are as wanted\nnot exercised  a: vfio: [no] PCI\n" in said
    assert "nothing was changed" in said
