"""The settings that Open WebUI runs with, read and put right through its own admin API.

The token is made here, with the key that Open WebUI signs its sessions with, for the first
administrator in its database: so it does not depend on a password that the administrator has long
changed. It lives for two minutes and is never printed.

Sources, Open WebUI 0.12.4: utils/auth.py (tokens), routers/openai.py, routers/ollama.py,
routers/auths.py (settings), models/users.py and models/auths.py (tables).
"""

import base64
import hashlib
import hmac
import json
import sqlite3
import time
import urllib.error
import urllib.request
import uuid
from typing import Any

from homeport_node import docker_engine
from homeport_node.common import SECRETS, read

SECRET_KEY = f"{SECRETS}/open_webui.secret_key"
DATABASE = "webui.db"
TOKEN_LIFE = 120  # seconds
# What an administrator can set on a connection that would keep its models from users, or rename
# them; everything else there (tags, headers) is theirs.
HIDES = ("prefix_id", "model_ids", "azure", "auth_type", "api_type", "connection_type", "provider")


class ApiError(Exception):
    """Open WebUI did not answer, or not as it should; the text says how. Holds no secret."""


def _base64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def token(secret: str, user: str, stamp: "str | None", now: float) -> str:
    """A JWT (HS256) for the user ID `user`, valid for two minutes.

    Its type is "automation", not a person's session: so two-factor rules do not apply.
    """
    claims = {
        "id": user,
        "typ": "automation",
        "session_stamp": stamp,
        "jti": str(uuid.uuid4()),
        "iat": int(now),
        "exp": int(now) + TOKEN_LIFE,
    }
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    body = b".".join(_base64(json.dumps(part).encode()) for part in parts)
    signature = hmac.new(secret.encode(), body, hashlib.sha256).digest()
    return b".".join((body, _base64(signature))).decode()


def first_admin(database: str) -> "tuple[str, str | None]":
    """The ID and the session stamp of the first administrator. Raises `ApiError` without one."""
    try:
        connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)
        try:
            connection.row_factory = sqlite3.Row
            user = connection.execute(
                "SELECT id FROM user WHERE role = 'admin' ORDER BY created_at, id LIMIT 1"
            ).fetchone()
            if user is None:
                raise ApiError("there is no administrator in its database")
            auth = connection.execute("SELECT * FROM auth WHERE id = ?", (user["id"],)).fetchone()
            # Versions before 0.12 have no such column.
            stamped = auth is not None and "session_stamp" in auth.keys()  # noqa: SIM118
            return str(user["id"]), auth["session_stamp"] if stamped else None
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise ApiError(f"its database cannot be read: {error}") from error


class Api:
    """Open WebUI's API on the node's loopback, as its first administrator."""

    def __init__(self, port: int, volume: str) -> None:
        self.port = port
        try:
            found = docker_engine.ask(f"/volumes/{volume}")
        except docker_engine.NoAnswer as error:
            raise ApiError(str(error)) from error
        if found is None:
            raise ApiError(f"there is no volume {volume}")
        secret = (read(SECRET_KEY) or "").strip()
        if not secret:
            raise ApiError(f"{SECRET_KEY} is missing")
        user, stamp = first_admin(f"{found['Mountpoint']}/{DATABASE}")
        self._token = token(secret, user, stamp, time.time())

    def call(self, path: str, body: "dict[str, Any] | None" = None) -> Any:
        """GET `path`, or POST `body` to it. Raises `ApiError`."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace") if error.code != 422 else ""
            raise ApiError(f"{path}: HTTP {error.code} {said}") from error
        except (OSError, ValueError) as error:
            raise ApiError(f"{path}: {error}") from error


def in_force(provider: str, key: str, now: "dict[str, Any]") -> "dict[str, Any]":
    """The provider settings `now` with ours enabled, first, with its key, and under its own names.

    Connections that an administrator added stay, with their keys and options, behind ours. Options
    are found by position or, in older databases, by URL.
    """
    urls = list(now.get("OPENAI_API_BASE_URLS") or [])
    keys = list(now.get("OPENAI_API_KEYS") or [])
    keys += [""] * (len(urls) - len(keys))
    options = dict(now.get("OPENAI_API_CONFIGS") or {})
    own: dict[str, Any] = {}
    others = []
    for index, url in enumerate(urls):
        chosen: dict[str, Any] = options.get(str(index), options.get(url)) or {}
        if url.rstrip("/") != provider:
            others.append((url, keys[index], chosen))
        elif not own:
            own = dict(chosen)
    if own:
        own["enable"] = True
        own = {name: value for name, value in own.items() if name not in HIDES}
    wanted = [(provider, key, own), *others]
    return {
        "ENABLE_OPENAI_API": True,
        "OPENAI_API_BASE_URLS": [url for url, _, _ in wanted],
        "OPENAI_API_KEYS": [secret for _, secret, _ in wanted],
        "OPENAI_API_CONFIGS": {str(i): one for i, (_, _, one) in enumerate(wanted) if one},
    }


def _hiding(options: "dict[str, Any]") -> bool:
    """Whether options keep a connection's models from users, or rename them."""
    if options.get("enable", True) is not True:
        return True
    plain = {"auth_type": "bearer", "connection_type": "external", "provider": ""}
    return any(
        options.get(name) and options[name] not in (plain.get(name), "local", "openai", "llama.cpp")
        for name in HIDES
    )


def provider_state(provider: str, key: str, now: "dict[str, Any]") -> "dict[str, Any]":
    """{"enabled", "first", "key", "visible"}: what of our provider is in force; no key in it."""
    urls = [url.rstrip("/") for url in now.get("OPENAI_API_BASE_URLS") or []]
    keys = list(now.get("OPENAI_API_KEYS") or [])
    options = now.get("OPENAI_API_CONFIGS") or {}
    first = bool(urls) and urls[0] == provider and urls.count(provider) == 1
    own = options.get("0", options.get(provider, {})) if first else {}
    return {
        "enabled": now.get("ENABLE_OPENAI_API") is True,
        "first": first,
        "key": first and bool(keys) and hmac.compare_digest(keys[0].encode(), key.encode()),
        "visible": not _hiding(own),
    }


def observe(port: int, volume: str, provider: str, key_file: str) -> "dict[str, Any]":
    """What Open WebUI runs with; see `deploys.open_webui.OpenWebuiState` for an example."""
    try:
        api = Api(port, volume)
        admin = api.call("/api/v1/auths/admin/config")
        ollama = api.call("/ollama/config")
        openai = api.call("/openai/config")
    except ApiError as error:
        return {"problem": str(error)}
    key = (read(f"{SECRETS}/{key_file}") or "").strip()
    return {
        "problem": "",
        "provider": provider_state(provider, key, openai) if provider else None,
        "ollama": ollama.get("ENABLE_OLLAMA_API"),
        "signup": admin.get("ENABLE_SIGNUP"),
        "address": admin.get("WEBUI_URL"),
    }


def _sendable(admin: "dict[str, Any]") -> "dict[str, Any]":
    """The administrator's settings as the form takes them back.

    Fields that are not set come back as null and must be left out; the rules for two-factor
    sign-in may be sent by a person's session only, and stay as they are when they are not sent.
    """
    return {name: value for name, value in admin.items() if value is not None and "MFA" not in name}


def put_right(port: int, volume: str, provider: str, key_file: str, address: str) -> "str | None":
    """Put the settings of the inventory into force, and leave all others as they are."""
    key = (read(f"{SECRETS}/{key_file}") or "").strip()
    try:
        api = Api(port, volume)
        now = api.call("/openai/config")
        if provider and (wanted := in_force(provider, key, now)) != now:
            api.call("/openai/config/update", wanted)
        ollama = api.call("/ollama/config")
        if ollama.get("ENABLE_OLLAMA_API"):
            api.call("/ollama/config/update", {**ollama, "ENABLE_OLLAMA_API": False})
        admin = api.call("/api/v1/auths/admin/config")
        changes = {"ENABLE_SIGNUP": False, **({"WEBUI_URL": address} if address else {})}
        if any(admin.get(name) != value for name, value in changes.items()):
            api.call("/api/v1/auths/admin/config", {**_sendable(admin), **changes})
    except ApiError as error:
        return f"Open WebUI's settings cannot be put right: {error}"
    return None
