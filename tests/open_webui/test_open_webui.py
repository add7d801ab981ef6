"""Cases: the container of Open WebUI, and what of its settings is put right or left alone."""

import base64
import dataclasses
import hashlib
import hmac
import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from deploys.open_webui import Around, OpenWebui, difference, environment, service, settings
from homeport.pins import Image
from homeport.spec import SpecError
from homeport_node import open_webui as aboard
from tests.operations import Words, said

OURS = "http://llama-server:8080/v1"
FOREIGN = "https://foreign.example/v1"
SPEC = OpenWebui(image=Image(name="ghcr.io/open-webui/open-webui:v0.12.4"))
AROUND = Around(
    provider=OURS, key="llama_server.api_key", engine="llama-server", site="ui.example.org"
)
GOOD = {
    "problem": "",
    "provider": {"enabled": True, "first": True, "key": True, "visible": True},
    "ollama": False,
    "signup": False,
    "address": "https://ui.example.org",
}


def test_service() -> None:
    one = service(SPEC, AROUND)
    assert one.entrypoint == ("sh", "/homeport/start.sh")
    assert one.command == ("bash", "start.sh")
    assert one.volumes[0].name == "open-webui"
    assert not one.volumes[0].adopt
    assert service(dataclasses.replace(SPEC, adopt=True), Around()).volumes[0].adopt
    assert one.depends_on == ("llama-server",)
    names = ("open_webui.secret_key", "open_webui.admin_password", "llama_server.api_key")
    assert one.secrets == names
    assert all(name in one.files[0].content for name in names)
    assert service(SPEC, Around()).depends_on == ()


def test_environment_holds_no_secret_and_keeps_settings() -> None:
    values = environment(SPEC, AROUND)
    assert values["ENABLE_PERSISTENT_CONFIG"] == "true"
    assert values["OPENAI_API_BASE_URLS"] == OURS
    assert (values["ENABLE_SIGNUP"], values["ENABLE_OLLAMA_API"]) == ("false", "false")
    assert values["WEBUI_URL"] == "https://ui.example.org"
    assert values["CORS_ALLOW_ORIGIN"].split(";")[0] == "https://ui.example.org"
    assert values["WEBUI_SESSION_COOKIE_SECURE"] == "true"
    assert not {"WEBUI_SECRET_KEY", "OPENAI_API_KEYS", "WEBUI_ADMIN_PASSWORD"} & set(values)
    plain = environment(SPEC, dataclasses.replace(AROUND, plain_http=True))
    assert "http://ui.example.org" in plain["CORS_ALLOW_ORIGIN"].split(";")
    assert "WEBUI_SESSION_COOKIE_SECURE" not in plain


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"port": 0}, "port"),
        ({"volume": "a b"}, "volume"),
        ({"admin_email": "admin"}, "admin_email"),
        ({"admin_name": " "}, "admin_name"),
        ({"start_timeout": 0}, "start_timeout"),
    ],
)
def test_wrong_input_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=f"open_webui.{field}: "):
        dataclasses.replace(SPEC, **changes)


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        (GOOD, []),
        ({}, [("settings that can be read", "it does not run")]),
        ({"problem": "HTTP 401"}, [("settings that can be read", "HTTP 401")]),
        ({**GOOD, "ollama": True}, [("Ollama off", "on")]),
        ({**GOOD, "signup": True}, [("sign-up closed", "open")]),
        ({**GOOD, "address": "http://x"}, [(f"its address {AROUND.address}", "http://x")]),
        (
            {**GOOD, "provider": {**GOOD["provider"], "key": False}},  # type: ignore[dict-item]
            [("the provider's key is the node's", "another key")],
        ),
    ],
)
def test_difference(seen: dict[str, Any], words: list[tuple[str, str]]) -> None:
    assert difference(AROUND, seen) == [(f"Open WebUI: {wanted}", there) for wanted, there in words]
    pairs = said(settings, seen, spec=SPEC, around=AROUND)
    assert pairs == difference(AROUND, seen)


def test_without_an_engine_the_providers_are_the_administrators() -> None:
    assert difference(Around(), {**GOOD, "provider": None}) == []


def config(*pairs: tuple[str, str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "ENABLE_OPENAI_API": True,
        "OPENAI_API_BASE_URLS": [url for url, _ in pairs],
        "OPENAI_API_KEYS": [key for _, key in pairs],
        "OPENAI_API_CONFIGS": options or {},
    }


WANTED = config((OURS, "key"), (FOREIGN, "theirs"), options={"1": {"tags": ["mine"]}})


@pytest.mark.parametrize(
    ("now", "wanted"),
    [
        (config((OURS, "key")), config((OURS, "key"))),
        ({}, config((OURS, "key"))),
        (config((OURS, "wrong")), config((OURS, "key"))),
        ({**config((OURS, "key")), "ENABLE_OPENAI_API": False}, config((OURS, "key"))),
        (WANTED, WANTED),
        (config((FOREIGN, "theirs"), options={"0": {"tags": ["mine"]}}), WANTED),
        (config((FOREIGN, "theirs"), options={FOREIGN: {"tags": ["mine"]}}), WANTED),
        (
            config(
                (FOREIGN, "theirs"), (OURS, "x"), (OURS, "y"), options={"0": {"tags": ["mine"]}}
            ),
            WANTED,
        ),
        (
            config((OURS, "key"), options={"0": {"enable": False, "prefix_id": "z", "tags": [1]}}),
            config((OURS, "key"), options={"0": {"enable": True, "tags": [1]}}),
        ),
    ],
)
def test_ours_is_put_in_force_and_theirs_is_kept(
    now: dict[str, Any], wanted: dict[str, Any]
) -> None:
    found = aboard.in_force(OURS, "key", now)
    assert found == wanted
    assert all(aboard.provider_state(OURS, "key", found).values())
    assert aboard.in_force(OURS, "key", found) == found


@pytest.mark.parametrize(
    ("now", "lacking"),
    [
        (config((OURS, "key")), set()),
        (config((OURS, "key"), options={"0": {"auth_type": "bearer", "tags": []}}), set()),
        (config((OURS, "other")), {"key"}),
        (config((FOREIGN, "x"), (OURS, "key")), {"first", "key"}),
        (config((OURS, "key"), (OURS, "key")), {"first", "key"}),
        ({**config((OURS, "key")), "ENABLE_OPENAI_API": False}, {"enabled"}),
        (config((OURS, "key"), options={"0": {"enable": False}}), {"visible"}),
        (config((OURS, "key"), options={"0": {"prefix_id": "x"}}), {"visible"}),
        (config((OURS, "key"), options={"0": {"model_ids": ["x"]}}), {"visible"}),
    ],
)
def test_provider_state(now: dict[str, Any], lacking: set[str]) -> None:
    state = aboard.provider_state(OURS, "key", now)
    assert {name for name, good in state.items() if not good} == lacking


def test_the_token_is_a_signed_jwt_that_ends() -> None:
    head, body, signature = aboard.token("key", "user-1", "stamp", 1000.0).split(".")
    digest = hmac.new(b"key", f"{head}.{body}".encode(), hashlib.sha256).digest()
    assert base64.urlsafe_b64encode(digest).rstrip(b"=").decode() == signature
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    assert (claims["id"], claims["session_stamp"]) == ("user-1", "stamp")
    assert claims["exp"] == 1120


def test_the_first_administrator(tmp_path: Path) -> None:
    path = str(tmp_path / "webui.db")
    with pytest.raises(aboard.ApiError, match="cannot be read"):
        aboard.first_admin(path)
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE user (id TEXT, role TEXT, created_at INTEGER)")
        database.execute("CREATE TABLE auth (id TEXT, session_stamp TEXT)")
    with pytest.raises(aboard.ApiError, match="no administrator"):
        aboard.first_admin(path)
    with sqlite3.connect(path) as database:
        database.execute("INSERT INTO user VALUES ('b', 'admin', 2), ('a', 'admin', 1)")
        database.execute("INSERT INTO user VALUES ('c', 'user', 0)")
        database.execute("INSERT INTO auth VALUES ('a', 'stamp')")
    assert aboard.first_admin(path) == ("a", "stamp")


# What drift says --------------------------------------------------------------------------------

HERE = {"spec": SPEC, "around": AROUND}
PROVIDER = {"enabled": False, "first": False, "key": False, "visible": False}
WORDS: list[Words] = [
    (settings, [GOOD], HERE, []),
    (settings, [{}], HERE, [("Open WebUI: settings that can be read", "it does not run")]),
    (
        settings,
        [{**GOOD, "provider": PROVIDER}],
        HERE,
        [
            ("Open WebUI: the OpenAI API on", "off"),
            (f"Open WebUI: the provider {OURS}, first", "not there, or not first"),
            ("Open WebUI: the provider's key is the node's", "another key"),
            (
                "Open WebUI: the provider's models shown, by their names",
                "hidden, renamed or off",
            ),
        ],
    ),
]
