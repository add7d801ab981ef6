"""Where a lab's machines fetch from: a registry, a Hugging Face Hub, a package index, packages.

One container on the lab's network, with one name for each, over TLS by the lab's authority. The
registry is the real one from Debian; what it holds stays in the cache between runs.
"""

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from homeport.lab import LabError, cache, images
from homeport.lab.authority import Authority
from homeport.lab.cache import Progress, quiet
from homeport.lab.content import apt_repository
from homeport.lab.engine import Engine
from homeport.lab.machine import archive
from homeport.lab.network import Network
from homeport.lab.registry import Registry

REGISTRY = "registry.lab.internal"
HUB = "hub.lab.internal"
INDEX = "pypi.lab.internal"
TIME = "time.lab.internal"
CHRONY = ("allow", "local stratum 8", "cmdport 0")  # chrony.conf(5), a line each
REGISTRY_PORT, HUB_PORT, INDEX_PORT, APT_PORT = 5000, 443, 8443, 8080

PROGRAMS = Path(__file__).parent
HOME = "/srv/lab"

# HTTP/2 is off: its flow control makes one large layer slower than plain HTTP does.
REGISTRY_CONFIGURATION = f"""\
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: /var/lib/registry}}
  cache: {{blobdescriptor: inmemory}}
  maintenance: {{uploadpurging: {{enabled: false}}}}
http:
  addr: :{REGISTRY_PORT}
  http2: {{disabled: true}}
  tls: {{certificate: {HOME}/server.crt, key: {HOME}/server.key}}
"""


@dataclass
class Sources:
    """The running sources: `address`, the `authority` behind their certificates, and switches."""

    engine: Engine
    container: str
    address: str
    authority: Authority
    registries: dict[str, str]
    commands: dict[str, tuple[str, int]] = field(default_factory=dict)
    apt_key: str = ""
    progress: Progress = quiet

    @property
    def names(self) -> dict[str, str]:
        """Each name that a machine must know, and its address."""
        return dict.fromkeys((REGISTRY, HUB, INDEX, TIME), self.address)

    @property
    def hub(self) -> str:
        """What a machine's Hub endpoint is, or "" when there is none."""
        return f"https://{self.address}" if "hub" in self.commands else ""

    @property
    def pypi(self) -> str:
        """The package index's address, or "" when there is none."""
        # By name: pip 25 cannot verify a certificate for an address.
        return f"https://{INDEX}:{INDEX_PORT}/simple" if "index" in self.commands else ""

    @property
    def apt(self) -> dict[str, str]:
        """What stands in for a maker's package repository, by the maker's address."""
        # Without TLS: what is fetched there is signed.
        here = {apt_repository.PUBLIC: f"http://{self.address}:{APT_PORT}"}
        return here if "apt" in self.commands else {}

    @property
    def apt_keys(self) -> dict[str, str]:
        """The fingerprint of each one's key."""
        return dict.fromkeys(self.apt, self.apt_key)

    def start(self, service: str) -> None:
        """Start `registry`, `hub`, `index` or `apt`, and wait until it answers."""
        command, port = self.commands[service]
        user = f"{os.getuid()}:{os.getgid()}" if service == "registry" else "0:0"
        out = f"{HOME}/run/{service}"
        script = f"echo $$ > {out}.pid; exec {command} >> {out}.log 2>&1"
        words = ("exec", "--detach", "--user", user, self.container, "sh", "-c", script)
        self.engine.docker(*words)
        deadline = time.monotonic() + 20
        while not self._answers(port):
            if time.monotonic() > deadline:
                said = self.engine.run("exec", self.container, "cat", f"{HOME}/run/{service}.log")
                raise LabError(f"the lab's {service} did not start: {said.stdout.decode()[-1500:]}")
            time.sleep(0.05)

    def stop(self, service: str) -> None:
        """Stop `registry`, `hub`, `index` or `apt` until `start`: its port refuses connections."""
        port = self.commands[service][1]
        kill = f"kill $(cat {HOME}/run/{service}.pid)"
        self.engine.docker("exec", self.container, "sh", "-c", kill)
        deadline = time.monotonic() + 20
        while self._answers(port):
            if time.monotonic() > deadline:
                raise LabError(f"the lab's {service} did not stop")
            time.sleep(0.05)

    def _answers(self, port: int) -> bool:
        try:
            socket.create_connection((self.address, port), timeout=2).close()
        except OSError:
            return False
        return True

    def registry(self) -> Registry:
        """The registry, to look into or to fill."""
        return Registry(REGISTRY, self.address, REGISTRY_PORT, self.authority.certificate)

    def pushed(self, name: str, identity: str) -> str:
        """The digest of `name` in the registry if it was pushed from `identity`, else ""."""
        path, tag = _split(name)
        known = _notes().get(f"{path}:{tag}", {})
        if known.get("identity") != identity:
            return ""
        digest = self.registry().digest(path, tag)
        return digest if digest == known.get("digest") else ""

    def push(self, image: str, name: str, identity: str = "") -> str:
        """Put `image` of the engine into the registry under the public `name`; its digest.

        `name` is what an inventory calls it ("ghcr.io/ggml-org/llama.cpp:server-cuda").
        `identity` says what the image was made from, by default its id: what was pushed from the
        same before is there, and stays.
        """
        registry, _, _ = name.partition("/")
        if registry not in self.registries:
            raise LabError(f"{name}: the lab stands in for {', '.join(self.registries)} only")
        identity = identity or self.engine.image_id(image)
        if digest := self.pushed(name, identity):
            return digest
        path, tag = _split(name)
        with cache.lock("registry", self.progress):
            self.progress(f"filling the lab's registry: {name}")
            digest = self.registry().push(self.engine, image, path, tag)
            notes = _notes()
            notes[f"{path}:{tag}"] = {"identity": identity, "digest": digest}
            temporary = _notes_path().with_suffix(".new")
            temporary.write_text(json.dumps(notes, indent=1))
            temporary.replace(_notes_path())
        return digest


def _split(name: str) -> tuple[str, str]:
    """Repository path and tag of the full image name `name`."""
    path, _, tag = name.partition("/")[2].rpartition(":")
    return path, tag


def _notes_path() -> Path:
    return cache.directory("registry") / "pushed.json"


def _notes() -> dict[str, dict[str, str]]:
    """What each tag in the registry was pushed from, and its digest."""
    try:
        notes: dict[str, dict[str, str]] = json.loads(_notes_path().read_text())
    except (OSError, ValueError):
        return {}
    return notes


@contextmanager
def sources(
    engine: Engine,
    network: Network,
    *,
    registries: tuple[str, ...] = ("ghcr.io",),
    hub_root: Path | None = None,
    wheels: Path | None = None,
    packages: Path | None = None,
    authority: Authority | None = None,
    progress: Progress = quiet,
) -> Iterator[Sources]:
    """The lab's sources, up for the length of the block.

    `registries` are the public registries that the lab's stands in for; `hub_root` what the Hub
    serves, `wheels` the directory of the package index, and `packages` a repository of Debian's
    packages, which is signed here; without one there is no such source.
    """
    image = images.sources_image(engine, progress)
    progress("starting the lab's registry, Hub and package index")
    container, address = f"{network.name}_sources", network.address()
    made = Sources(
        engine=engine,
        container=container,
        address=address,
        authority=authority or Authority(),
        # By address: `bin/homeport lock` asks them from the desk, where the lab's names mean
        # nothing and are not to be written into /etc/hosts.
        registries=dict.fromkeys(registries, f"{address}:{REGISTRY_PORT}"),
        progress=progress,
    )
    mounts = [f"{cache.directory('registry', 'storage')}:/var/lib/registry"]
    mounts += [f"{hub_root.resolve()}:{HOME}/hub:ro"] if hub_root else []
    mounts += [f"{wheels.resolve()}:{HOME}/wheels:ro"] if wheels else []
    mounts += [f"{packages.resolve()}:{HOME}/packages:ro"] if packages else []
    made.commands = _commands(
        hub=hub_root is not None, index=wheels is not None, apt=packages is not None
    )
    try:
        words = [word for mount in mounts for word in ("--volume", mount)]
        words += ["--network", network.name, "--ip", address, "--init", *engine.labels]
        # Written by any user: the registry runs as whoever owns its directory in the cache.
        words += ["--tmpfs", f"{HOME}/run:mode=1777"]
        engine.docker("create", "--name", container, *words, image, "sleep", "infinity")
        engine.docker("cp", "-", f"{container}:/", stdin=archive(_files(made.authority, address)))
        engine.docker("start", container)
        if packages:
            sign = ("sh", "-c", apt_repository.SIGN, "sh", f"{HOME}/packages", f"{HOME}/run/apt")
            made.apt_key = engine.docker("exec", container, *sign).strip()
        for service in made.commands:
            made.start(service)
        # For machines with a clock of their own. -x: this one is the host's, and only told.
        engine.docker("exec", "--detach", container, "chronyd", "-dxu", "root", *CHRONY)
        yield made
    finally:
        if not engine.keeping:
            engine.run("rm", "--force", "--volumes", container)


def _files(authority: Authority, address: str) -> dict[str, tuple[bytes, int]]:
    """The programs and certificates that the container gets: path to contents and mode."""
    certificate, key = authority.issue(REGISTRY, HUB, INDEX, address)
    files = {
        f"{HOME}/server.crt": (certificate.encode(), 0o644),
        f"{HOME}/server.key": (key.encode(), 0o644),
        f"{HOME}/registry.yml": (REGISTRY_CONFIGURATION.encode(), 0o644),
        f"{HOME}/index.py": ((PROGRAMS / "index.py").read_bytes(), 0o644),
    }
    hub = PROGRAMS / "content" / "hub.py"
    if hub.exists():
        files[f"{HOME}/hub.py"] = (hub.read_bytes(), 0o644)
    return files


def _commands(*, hub: bool, index: bool, apt: bool) -> dict[str, tuple[str, int]]:
    """The command line and port of each service."""
    tls = f"--cert {HOME}/server.crt --key {HOME}/server.key"
    commands = {"registry": (f"docker-registry serve {HOME}/registry.yml", REGISTRY_PORT)}
    if hub:
        root = f"--root {HOME}/hub --port {HUB_PORT}"
        commands["hub"] = (f"python3 {HOME}/hub.py {root} {tls}", HUB_PORT)
    if index:
        root = f"--root {HOME}/wheels --port {INDEX_PORT}"
        commands["index"] = (f"python3 {HOME}/index.py {root} {tls}", INDEX_PORT)
    if apt:
        serve = f"python3 -m http.server --directory {HOME}/run/apt {APT_PORT}"
        commands["apt"] = (serve, APT_PORT)
    return commands
