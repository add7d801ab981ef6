"""A watch tells a webhook what changed, once, and nothing else; and loses nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from pyinfra.api.exceptions import PyinfraError

from homeport import watch
from homeport.cli import main
from homeport.report import console
from homeport.spec import SpecError
from homeport.teller import Teller
from homeport.told import Told
from homeport.webhook import Webhook
from tests.drift.hook import TOKEN, Hook
from tests.drift.test_drift import Checkout

ROOT = Path(__file__).resolve().parents[2]
SERVE = ("caddy", "Caddy | Serve it")
HOSTS = ("host_names", "Host names | Write /etc/hosts")

Check = list[dict[str, Any]]


@pytest.fixture
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOMEPORT_TELL", "HOMEPORT_TARGETS", "HOMEPORT_LOCK"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def host(state: str, *drift: tuple[str, str], name: str = "iona") -> dict[str, Any]:
    """A host of `drift --json`, as far as a watch reads it."""
    failure = {"operation": "connecting", "words": ["\x1b[1mno route", "to https://ann:s3cret@x/"]}
    return {
        "name": name,
        "state": state,
        "drift": [{"capability": stem, "operation": words} for stem, words in drift],
        "failure": failure if state == "unknown" else None,
    }


CLEAN, UNKNOWN = [host("clean")], [host("unknown")]
DRIFT = [host("drift", SERVE)]


class Desk:
    """A teller over its restarts, and the checks that it is given, one a minute."""

    def __init__(self, path: Path, address: str, **settings: Any) -> None:
        self.path, self.address = path / "iona.py", address
        self.settings = {"every": 60, "remedy": "Converge.", **settings}
        self.minute = 0
        self.teller: Teller | None = None

    def start(self, **settings: Any) -> Teller:
        if self.teller:
            self.teller.told.close()
        now = lambda: f"2026-01-01T00:{self.minute:02d}:00Z"  # noqa: E731
        self.teller = Teller(self.path, self.address, now=now, **{**self.settings, **settings})
        return self.teller

    def checks(self, *found: Check, **settings: Any) -> None:
        teller = self.teller or self.start()
        for hosts in found:
            teller.see(hosts, **settings)
            teller.tell()
            teller.say()
            self.minute += 1


@pytest.fixture
def iona(desk: Path, hook: Hook) -> Desk:
    return Desk(desk, hook.address)


def test_told_once_and_once_more_when_it_is_right_again(iona: Desk, hook: Hook) -> None:
    iona.checks(CLEAN, CLEAN, DRIFT, DRIFT, DRIFT)
    assert hook.got == [
        {
            "system": "iona",
            "host": "iona",
            "state": "drift",
            "since": "2026-01-01T00:02:00Z",
            "drift": [{"capability": "caddy", "operation": "Caddy | Serve it"}],
            "failure": [],
            "text": "iona: 1 step differs: caddy: Caddy | Serve it. Converge.",
        }
    ]
    iona.checks(CLEAN, CLEAN)
    assert hook.states() == ["drift", "clean"]
    assert hook.got[1]["since"] == "2026-01-01T00:05:00Z"
    assert hook.got[1]["text"] == "iona: is as wanted again"
    assert hook.got[1]["drift"] == []


def test_other_operations_are_news_and_another_order_is_not(iona: Desk, hook: Hook) -> None:
    both, turned = [host("drift", SERVE, HOSTS)], [host("drift", HOSTS, SERVE)]
    iona.checks(DRIFT, both, turned, both, [host("drift", HOSTS)])
    assert [len(one["drift"]) for one in hook.got] == [1, 2, 1]
    assert {one["since"] for one in hook.got} == {"2026-01-01T00:00:00Z"}
    assert "2 steps differ: caddy: Caddy | Serve it; host_names: Host names" in hook.got[1]["text"]


def test_a_restart_tells_nothing_anew_and_what_healed_in_between(iona: Desk, hook: Hook) -> None:
    iona.checks(DRIFT)
    iona.start()
    iona.checks(DRIFT)
    assert hook.states() == ["drift"]
    iona.start()
    iona.checks(CLEAN)
    assert hook.states() == ["drift", "clean"]
    iona.start()
    iona.checks(CLEAN, DRIFT)
    assert hook.states() == ["drift", "clean", "drift"]


@pytest.mark.parametrize("status", [503, 404, 302])
def test_a_webhook_that_was_away_is_told_the_newest(status: int, iona: Desk, hook: Hook) -> None:
    hook.status = status
    iona.checks(DRIFT, [host("drift", SERVE, HOSTS)])
    iona.start()
    hook.status = 200
    iona.checks([host("drift", SERVE, HOSTS)])
    assert [len(one["drift"]) for one in hook.got] == [2]
    assert hook.got[0]["since"] == "2026-01-01T00:00:00Z"
    hook.status = status
    iona.checks(CLEAN)
    hook.status = 200
    iona.checks([host("drift", SERVE, HOSTS)])  # which is what it knows
    assert len(hook.got) == 1


def test_a_webhook_that_is_away_is_asked_less_and_less(iona: Desk, hook: Hook) -> None:
    iona.start(every=300)
    hook.status = 503
    asked = []
    for _ in range(13):
        iona.checks(DRIFT)
        asked.append(len(hook.requests))
    # After 1, 2 and then every 3 checks: 900 seconds.
    assert asked == [1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6]
    hook.status = 200
    iona.checks(DRIFT, DRIFT, DRIFT)
    assert hook.states() == ["drift"]
    hook.status = 503
    iona.checks(CLEAN, CLEAN)
    assert len(hook.requests) == 9  # it answered in between, so it starts again


def test_the_rest_of_the_hosts_is_told_when_one_post_fails(iona: Desk, hook: Hook) -> None:
    three = [host("drift", SERVE, name=name) for name in ("a", "b", "c")]
    hook.status = 500
    iona.checks(three)
    assert len(hook.requests) == 1  # nor does it ask again for each host
    hook.status = 200
    iona.checks(three, three)
    assert [one["host"] for one in hook.got] == ["a", "b", "c"]
    assert hook.got[0]["text"].startswith("iona, a: ")


def test_a_message_that_is_refused_keeps_no_other_back(iona: Desk, hook: Hook) -> None:
    three = [host("drift", SERVE, name=name) for name in ("a", "b", "c")]
    hook.refuses = "b"
    with console.capture() as captured:
        iona.checks(three)
    assert [one["host"] for one in hook.got] == ["a", "c"]
    assert "was not told: b: it answered 422" in captured.get()
    iona.checks(three, [*three, host("drift", SERVE, name="d")])  # nor later
    assert [one["host"] for one in hook.got] == ["a", "c", "d"]
    hook.refuses = ""
    iona.checks(three)
    assert [one["host"] for one in hook.got] == ["a", "c", "d", "b"]


@pytest.mark.parametrize("status", [401, 403, 404, 408, 410, 429, 302, 503])
def test_a_webhook_that_takes_nothing_is_asked_once(status: int, iona: Desk, hook: Hook) -> None:
    hook.status = status
    iona.checks([host("drift", SERVE, name=name) for name in ("a", "b")])
    assert len(hook.requests) == 1


def test_ended_while_it_tells_it_tells_no_host_again(
    iona: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    two, post = [host("drift", SERVE, name=name) for name in ("a", "b")], Webhook.post

    def ends(self: Webhook, client: Any, what: dict[str, Any]) -> int:
        if what["host"] == "b":
            raise SystemExit(0)
        return post(self, client, what)

    monkeypatch.setattr(Webhook, "post", ends)
    with pytest.raises(SystemExit):
        iona.checks(two)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(iona.path.parent / "state"))
    iona.start()
    iona.checks(two)
    assert [one["host"] for one in hook.got] == ["a", "b"]


def test_one_lost_check_is_no_alarm_and_two_are(iona: Desk, hook: Hook) -> None:
    iona.checks(CLEAN, UNKNOWN, CLEAN, UNKNOWN, CLEAN)
    assert hook.got == []
    iona.checks(UNKNOWN)
    iona.start()  # the count outlives a restart, so that a timer's single runs add up
    iona.checks(UNKNOWN, UNKNOWN)
    assert hook.states() == ["unknown"]
    assert hook.got[0]["since"] == "2026-01-01T00:05:00Z"
    assert "2 times in a row: connecting: no route" in hook.got[0]["text"]
    assert "s3cret" not in json.dumps(hook.got)
    assert "\\u001b" not in json.dumps(hook.got)
    iona.checks(CLEAN)
    assert hook.states() == ["unknown", "clean"]
    assert hook.got[1]["text"] == "iona: answers again, and is as wanted"


def test_unknown_and_drift(iona: Desk, hook: Hook) -> None:
    iona.checks(DRIFT, UNKNOWN, DRIFT)
    assert hook.states() == ["drift"]
    iona.checks(UNKNOWN, [host("unknown", SERVE)], [host("unknown", HOSTS)], DRIFT, CLEAN)
    assert hook.states() == ["drift", "unknown", "drift", "clean"]
    assert hook.got[1]["drift"] == []  # what was found until then is not all of it
    assert hook.got[2]["text"].startswith("iona: answers again, and 1 step differs: caddy")


def test_a_host_that_left_is_forgotten_unless_only_some_were_asked(iona: Desk, hook: Hook) -> None:
    a, b = host("drift", SERVE, name="a"), host("drift", SERVE, name="b")
    iona.checks([a, b])
    iona.checks([a], all_of_them=False)
    iona.checks([a, b])
    assert len(hook.got) == 2
    iona.checks([a])
    iona.checks([a, b])
    assert [one["host"] for one in hook.got] == ["a", "b", "b"]


def test_another_webhook_is_told_what_drifts_now(iona: Desk, hook: Hook) -> None:
    iona.checks(DRIFT)
    iona.address += "/other"
    iona.start()
    iona.checks(DRIFT)
    assert hook.states() == ["drift", "drift"]


def test_a_long_list_stays_one_line(iona: Desk, hook: Hook) -> None:
    many = [("caddy", f"Step\n{number}") for number in range(9)]
    iona.checks([host("drift", *many)])
    (got,) = hook.got
    assert len(got["drift"]) == 9
    assert "9 steps differ: " in got["text"]
    assert "Step 4; and 4 more. Converge." in got["text"]
    assert "\n" not in got["text"]


def test_a_webhook_that_drips_holds_a_check_no_longer(iona: Desk, hook: Hook) -> None:
    iona.start(patience=0.2)
    hook.drips = True
    began = time.monotonic()
    with console.capture() as captured:
        iona.checks(DRIFT)
    assert 0.2 <= time.monotonic() - began < 2
    assert "was not told: it took longer than 0.2 s" in captured.get()
    until(lambda: hook.dripping == 0)
    hook.drips = False
    iona.checks(DRIFT)
    assert hook.states() == ["drift"]


def test_the_desks_proxy_is_used(iona: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", hook.address)
    iona.address = "http://hooks.invalid/x"
    iona.checks(DRIFT)
    assert hook.requests == ["POST http://hooks.invalid/x HTTP/1.1"]
    assert hook.states() == ["drift"]


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("", "http://127.0.0.1:1/… was not told: ConnectError: "),
        ("nonsense://ann:s3cret@127.0.0.1:1", "http://127.0.0.1:1/… was not told: "),
        ("socks5://ann:s3cret@127.0.0.1:1", "http://127.0.0.1:1/… was not told: "),
    ],
)
def test_the_address_is_printed_nowhere(
    proxy: str, said: str, desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy:
        monkeypatch.setenv("http_proxy", proxy)
    iona = Desk(desk, f"http://ann:{TOKEN}@127.0.0.1:1/{TOKEN}?x={TOKEN}")
    with console.capture() as captured:
        iona.checks(DRIFT)
    assert said in captured.get()
    assert TOKEN not in captured.get()
    assert "ann" not in captured.get()
    assert "s3cret" not in captured.get()
    assert all(TOKEN not in path.read_text() for path in desk.rglob("*.json"))


def test_what_was_told_is_for_the_user_alone(iona: Desk, hook: Hook) -> None:
    os.umask(0o022)
    iona.checks(DRIFT)
    path = iona.start().told.path
    assert {one.stat().st_mode & 0o777 for one in path.parent.iterdir()} == {0o600}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o622)
    iona.start()
    assert iona.teller is not None
    assert iona.teller.told.hosts == {}


@pytest.mark.parametrize("text", ["", "[]", '{"hosts": {"iona": {}}}', '{"hosts": [1]}'])
def test_nonsense_is_as_if_nothing_was_told(text: str, iona: Desk, hook: Hook) -> None:
    iona.checks(DRIFT)
    iona.start().told.path.write_text(text)
    iona.start()
    iona.checks(DRIFT)
    assert hook.states() == ["drift", "drift"]


def test_a_file_that_cannot_be_written_is_said_and_the_watch_goes_on(
    iona: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("homeport.private.write_json", full)
    with console.capture() as captured:
        iona.checks(DRIFT, DRIFT)
    assert "No space left on device: what was told may be told again" in captured.get()
    assert hook.states() == ["drift"]


def test_what_was_told_outlives_a_power_cut(
    iona: Desk, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written reaches the disk before its name does, and the name after that."""
    done: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink().suffix)
        sync(descriptor)

    def replaced(path: Path, target: Path) -> Path:
        done.append("replaced")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    iona.start().see(CLEAN)
    assert done == [".new", "replaced", ""]


def test_two_do_not_tell_the_same_webhook(iona: Desk, hook: Hook) -> None:
    iona.start()
    with pytest.raises(PyinfraError, match="iona: another watch"):
        Teller(iona.path, hook.address)
    Teller(iona.path, f"{hook.address}/other").told.close()


def test_no_place_to_keep_it_is_one_line(desk: Path) -> None:
    (desk / "state").write_text("")
    with pytest.raises(PyinfraError, match=f"{desk}/state.*: what was told is kept there"):
        Told("iona", "x")


def test_checks_begin_a_while_apart_and_never_overlap(iona: Desk, hook: Hook) -> None:
    """Every 60 s from begin to begin; at once after one that took longer."""
    clock, waits = SimpleNamespace(now=1000.0), []
    took = iter([3.0, 59.0, 60.0, 200.0, 1.0])

    def look() -> Check:
        clock.now += next(took)
        return CLEAN

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock.now += seconds
        if len(waits) == 5:
            raise StopIteration

    with pytest.raises(StopIteration):
        watch.watch(look, iona.start(), clock=lambda: clock.now, wait=wait)
    assert waits == [57.0, 1.0, 0.0, 0.0, 59.0]


@pytest.mark.parametrize(
    ("text", "value"), [("30s", 30), ("10s", 10), ("5m", 300), ("1h", 3600), ("99999h", 359996400)]
)
def test_durations(text: str, value: int) -> None:
    assert watch.seconds(text) == value


WRONG_DURATIONS = [
    "5",
    "m",
    "5x",
    "0s",
    "9s",
    "-5m",
    "1.5h",
    "5 m",
    "5M",
    "",
    "5m\n",
    "٥m",
    "123456h",
]
WRONG_ADDRESSES = [
    "",
    "t0ken",
    "hooks.example/t0ken",
    "ftp://hooks.example/t0ken",
    "https:///t0ken",
    "https://hooks.example:t0ken/",
    "https://hooks.example:99999/t0ken",
    "https://hooks.example/t0 ken",
    "https://hooks.example/t0ken\n",
    "https://[t0ken/",
]


@pytest.mark.parametrize("text", WRONG_DURATIONS)
def test_a_wrong_duration_is_one_line(text: str) -> None:
    with pytest.raises(SpecError, match=r"\A--every: .* 30s, 5m or 1h\Z"):
        watch.seconds(text)


@pytest.mark.parametrize("text", WRONG_ADDRESSES)
def test_a_wrong_address_is_one_line_and_not_shown(text: str) -> None:
    with pytest.raises(SpecError, match=r"\A--tell: must be an address [^\n]*\Z") as raised:
        Webhook(text)
    assert TOKEN not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://ann:t0ken@hooks.example/t0ken?t0ken#t0ken", "https://hooks.example/…"),
        ("http://[::1]:8080/t0ken", "http://[::1]:8080/…"),
        ("https://ntfy.example/t0ken?tpl=1&m={{.text}}", "https://ntfy.example/…"),
    ],
)
def test_an_address_is_shown_without_its_token(text: str, shown: str) -> None:
    assert Webhook(text).shown == shown


def typed(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, ["drift", *words], env=environment, prog_name="bin/homeport")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--every", "5x", "--tell", "https://x"], "--every: '5x' must be"),
        (["--every", "5m"], "--every: needs --tell URL, or HOMEPORT_TELL"),
        (["--tell", "x"], "--tell: must be an address"),
        (["--unit"], "--unit: needs --every"),
        (["--every", "5m", "--tell", "https://x", "--json", "-"], "--json: is for a single"),
        (["--every", "5m", "--tell", "https://x", "--deploy", "x.py"], "--deploy: is for a single"),
        (["--every", "5m", "--tell", "https://x"], "nowhere.py: there is no such inventory"),
        (["--every", "5m", "--unit"], "nowhere.py: there is no such inventory"),
    ],
)
def test_wrong_options_end_in_one_line(words: list[str], said: str, desk: Path) -> None:
    with console.capture() as captured:
        result = typed(str(desk / "nowhere.py"), *words)
    assert result.exit_code == 1
    assert said in captured.get()
    assert captured.get().count("\n") == 1
    assert not result.output


def test_the_environment_gives_the_address_too_and_keeps_it_to_itself(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def serve(*words: Any) -> None:
        seen.extend([words[3], os.environ.get("HOMEPORT_TELL")])
        raise SystemExit(0)

    monkeypatch.setattr(watch, "serve", serve)
    (desk / "iona.py").write_text("hosts = ['@local']\n")
    result = typed(str(desk / "iona.py"), "--every", "5m", HOMEPORT_TELL="https://x/t0ken")
    assert (result.exit_code, seen) == (0, ["https://x/t0ken", None])
    with console.capture() as captured:
        assert typed("iona.py", "--every", "5m", HOMEPORT_TELL="").exit_code == 1
    assert "needs --tell" in captured.get()


def test_a_single_check_tells_too_and_knows_what_was_told(tmp_path: Path, hook: Hook) -> None:
    """As from a timer: each in a process of its own, all with the exit status of the check."""
    checkout, wanted = Checkout(tmp_path), tmp_path / "wanted"
    codes = []
    for _ in range(3):
        tell = {"HOMEPORT_TELL": hook.address, "XDG_STATE_HOME": str(tmp_path / "state")}
        code, _, said = checkout.drift('"@local"', f'step.apply(path="{wanted}")', **tell)
        codes.append(code)
        assert TOKEN not in said
        if len(codes) == 2:
            wanted.touch()
    assert codes == [2, 2, 0]
    assert hook.states() == ["drift", "clean"]
    assert hook.got[0]["drift"] == [{"capability": "step", "operation": "Make it"}]
    assert hook.got[0]["text"].endswith(". To put it right: bin/homeport converge inventory.py")


def test_it_tells_and_writes_json_even_when_nobody_reads_the_words(
    tmp_path: Path, hook: Hook, unread: int
) -> None:
    checkout = Checkout(tmp_path)
    checkout.stderr = unread
    tell = {"HOMEPORT_TELL": hook.address, "XDG_STATE_HOME": str(tmp_path / "state")}
    _, found, _ = checkout.drift('"@local"', 'step.say("true")', **tell)
    assert hook.states() == ["drift"]
    assert found["status"] == 2


# A check in a process of its own that does what the case says.
PROGRAM = """
import json, os, pathlib, subprocess, sys, time
assert "HOMEPORT_TELL" not in os.environ
host = {"name": "a", "state": "clean", "drift": [], "failure": None}
def answer(): open(sys.argv[sys.argv.index("--json") + 1], "w").write(json.dumps({"hosts": [host]}))
def hang():
    child = subprocess.Popen(["sleep", "60"])
    pathlib.Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(60)
"""


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes a check do what is asked."""

    def make(what: str) -> None:
        monkeypatch.setattr(watch, "PROGRAM", (sys.executable, "-Ic", PROGRAM + what))

    return make


def test_a_check_is_a_process_of_its_own(
    program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEPORT_TELL", "https://x/t0ken")
    program("assert sys.argv[1:5] == ['drift', 'i.py', '--limit', 'a']; answer()")
    assert watch.check(Path("i.py"), ("a",), ["a"]) == [host("clean", name="a")]


def test_a_check_that_says_nothing_leaves_its_hosts_unknown(
    program: Callable[[str], None],
) -> None:
    program("sys.exit('iona: llama_server.ctx_size: no')")
    (found,) = watch.check(Path("i.py"), (), ["iona"])
    assert found["state"] == "unknown"
    assert found["failure"]["words"] == ["iona: llama_server.ctx_size: no"]


def test_what_a_check_leaves_behind_is_not_waited_for(program: Callable[[str], None]) -> None:
    program("answer(); subprocess.Popen(['sleep', '5'])")
    began = time.monotonic()
    assert watch.check(Path("i.py"), (), ["a"]) == [host("clean", name="a")]
    assert time.monotonic() - began < 4


def test_an_inventory_that_went_wrong_before_the_start_is_told(
    iona: Desk, hook: Hook, program: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(look: Callable[[], Check], teller: Teller, *, all_of_them: bool, **_: Any) -> None:
        iona.teller = teller
        iona.checks(look(), look(), all_of_them=all_of_them)
        teller.told.close()

    monkeypatch.setattr(watch, "watch", twice)
    monkeypatch.setattr("gevent.signal_handler", lambda *_: None)
    program("sys.exit('line 1: it is not closed')")
    iona.path.write_text("hosts = [")
    with pytest.raises(SpecError, match="SyntaxError"):  # nothing is known of it
        watch.serve(iona.path, (), 60, hook.address, "")
    iona.checks([host("drift", SERVE, name="a"), host("drift", SERVE, name="b")])
    assert iona.teller is not None
    iona.teller.told.close()
    watch.serve(iona.path, ("b",), 60, hook.address, "")
    assert hook.states() == ["drift", "drift", "unknown"]
    watch.serve(iona.path, (), 60, hook.address, "")
    assert hook.states() == ["drift", "drift", "unknown", "unknown"]
    assert hook.got[3]["host"] == "a"
    assert "line 1: it is not closed" in hook.got[3]["text"]
    with pytest.raises(SpecError, match="SyntaxError"):
        watch.serve(iona.path, ("c",), 60, hook.address, "")


def gone(pids: Path) -> bool:
    """Whether the processes named at `pids` have ended."""
    return not any(Path(f"/proc/{pid}/cmdline").exists() and alive(pid) for pid in read(pids))


def read(pids: Path) -> list[str]:
    return pids.read_text().split()


def alive(pid: str) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_who_ends_a_check_may_have_told_its_watch_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that is stopped: its processes get the signal one after another."""
    monkeypatch.setattr(watch, "PROGRAM", ("sh", "-c", "kill $$"))

    def wait(seconds: float) -> None:
        time.sleep(1)  # meanwhile the check has ended
        if not seconds:
            raise SystemExit(0)

    with pytest.raises(SystemExit):
        watch.check(Path("i.py"), (), ["iona"], wait=wait)


def test_a_check_that_hangs_is_ended_with_what_it_started(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = desk / "pids"
    text = f"sleep 60 & echo $$ $! >{pids}; wait"
    monkeypatch.setattr(watch, "PROGRAM", ("sh", "-c", text))
    (found,) = watch.check(Path("i.py"), (), ["iona"], patience=0.5)
    assert found["failure"]["words"] == ["the check took longer than 0.5 s"]
    until(lambda: gone(pids))


# Who is started in the background by a shell ignores SIGINT, and so do all that it starts.
DRIVER = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import pyinfra_cli
from homeport import watch
watch.PROGRAM = (sys.executable, "-Ic", {PROGRAM!r} + sys.argv.pop(1))
from homeport.cli import main
main(prog_name="homeport")
"""
# The signal comes while a check is cleaned up after.
IN_CLEANING = f"""
import os, signal, tempfile
class Directory(tempfile.TemporaryDirectory):
    def cleanup(self):
        close = os.close
        def close_and_more(fd):
            close(fd)
            os.kill(os.getpid(), signal.SIGTERM)
        os.close = close_and_more
        super().cleanup()
        os.close = close
tempfile.TemporaryDirectory = Directory
{DRIVER}"""


@pytest.mark.parametrize(
    ("number", "what", "code"),
    [(signal.SIGTERM, "hang()", 0), (signal.SIGTERM, "", 0), (signal.SIGINT, "hang()", 1)],
)
def test_it_ends_when_it_is_told_to(
    number: signal.Signals, what: str, code: int, desk: Path, hook: Hook
) -> None:
    """While a check hangs, and between two; the check ends with it."""
    (desk / "iona.py").write_text("hosts = ['@local']\n")
    pids = desk / "pids"
    check = what or "answer(); pathlib.Path(os.environ['PIDS']).write_text(str(os.getpid()))"
    run = subprocess.Popen(
        [sys.executable, "-c", DRIVER, check, "drift", str(desk / "iona.py"), "--every", "1h"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PIDS": str(pids), "HOMEPORT_TELL": "http://x"},
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: pids.exists() and bool(read(pids)) and (bool(what) or gone(pids)))
    run.send_signal(number)
    said = run.communicate(timeout=20)[1]
    assert run.returncode == code, said
    assert "checking @local every 60 min 00 s; http://x/… is told what changes" in said
    assert "Traceback" not in said
    until(lambda: gone(pids))


def test_what_a_check_leaves_is_cleaned_up_before_it_ends(desk: Path, hook: Hook) -> None:
    (desk / "iona.py").write_text("hosts = ['@local']\n")
    there = desk / "tmp"
    there.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", IN_CLEANING, "answer()", "drift", "iona.py", "--every", "1h"],
        cwd=desk,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(there),
            "HOMEPORT_TELL": "http://x",
        },
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [*there.iterdir()] == []
