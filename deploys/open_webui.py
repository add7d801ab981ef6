"""Open WebUI: the chat interface, with its provider in place and its first administrator made.

Its container runs in the stack, published on the node's loopback, and reaches the engine by
service name on the Compose network. Its data are in a Docker volume of a fixed name. Its secrets
(the key that signs sessions and encrypts stored tokens, the first administrator's password, the
engine's API key) are files on the node; a small start script puts them into the environment of the
process alone and then runs the image's own start script.

Open WebUI reads its provider from the environment on the first start only; afterwards its database
wins. `ENABLE_PERSISTENT_CONFIG=false` would end that, and would throw away every setting that an
administrator makes. So it stays on, and each converge compares the settings that it runs with
through its admin API: the provider of the inventory is enabled, first, has the node's key and
shows its models; sign-up is off; Ollama is off; the address is the site's. What differs is put
right, everything else is the administrator's: connections that they added stay, behind ours.

The first administrator is made on an empty database, with the address `admin_email` and the
password in /etc/homeport/secrets/open_webui.admin_password. It is not changed afterwards.

How it fails: Open WebUI not healthy: see the stack. Its API refusing the node's token means that
it runs with another secret key than the node's.
How to undo it: take it out of the inventory; the stack removes the container, the volume stays.

Sources: Open WebUI 0.12.4, open_webui/config.py, env.py, main.py, routers/; docs.openwebui.com,
"Environment variable configuration".
"""

import re
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from deploys.secrets import Secret
from deploys.stack import HealthCheck, MountedFile, Port, Service, Volume
from homeport.capability import Capability
from homeport.differs import Pair, differs
from homeport.observe import NodeFact, act
from homeport.pins import Image
from homeport.spec import Spec, is_port

SERVICE = "open-webui"
SECRET_KEY = "open_webui.secret_key"
ADMIN_PASSWORD = "open_webui.admin_password"
START_SCRIPT = Path(__file__).resolve().parents[1] / "files/open_webui/start.sh"
START_PATH = "/homeport/start.sh"
CONTAINER_PORT = 8080


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenWebui(Spec):
    """Open WebUI. `volume` is the Docker volume of its data; `start_timeout` is in seconds.

    A volume of that name that Homeport did not make is refused, unless `adopt`. To adopt one, first
    place the key that its Open WebUI signed with (WEBUI_SECRET_KEY, or `.webui_secret_key` in its
    container) as the secret open_webui.secret_key: another key ends all sessions and makes stored
    tokens unreadable. Then see that no other container uses it.

    From 0.9.0 on its schema migrations run one way and may take half an hour.
    """

    STEM = "open_webui"

    image: Image
    port: int = 3000
    volume: str = "open-webui"
    adopt: bool = False
    admin_email: str = "admin@homeport.local"
    admin_name: str = "Admin"
    start_timeout: int = 1800

    def validate(self) -> None:
        self.require("port", is_port(self.port), "must be a port: 1 to 65535")
        ok = re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*", self.volume) is not None
        self.require("volume", ok, "must be a Docker volume's name")
        email = re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", self.admin_email)
        self.require("admin_email", email is not None, "must be like name@example.org")
        self.require("admin_name", bool(self.admin_name.strip()), "must not be empty")
        self.require("start_timeout", self.start_timeout > 0, "must be positive")

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What the node makes for it."""
        return (Secret(name=SECRET_KEY), Secret(name=ADMIN_PASSWORD, bytes=18))


@dataclass(frozen=True, kw_only=True, slots=True)
class Around(Spec):
    """What Open WebUI must know of the rest of the node; derived by `Node`, never written.

    `provider` is the base URL of the engine, `key` the name of the secret with its API key,
    `engine` its service. `site` is the host name under which Caddy serves the UI; `plain_http`
    whether also without TLS. All may be "".
    """

    STEM = "open_webui.around"

    provider: str = ""
    key: str = ""
    engine: str = ""
    site: str = ""
    plain_http: bool = False

    @property
    def address(self) -> str:
        """The URL that users type, "" without a site."""
        return f"https://{self.site}" if self.site else ""


def environment(spec: OpenWebui, around: Around) -> dict[str, str]:
    """The container's environment: nothing secret, see the module's docstring."""
    # The loopback ones are for a tunnel: `ssh -L 3000:127.0.0.1:3000`.
    origins = [f"http://{name}:{spec.port}" for name in ("127.0.0.1", "localhost")]
    if around.site:
        origins = [around.address, *([f"http://{around.site}"] * around.plain_http), *origins]
    values = {
        "ENABLE_PERSISTENT_CONFIG": "true",
        "ENABLE_OPENAI_API": "true",
        "OPENAI_API_BASE_URLS": around.provider,
        "ENABLE_OLLAMA_API": "false",
        "ENABLE_SIGNUP": "false",
        "WEBUI_ADMIN_EMAIL": spec.admin_email,
        "WEBUI_ADMIN_NAME": spec.admin_name,
        "WEBUI_URL": around.address,
        "CORS_ALLOW_ORIGIN": ";".join(origins),
        "WEBUI_SESSION_COOKIE_SECURE": "true" if around.site and not around.plain_http else "",
    }
    return {name: value for name, value in values.items() if value}


def service(spec: OpenWebui, around: Around) -> Service:
    """The container. The command is the upstream image's own, which an entrypoint clears."""
    health = ("curl", "--fail", "--silent", f"http://127.0.0.1:{CONTAINER_PORT}/health")
    script = MountedFile(name="start.sh", content=START_SCRIPT.read_text(), path=START_PATH)
    return Service(
        name=SERVICE,
        capability="open_webui",
        image=spec.image,
        entrypoint=("sh", START_PATH),
        command=("bash", "start.sh"),
        environment=environment(spec, around),
        ports=(Port(host=spec.port, container=CONTAINER_PORT),),
        volumes=(Volume(name=spec.volume, path="/app/backend/data", adopt=spec.adopt),),
        files=(script,),
        secrets=tuple(name for name in (SECRET_KEY, ADMIN_PASSWORD, around.key) if name),
        # As long as a migration may take: an unhealthy container is recreated, and one that
        # migrates must not be.
        health=HealthCheck(test=health, start_period=3600),
        depends_on=(around.engine,) if around.engine else (),
        start_timeout=spec.start_timeout,
        stop_grace=60,
    )


class OpenWebuiState(NodeFact):
    """{"problem": "", "provider": {"enabled": true, "first": true, "key": true, "visible": true},
    "ollama": false, "signup": false, "address": "https://…"}; or {"problem": "why"}"""

    stem = "open_webui"


def difference(around: Around, seen: dict[str, Any]) -> list[Pair]:
    """What Open WebUI runs with that the inventory wants otherwise."""
    problem = seen.get("problem", "it does not run")
    if problem:
        return [Pair("Open WebUI: settings that can be read", problem)]
    words = {
        "enabled": Pair("the OpenAI API on", "off"),
        "first": Pair(f"the provider {around.provider}, first", "not there, or not first"),
        "key": Pair("the provider's key is the node's", "another key"),
        "visible": Pair("the provider's models shown, by their names", "hidden, renamed or off"),
    }
    found = []
    if around.provider:
        found = [pair for name, pair in words.items() if not seen["provider"][name]]
    if seen["ollama"]:
        found.append(Pair("Ollama off", "on"))
    if seen["signup"] is not False:
        found.append(Pair("sign-up closed", "open"))
    if around.address and seen["address"] != around.address:
        found.append(Pair(f"its address {around.address}", str(seen["address"])))
    return [Pair(f"Open WebUI: {pair.wanted}", pair.there) for pair in found]


@operation()
def settings(spec: OpenWebui, around: Around) -> Generator[StringCommand, None, None]:
    """The provider, sign-up and address that it runs with are those of the inventory."""
    arguments = {
        "port": spec.port,
        "volume": spec.volume,
        "provider": around.provider,
        "key_file": around.key,
    }
    found = difference(around, host.get_fact(OpenWebuiState, **arguments))
    differs(found)
    if found:
        yield act("open_webui", "put_right", address=around.address, **arguments)
    else:
        host.noop("its settings are those of the inventory")


@deploy("Open WebUI")
def apply(spec: OpenWebui | None, around: Around) -> None:
    """Put its settings right, once the stack runs it. With None the volume stays."""
    if spec is not None:
        settings(name="Put the provider and sign-up right", spec=spec, around=around)


CAPABILITY = Capability(
    summary="the chat UI: provider always in force, sessions that survive, sign-up refused, "
    "an administrator without clicking",
    proof="container",
)
