"""Iona on a lab machine, as the tests see it: from the desk, from a user's seat, as root."""

import dataclasses
import json
import os
import shutil
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx2

from deploys.node import Node
from homeport.inventory import unbound
from homeport.lab import desk
from homeport.lab.content.repository import write_repo
from homeport.lab.driver import Driver
from homeport.lab.stage import Stage, hub_root, stage
from tests.lab.left import OWNED, Left, left, packaged
from tests.open_webui import client as user

INVENTORY = desk.ROOT / "inventory" / "iona.py"
API = "https://iona-api.local.arpeggio.one/v1"
MODELS = "/srv/homeport/models"
MODEL = "google_gemma-4-26B-A4B-it-Q4_0.gguf"
KEY = "/etc/homeport/secrets/llama_server.api_key"


class _ToNode(httpx2.HTTPTransport):
    """Sends every request to one address, whatever name it is for; TLS still checks the name."""

    def __init__(self, address: str, context: ssl.SSLContext) -> None:
        super().__init__(verify=context)
        self.address = address

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.extensions = {**request.extensions, "sni_hostname": request.url.host}
        request.url = request.url.copy_with(host=self.address)
        return super().handle_request(request)


@dataclass
class Hub:
    """The lab's Hub: faults to play, and what it sent. See `homeport.lab.content.hub`."""

    address: str
    authority: str
    root: Path

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        context = ssl.create_default_context(cadata=self.authority)
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}{path}", data=data, method=method)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )
        with opener.open(request, timeout=20) as answer:
            return json.load(answer)

    def faults(self, faults: dict[str, dict[str, Any]]) -> None:
        """Play these from now on instead of any others; {} ends them."""
        self._ask("POST", "/_faults", faults)

    def sent(self) -> int:
        """Bytes of files that it sent since `forget`."""
        return sum(entry["bytes"] for entry in self._ask("GET", "/_stats").values())

    def ranges(self) -> list[list[int]]:
        """[first byte, bytes sent] of every answer that held a file, since `forget`."""
        found = self._ask("GET", "/_stats").values()
        return [span for entry in found for span in entry["ranges"]]

    def forget(self) -> None:
        """Start counting anew."""
        self._ask("DELETE", "/_stats")


@dataclass
class Iona:
    """The stage, what the first converge on the bare machine wrote, and what it left there."""

    stage: Stage
    hub: Hub
    first: dict[str, Any] = dataclasses.field(default_factory=dict)
    left: Left | None = None

    @property
    def machine(self) -> Driver:
        return self.stage.machine

    @cached_property
    def node(self) -> Node:
        """The inventory's own words; without digests and commits."""
        node = unbound(self.stage.inventory)["iona"]
        assert isinstance(node, Node)
        return node

    def with_inventory(self, path: Path, text: str) -> "Iona":
        """The same machine under another inventory, written to `path`."""
        path.write_text(text)
        return Iona(stage=dataclasses.replace(self.stage, inventory=path), hub=self.hub)

    def build(self) -> None:
        """Lock and converge the bare machine, undisturbed."""
        self.lock()
        before = packaged(self.machine)
        self.first = self.converge()
        self.left = left(self.machine, before)

    def converge(self) -> dict[str, Any]:
        """What `converge --json` wrote. Raises `StepFailed` when it failed."""
        return desk.converge(self.stage, quiet=True)

    def refused(self) -> str:
        """What a converge says that must fail with exit status 1, and touch no container, nor the
        file that they are started from after a reboot."""
        file = "sha256sum /etc/homeport/stack/compose.yaml"
        before, written = self.containers(), self.machine.succeed(file)
        done = desk.homeport(self.stage, "converge", str(self.stage.inventory))
        assert done.returncode == 1, done.stderr
        assert "Traceback" not in done.stderr
        assert self.containers() == before, "a refused converge touched a container"
        assert self.machine.succeed(file) == written, "a refused converge wrote the Compose file"
        return done.stderr

    def pending(self) -> list[str]:
        return sorted(desk.pending(self.stage))

    def drift(self) -> list[dict[str, Any]]:
        """What `drift --json` wrote of the host, each with its capability and operation."""
        to = self.stage.directory / "drift.json"
        words = ("drift", str(self.stage.inventory), "--json", str(to))
        done = desk.homeport(self.stage, *words)
        (host,) = json.loads(to.read_text())["hosts"]
        found: list[dict[str, Any]] = host["drift"]
        assert done.returncode == (2 if found else 0), done.stderr
        to.unlink()
        return found

    def heal(self) -> dict[str, Any]:
        """Converge once; afterwards nothing is pending, the model answers, and the UI does."""
        done = self.converge()
        assert self.pending() == []
        assert self.answers() == 200
        return done

    def lock(self) -> None:
        """Make the lock anew, against the lab's registry and Hub."""
        done = desk.homeport(self.stage, "lock", str(self.stage.inventory))
        assert done.returncode == 0, done.stderr

    def publish(self, folder: Path) -> str:
        """Publish a new commit of the model on the Hub, its files in `folder`, and lock it."""
        assert self.node.hf_models is not None
        repo = self.node.hf_models.models[0].source.repo
        files = {}
        for path in (self.hub.root / repo / "main").iterdir():
            copy = folder / path.name
            copy.unlink(missing_ok=True)  # the Hub's own, by another name, when it was used before
            shutil.copyfile(path, copy)
            if path.name == MODEL:  # llama.cpp does not mind what follows the last tensor
                with copy.open("ab") as file:
                    file.write(b"\0" * 4096)
            files[path.name] = copy
        commit = write_repo(self.hub.root, repo, files)
        self.lock()
        return commit

    def containers(self) -> str:
        return desk.containers(self.stage)

    def container(self, service: str) -> dict[str, Any]:
        """`docker inspect` of the service's container; {} when there is none."""
        name = f"iona-{service}-1"
        found = self.machine.run(f"docker container inspect {name}").stdout
        return dict((json.loads(found or b"[]") or [{}])[0])

    def running(self) -> set[str]:
        """The services that run, whatever their health."""
        names = self.machine.succeed("docker ps --format '{{.Names}}'").split()
        return {name.removeprefix("iona-").removesuffix("-1") for name in names}

    def owned(self) -> str:
        """Path, mode, owner, time, link and sha256 of every file of ours."""
        files = f"find {OWNED} -path '*/__pycache__' -prune -o"
        listed = f"{files} -not -type d -printf '%p %m %u:%g %T@ %l\\n'"
        hashed = f"{files} -type f -exec sha256sum {{}} +"
        return self.machine.succeed(f"{{ {listed}; {hashed}; }} | sort")

    def links(self) -> str:
        """The links in the models' directory and where they lead."""
        return self.machine.succeed(f"find {MODELS} -type l -printf '%p %l\\n' | sort")

    @contextmanager
    def client(self) -> Iterator[httpx2.Client]:
        """A user elsewhere, who trusts the CA that the node offers and nothing else."""
        offered = httpx2.get(f"http://{self.machine.address}/ca.crt", timeout=10).text
        context = ssl.create_default_context(cadata=offered)
        transport = _ToNode(self.machine.address, context)
        with httpx2.Client(transport=transport, timeout=60) as client:
            yield client

    def answers(self) -> int:
        """The HTTP status of a chat completion, asked for from outside, by name, over HTTPS."""
        key = self.machine.succeed(f"cat {KEY}")
        alias = self.node.llama_server.alias if self.node.llama_server else ""
        question = {"model": alias, "messages": [{"role": "user", "content": "hello"}]}
        with self.client() as client:
            answer = client.post(
                f"{API}/chat/completions",
                json={**question, "max_tokens": 4},
                headers={"Authorization": f"Bearer {key}"},
            )
        return int(answer.status_code)

    def sign_in(self) -> str:
        """A session of the first administrator."""
        password = self.machine.succeed(f"cat {user.PASSWORD_FILE}")
        with self.client() as client:
            return user.sign_in(client, self.node, password)

    def get(self, token: str, path: str) -> Any:
        with self.client() as client:
            return user.get(client, self.node, token, path)

    def post(self, token: str, path: str, body: Any) -> Any:
        with self.client() as client:
            return user.post(client, self.node, token, path, body)

    def models(self, token: str) -> list[str]:
        with self.client() as client:
            return user.models(client, self.node, token)

    def wait_until_served(self, timeout: float = 120) -> None:
        """Until both services run and are healthy, and the model answers; no converge."""
        healthy = (
            'test "$(docker inspect -f "{{.State.Health.Status}}" iona-llama-server-1 '
            'iona-open-webui-1 | sort -u)" = healthy'
        )
        self.machine.wait_until(healthy, timeout=timeout, what="the services are not healthy")
        deadline = time.monotonic() + 10
        # Caddy may have kept a connection to the container that was there before.
        while self.answers() != 200:
            assert time.monotonic() < deadline, "the services are healthy, and Caddy does not serve"
            time.sleep(0.5)


@contextmanager
def built(folder: Path) -> Iterator[Iona]:
    """A machine whose first converge nobody interrupted, with a Hub below `folder` to publish on.

    A Hub of its own: the cache's serves every rehearsal.
    """
    hub = folder / "hub"
    shutil.copytree(hub_root(unbound(INVENTORY)), hub, copy_function=os.link)
    with stage(INVENTORY, hub=hub) as on:
        made = Iona(on, Hub(on.sources.hub, on.sources.authority.certificate, hub))
        made.build()
        yield made
