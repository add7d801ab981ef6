"""The Docker daemon that carries the lab.

The machine's own, when one answers at DOCKER_HOST or the default socket; else a private one that
`keeper` starts and takes away again. The private daemon keeps its images in the cache, so a second
rehearsal finds them there. Both need root.
"""

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Any

from homeport.lab import LabError, cache
from homeport.lab.cache import Progress, quiet
from homeport.lab.network import Network, free_pool, shuffled
from homeport.lab.prerequisites import answers, install_command, path_with_sbin, require_root

LABEL = "homeport.lab"
OWNER = f"{LABEL}.owner"
CACHE = f"{LABEL}.cache"


class Engine:
    """A Docker daemon, spoken to through the `docker` command.

    `private` says whether it is the lab's own. `pool` is the first half of the /16 that lab
    networks are cut from ("10.214").
    """

    def __init__(
        self, *, environment: dict[str, str], pool: str, private: bool, progress: Progress
    ) -> None:
        self.environment = {**os.environ, **environment}
        self.pool = pool
        self.private = private
        self.progress = progress
        self.keeping = False
        self.lifeline: socket.socket | None = None

    def run(
        self, *words: str, stdin: bytes | IO[bytes] | None = None, timeout: float = 600
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker WORDS`, whatever comes of it. `timeout` in seconds, then `LabError`."""
        given: dict[str, Any] = {"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}
        if stdin is None:
            given = {"stdin": subprocess.DEVNULL}
        try:
            return subprocess.run(
                ["docker", *words],
                env=self.environment,
                capture_output=True,
                timeout=timeout,
                check=False,
                **given,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"docker {words[0]}: no end within {timeout:g} s") from error

    def docker(
        self, *words: str, stdin: bytes | IO[bytes] | None = None, timeout: float = 600
    ) -> str:
        """What `docker WORDS` prints. Raises `LabError` with Docker's own words when it fails."""
        done = self.run(*words, stdin=stdin, timeout=timeout)
        if done.returncode:
            said = (done.stderr or done.stdout).decode(errors="replace").strip()
            raise LabError(f"docker {' '.join(words[:4])} …: {said[-2000:]}")
        return done.stdout.decode(errors="replace").strip()

    @contextmanager
    def stream(self, *words: str) -> Iterator[IO[bytes]]:
        """The output of `docker WORDS` as a stream. Raises `LabError` when the command fails."""
        with subprocess.Popen(
            ["docker", *words],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            try:
                yield process.stdout
            except BaseException:
                process.kill()
                raise
            said = process.stderr.read().decode(errors="replace").strip()
        if process.returncode:
            raise LabError(f"docker {words[0]}: {said[-2000:]}")

    def image_id(self, reference: str) -> str:
        """The id ("sha256:…") of an image that the daemon has, or "" when it has none."""
        done = self.run("image", "inspect", "--format", "{{.Id}}", reference)
        return done.stdout.decode().strip() if done.returncode == 0 else ""

    @property
    def run_directory(self) -> str:
        """Where the private daemon has its sockets and its log, `dockerd.log`."""
        where = self.environment["DOCKER_HOST"]
        return where.removeprefix("unix://").removesuffix("/docker.sock")

    @property
    def labels(self) -> tuple[str, ...]:
        """The arguments that mark a container or network as this run's."""
        mine = (LABEL, f"{OWNER}={os.getpid()}", f"{CACHE}={cache.root()}")
        return tuple(word for label in mine for word in ("--label", label))

    @contextmanager
    def network(self, name: str) -> Iterator["Network"]:
        """A network of its own for one lab; gone afterwards with everything of ours on it.

        With IPv6 as well where the kernel has it: Docker hands those addresses out.
        """
        network = self._create_network(name)
        try:
            yield network
        finally:
            if not self.keeping:
                _remove(self, f"network={name}")
                self.run("network", "rm", name)

    def _create_network(self, name: str) -> "Network":
        said = ""
        for number in shuffled():
            subnet = ipaddress.IPv4Network(f"{self.pool}.{number}.0/24")
            words, by_ipv6 = ["--subnet", str(subnet)], None
            if Path("/proc/net/if_inet6").exists():
                by_ipv6 = ipaddress.IPv6Network(f"fd68:6f6d:6570:{number:x}::/64")
                words += ["--ipv6", "--subnet", str(by_ipv6)]
            done = self.run("network", "create", *words, *self.labels, name)
            if done.returncode == 0:
                return Network(name=name, subnet=subnet, by_ipv6=by_ipv6)
            said = done.stderr.decode(errors="replace").strip()
            if "overlaps" not in said:
                break
        raise LabError(f"the lab's network could not be made: {said}")

    def keep(self) -> None:
        """Leave the lab up after this run; `release_kept` takes it away."""
        self.keeping = True
        (cache.kept() / str(os.getpid())).touch()
        if self.lifeline is not None:
            _say(self.lifeline, "keep")


def _remove(engine: Engine, selection: str) -> None:
    """Remove the containers that match `selection` and are the lab's, and their volumes."""
    filters = ("--filter", f"label={LABEL}", "--filter", selection)
    ids = engine.run("ps", "--all", "--quiet", *filters).stdout.decode().split()
    if ids:
        engine.run("rm", "--force", "--volumes", *ids)


@contextmanager
def engine(progress: Progress = quiet) -> Iterator[Engine]:
    """A Docker daemon for the length of the block; see the module's docstring.

    SIGTERM becomes an exception inside the block, so that everything is put away on the way out.
    Raises `LabError` with the command to type when there can be no daemon.
    """
    require_root()
    path_with_sbin()
    with _terminate_as_exception():
        if not shutil.which("docker"):
            raise LabError(f"there is no docker here: {install_command()}")
        if answers({}):
            yield _adopt(progress)
            return
        private = _private(progress)
        try:
            yield private
        finally:
            _leave(private)


def _adopt(progress: Progress) -> Engine:
    """The machine's own daemon."""
    where = os.environ.get("DOCKER_HOST", "")
    if where and not where.startswith("unix://"):
        raise LabError(f"DOCKER_HOST is {where}: the lab needs a Docker daemon on this machine")
    context = subprocess.run(
        ["docker", "context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    name, _, where = context.stdout.strip().partition(" ")
    if where and not where.startswith("unix://"):
        raise LabError(
            f"the Docker context {name} is {where}: the lab needs a Docker daemon on this machine: "
            "`export DOCKER_CONTEXT=default`"
        )
    found = Engine(environment={}, pool=free_pool(), private=False, progress=progress)
    options = found.docker("info", "--format", "{{.SecurityOptions}}")
    if "name=rootless" in options:
        raise LabError(
            "the Docker daemon here is rootless, and a lab machine needs capabilities that it "
            "cannot give: run as root with DOCKER_HOST unset"
        )
    _sweep(found)
    return found


def _sweep(found: Engine) -> None:
    """Remove what a run that was killed has left in the machine's own daemon.

    Only runs with this cache: which labs were kept is written there.
    """
    shape = '{{.ID}} {{.Label "' + OWNER + '"}}'
    ours = ("--filter", f"label={LABEL}", "--filter", f"label={CACHE}={cache.root()}")
    for kind, remove in (
        (("ps", "--all"), ("rm", "--force", "--volumes")),
        (("network", "ls"), ("network", "rm")),
    ):
        listed = found.run(*kind, *ours, "--format", shape)
        for line in listed.stdout.decode().splitlines():
            name, _, owner = line.partition(" ")
            if cache.abandoned(owner):
                found.run(*remove, name)


def release_kept(progress: Progress = quiet) -> int:
    """Take away every lab that a run kept; returns how many there were."""
    owners = [path.name for path in cache.kept().iterdir()]
    if not owners:
        return 0
    with engine(progress) as found:
        for owner in owners:
            _remove(found, f"label={OWNER}={owner}")
            mine = ("--filter", f"label={OWNER}={owner}", "--format", "{{.Name}}")
            for name in found.run("network", "ls", *mine).stdout.decode().split():
                found.run("network", "rm", name)
            (cache.kept() / owner).unlink(missing_ok=True)
        if found.lifeline is not None:
            _say(found.lifeline, "release")
    return len(owners)


def _say(lifeline: socket.socket, word: str) -> str:
    """Say `word` to the keeper and return its answer. Raises `OSError` when it is gone."""
    lifeline.sendall(f"{word}\n".encode())
    answer = lifeline.recv(64).decode().strip()
    if not answer:
        raise ConnectionResetError("the keeper is gone")
    return answer


def _private(progress: Progress) -> Engine:
    """A private daemon: the one that another run has up, or a new one."""
    if not shutil.which("dockerd"):
        raise LabError(f"there is no Docker daemon here: {install_command()}")
    place = cache.directory("engine")
    record = place / "private.json"
    with cache.lock("engine", progress):
        if record.exists():
            known = json.loads(record.read_text())
            with contextlib.suppress(OSError):
                return _join(known, progress)
            record.unlink()
        progress("starting a private Docker daemon")
        known = _start_keeper(place / "docker")
        joined = _join(known, progress)
        temporary = record.with_suffix(".new")
        temporary.write_text(json.dumps(known))
        temporary.replace(record)
        return joined


def _join(known: dict[str, str], progress: Progress) -> Engine:
    """Connect to the keeper in `known`. Raises `OSError` when it is gone."""
    lifeline = socket.socket(socket.AF_UNIX)
    lifeline.connect(f"{known['run']}/control")
    _say(lifeline, "hello")
    environment = {
        "DOCKER_HOST": f"unix://{known['run']}/docker.sock",
        "DOCKER_CONFIG": f"{known['run']}/client",  # no credential helper of the user's
        "DOCKER_CONTEXT": "",
    }
    found = Engine(environment=environment, pool=known["subnet"], private=True, progress=progress)
    found.lifeline = lifeline
    return found


def _start_keeper(data: Path) -> dict[str, str]:
    data.mkdir(parents=True, exist_ok=True)
    run = tempfile.mkdtemp(prefix="homeport-")
    settings = {"run": run, "data": str(data), "subnet": free_pool()}
    program = str(Path(__file__).with_name("keeper.py"))
    keeper = subprocess.Popen(
        [sys.executable, program, json.dumps(settings)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for us; the keeper ends when we have
        cwd="/",
    )
    assert keeper.stdout is not None
    try:
        answer = json.loads(keeper.stdout.readline() or b'{"ok": false, "error": "it died"}')
    except BaseException:
        keeper.terminate()
        keeper.wait()
        raise
    if not answer["ok"]:
        keeper.wait()
        raise LabError(f"a private Docker daemon could not be started: {answer['error']}")
    _KEEPERS[run] = keeper
    return {**settings, "pid": str(keeper.pid)}


_KEEPERS: dict[str, subprocess.Popen[bytes]] = {}


def _leave(private: Engine) -> None:
    """Let go of the private daemon, and wait for its end when nobody else needs it."""
    assert private.lifeline is not None
    lifeline, run = private.lifeline, private.run_directory
    last = False
    with contextlib.suppress(OSError):
        last = _say(lifeline, "leave") == "last"
    lifeline.close()
    if not last:
        return
    keeper = _KEEPERS.pop(run, None)
    deadline = time.monotonic() + 60
    while Path(run).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    if keeper is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(5)


@contextmanager
def _terminate_as_exception() -> Iterator[None]:
    """Turn SIGTERM into `SystemExit` inside the block, where signals may be handled."""

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
