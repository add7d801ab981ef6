"""Cases: which secrets are made, placed or healed; and what is never said aloud."""

import os
from pathlib import Path
from typing import Any

import pytest

from deploys.secrets import (
    Difference,
    Secret,
    Secrets,
    SecretSource,
    Value,
    difference,
    ensure,
    evaluate,
    from_command,
    from_env,
)
from homeport.spec import SpecError
from homeport_node import secrets as aboard
from tests.operations import Words, refused

KEY = "llama_server.api_key"
GOOD = {"mode": "600", "uid": 0, "gid": 0, "size": 43, "regular": True}
SPEC = Secrets(wanted=(Secret(name=KEY),))
GIVEN = Secrets(wanted=(Secret(name=KEY),), given={KEY: from_env("KEY")})


ABOVE, FOLDER = "/etc/homeport", "/etc/homeport/secrets"
WHOLE = {ABOVE: "mode 755, owner 0:0", FOLDER: "mode 700, owner 0:0"}
OPEN = {"directories": {**WHOLE, ABOVE: "mode 777, owner 0:0"}}
THEIRS = {"directories": {**WHOLE, FOLDER: "mode 700, owner 1000:0"}}


def seen(**changes: Any) -> dict[str, Any]:
    return {"directories": WHOLE, "files": {KEY: {**GOOD, **changes}}, "leftovers": []}


CASES: dict[str, tuple[Secrets, dict[str, Value], set[str], dict[str, Any], Difference]] = {
    "in place": (SPEC, {}, set(), seen(), Difference()),
    "bare node": (SPEC, {}, set(), {}, Difference(untidy=True, make=(KEY,))),
    "missing": (
        SPEC,
        {},
        set(),
        {"directories": WHOLE, "files": {KEY: None}},
        Difference(make=(KEY,)),
    ),
    "empty": (SPEC, {}, set(), seen(size=0), Difference(make=(KEY,))),
    "readable by others": (SPEC, {}, set(), seen(mode="644"), Difference(untidy=True)),
    "owned by another": (SPEC, {}, set(), seen(uid=1000), Difference(untidy=True)),
    "open directory": (SPEC, {}, set(), {**seen(), **OPEN}, Difference(untidy=True)),
    "directory of another": (SPEC, {}, set(), {**seen(), **THEIRS}, Difference(untidy=True)),
    "half-written file": (
        SPEC,
        {},
        set(),
        {**seen(), "leftovers": ["/etc/homeport/secrets/.x.new"]},
        Difference(untidy=True),
    ),
    "given, same": (GIVEN, {KEY: Value("v")}, {KEY}, seen(), Difference()),
    "given, other": (GIVEN, {KEY: Value("v")}, set(), seen(), Difference(place=(KEY,))),
    "given, not set, there": (GIVEN, {KEY: Value()}, set(), seen(), Difference()),
    "given, not set, missing": (
        GIVEN,
        {KEY: Value()},
        set(),
        {"directories": WHOLE, "files": {}},
        Difference(problems=(f"secret {KEY}: $KEY is not set, and the node has no such secret",)),
    ),
    "given, failed": (
        GIVEN,
        {KEY: Value(problem="no")},
        set(),
        seen(),
        Difference(problems=(f"secret {KEY}: no",)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_difference(name: str) -> None:
    spec, values, same, observed, wanted = CASES[name]
    assert difference(spec, values, same, observed) == wanted


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Secret(name="Bad Name"), "secret.name"),
        (lambda: Secret(name="../x"), "secret.name"),
        (lambda: Secret(name="x", bytes=8), "secret.bytes"),
        (lambda: Secret(name="x", bytes=64), "secret.bytes"),
        (lambda: SecretSource(), "secret_source.environment"),
        (lambda: SecretSource(environment="A", command="b"), "secret_source.environment"),
        (lambda: Secrets(wanted=(Secret(name="x"), Secret(name="x"))), "secrets_given.wanted"),
        (lambda: Secrets(wanted=(), given={"y": from_env("Y")}), "secrets_given.y"),
    ],
)
def test_wrong_input_names_the_field(make: Any, field: str) -> None:
    with pytest.raises(SpecError, match=field):
        make()


def test_values_come_from_the_desk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEPORT_TEST_SECRET", "value\n")
    evaluate.cache_clear()
    assert evaluate(from_env("HOMEPORT_TEST_SECRET")).value == "value"
    assert evaluate(from_env("HOMEPORT_TEST_NO_SUCH")) == Value()
    assert evaluate(from_command("echo 'a b'")).value == "a b"
    assert "failed" in evaluate(from_command("false")).problem
    assert "did not run" in evaluate(from_command("/no/such/program")).problem
    assert "one line" in evaluate(from_command("printf 'a\\nb'")).problem


def test_a_value_is_not_shown() -> None:
    assert "hush" not in repr(Value("hush"))


def test_the_two_ends_agree_and_only_on_the_same_secret() -> None:
    desk, node = aboard.private_key(), aboard.private_key()
    said = aboard.prove(node, aboard.public_key(desk), KEY, b"value")
    assert said == aboard.prove(desk, aboard.public_key(node), KEY, b"value")
    assert said != aboard.prove(desk, aboard.public_key(node), KEY, b"other")
    assert said != aboard.prove(desk, aboard.public_key(node), "other", b"value")
    # Whoever heard both public keys and the proof still cannot test a guess without an exponent.
    assert said != aboard.prove(aboard.private_key(), aboard.public_key(node), KEY, b"value")


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "secrets"
    place.mkdir(mode=0o700)
    monkeypatch.setattr(aboard, "SECRETS", str(place))
    monkeypatch.setattr(aboard, "UPLOADS", str(tmp_path / "upload-"))
    monkeypatch.setattr(aboard, "_prepare", lambda: None)
    return place


def test_made_secrets_are_never_overwritten(directory: Path) -> None:
    assert aboard.make({KEY: 32}) is None
    first = (directory / KEY).read_text()
    assert len(first) == 43
    assert (directory / KEY).stat().st_mode & 0o777 == 0o600
    aboard.make({KEY: 32})
    assert (directory / KEY).read_text() == first
    (directory / KEY).write_text("")
    aboard.make({KEY: 32})
    assert len((directory / KEY).read_text()) == 43
    assert os.listdir(directory) == [KEY]  # noqa: PTH208


def test_an_upload_replaces_and_leaves_nothing(directory: Path, tmp_path: Path) -> None:
    upload = tmp_path / "upload-1"
    upload.mkdir()
    (upload / "value").write_text("given")
    assert aboard.take(KEY, str(upload / "value")) is None
    assert (directory / KEY).read_text() == "given"
    assert not upload.exists()
    assert "nothing arrived" in (aboard.take(KEY, str(upload / "value")) or "")
    assert (directory / KEY).read_text() == "given"


def test_observation_holds_no_value(directory: Path) -> None:
    (directory / KEY).write_text("hush-hush")
    state = aboard.observe([KEY], [KEY], aboard.public_key(5))
    assert "hush" not in str(state)
    assert state["proofs"][KEY] == aboard.prove(5, state["public"], KEY, b"hush-hush")


@pytest.mark.parametrize(("source", "at_desk"), [("false", True), ("true", True), ("", False)])
def test_a_source_that_fails_says_nothing_of_the_node(source: str, at_desk: bool) -> None:
    evaluate.cache_clear()
    given = from_command(source) if source else from_env("HOMEPORT_TEST_NO_SUCH")
    spec = Secrets(wanted=(Secret(name=KEY),), given={KEY: given})
    (refusal,) = refused(ensure, {"directory": "700", "files": {}}, spec=spec)
    assert refusal.at_desk is at_desk


def test_the_directories_are_seen_and_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above, folder = tmp_path / "homeport", tmp_path / "homeport/secrets"
    monkeypatch.setattr(aboard, "DIRECTORIES", {str(above): 0o755, str(folder): 0o700})
    monkeypatch.setattr(aboard, "SECRETS", str(folder))
    monkeypatch.setattr(aboard, "UPLOADS", str(tmp_path / "upload-"))
    monkeypatch.setattr(os, "chown", lambda *_: None)
    before = os.umask(0o022)
    try:
        assert aboard.observe([], [], "")["directories"] == {str(above): None, str(folder): None}
        above.mkdir(mode=0o700)
        assert aboard.tidy([]) is None
    finally:
        os.umask(before)
    mine = f"owner {os.getuid()}:{above.stat().st_gid}"
    assert aboard.observe([], [], "")["directories"] == {
        str(above): f"mode 755, {mine}",
        str(folder): f"mode 700, {mine}",
    }


# What drift says --------------------------------------------------------------------------------

SAID = f"secret {KEY}: "
GIVEN_HERE = Secrets(wanted=(Secret(name=KEY),), given={KEY: from_command("echo hush-hush")})
WORDS: list[Words] = [
    (ensure, [seen()], {"spec": SPEC}, []),
    (ensure, [seen(mode="644")], {"spec": SPEC}, [(f"{SAID}mode 600", "mode 644")]),
    (
        ensure,
        [{**seen(uid=1000, gid=7), **OPEN, "leftovers": ["/tmp/x"]}],
        {"spec": SPEC},
        [
            ("/etc/homeport: mode 755, owner 0:0", "mode 777, owner 0:0"),
            ("/tmp/x: no such file", "left by a run that was interrupted"),
            (f"{SAID}owner 0:0", "owner 1000:7"),
        ],
    ),
    (
        ensure,
        [{**seen(), **THEIRS}],
        {"spec": SPEC},
        [("/etc/homeport/secrets: mode 700, owner 0:0", "mode 700, owner 1000:0")],
    ),
    (ensure, [seen(regular=False)], {"spec": SPEC}, [(f"{SAID}a regular file", "something else")]),
    (ensure, [seen(size=0)], {"spec": SPEC}, [(f"{SAID}made on the node", "an empty file")]),
    (
        ensure,
        [{}],
        {"spec": SPEC},
        [
            ("/etc/homeport: mode 755, owner 0:0", "no such directory"),
            ("/etc/homeport/secrets: mode 700, owner 0:0", "no such directory"),
            (f"{SAID}made on the node", "no such file"),
        ],
    ),
    # Neither the value given at the desk nor the one on the node.
    (
        ensure,
        [{**seen(), "public": "5", "proofs": {KEY: "another"}}],
        {"spec": GIVEN_HERE},
        [(f"{SAID}as given at the desk", "another value")],
    ),
]
