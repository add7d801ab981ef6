"""The Docker daemon that carries the lab.

The machine's own, when one answers at DOCKER_HOST or the default socket; else a private one that
`keeper` starts and takes away again. The private daemon keeps its images in the cache, so a second
rehearsal finds them there. Both need root.
"""

import contextlib
import ipaddress
import json
import os
import secrets
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

LABEL = "homeport.lab"
OWNER = f"{LABEL}.owner"
CACHE = f"{LABEL}.cache"

# What the lab runs on the host, and the Debian package that has it.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}

# The lab's networks are cut from one of these /16. Docker's usual 172.16/12 and 192.168/16 are left
# out, and so are 10.213 (the pool of the node's own Docker) and 10.42 (its hotspot).
POOLS = tuple(f"10.{n}" for n in range(214, 250))
# A wider route, as a VPN sets it for everything, is no obstacle: the lab's are more specific.
NARROW = 9


def missing_packages() -> tuple[str, ...]:
    """The Debian packages that the lab needs on this machine and does not find."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if not shutil.which("docker", path=path) or (
        not shutil.which("dockerd", path=path) and not _answers({})
    ):
        missing.insert(0, "docker.io")
        if _debian_version() >= 13 and not shutil.which("docker", path=path):
            missing.insert(1, "docker-cli")  # from Debian 13 on, docker.io is the daemon alone
    return tuple(missing)


def _debian_version() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/etc/debian_version").read_text().split(".")[0])
    return 0


def _answers(environment: dict[str, str]) -> bool:
    """Whether a daemon answers the `docker` command with `environment`."""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env={**os.environ, **environment},
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


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
        for number in _shuffled():
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


class Network:
    """A lab's network: `name`, `subnet`, and addresses handed out one by one."""

    def __init__(
        self,
        *,
        name: str,
        subnet: ipaddress.IPv4Network,
        by_ipv6: ipaddress.IPv6Network | None = None,
    ) -> None:
        self.name = name
        self.subnet = subnet
        self.by_ipv6 = by_ipv6
        self._next = 10

    def address(self) -> str:
        """A free address on the network."""
        self._next += 1
        return str(self.subnet[self._next])

    def at(self, address: str) -> list[str]:
        """Docker's words for a container at `address`, and at one of IPv6 that stays the same: left
        to itself, Docker hands out another when the container starts again."""
        words = ["--network", self.name, "--ip", address]
        number = int(ipaddress.IPv4Address(address)) - int(self.subnet.network_address)
        return words + (["--ip6", str(self.by_ipv6[number])] if self.by_ipv6 else [])


def _shuffled() -> list[int]:
    """Third numbers of /24 networks to try; beginning anywhere, as other labs may be up."""
    start = secrets.randbelow(60)
    return [1 + (start + n) % 60 for n in range(60)]


def _remove(engine: Engine, selection: str) -> None:
    """Remove the containers that match `selection` and are the lab's, and their volumes."""
    filters = ("--filter", f"label={LABEL}", "--filter", selection)
    ids = engine.run("ps", "--all", "--quiet", *filters).stdout.decode().split()
    if ids:
        engine.run("rm", "--force", "--volumes", *ids)


def free_pool() -> str:
    """The first half of a /16 that no address of this machine and no narrow route touches."""
    done = subprocess.run(
        ["ip", "-json", "-4", "route", "show", "table", "all"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LabError(f"ip route: {done.stderr.strip()}: `sudo apt-get install iproute2`")
    taken: dict[ipaddress.IPv4Network, str] = {}
    for route in json.loads(done.stdout or "[]"):
        with contextlib.suppress(ValueError):
            net = ipaddress.IPv4Network(route["dst"], strict=False)
            if net.prefixlen >= NARROW:
                taken[net] = f"{net} on {route.get('dev', 'no interface')}"
    in_the_way: dict[ipaddress.IPv4Network, str] = {}
    for pool in POOLS:
        network = ipaddress.IPv4Network(f"{pool}.0.0/16")
        over = {net: words for net, words in taken.items() if net.overlaps(network)}
        if not over:
            return pool
        in_the_way |= over
    raise LabError(
        f"no free network for the lab, {POOLS[0]} to {POOLS[-1]} are routed: "
        f"{', '.join(in_the_way[net] for net in sorted(in_the_way)[:5])}"
    )


@contextmanager
def engine(progress: Progress = quiet) -> Iterator[Engine]:
    """A Docker daemon for the length of the block; see the module's docstring.

    SIGTERM becomes an exception inside the block, so that everything is put away on the way out.
    Raises `LabError` with the command to type when there can be no daemon.
    """
    require_root()
    _path_with_sbin()
    with _terminate_as_exception():
        if not shutil.which("docker"):
            raise LabError(f"there is no docker here: {install_command()}")
        if _answers({}):
            yield _adopt(progress)
            return
        private = _private(progress)
        try:
            yield private
        finally:
            _leave(private)


def require_root() -> None:
    """Raise `LabError` for any other user, member of the group docker or not.

    Debian's file systems are made in a mount namespace, and what containers leave is root's.
    """
    if os.geteuid():
        raise LabError("the lab works as root only: run this with sudo")


def install_command() -> str:
    """The command that installs what the lab needs here and does not find."""
    return f"`sudo apt-get install {' '.join(missing_packages() or ('docker.io',))}`"


def _path_with_sbin() -> None:
    """A user's PATH on Debian lacks the directories that ip, iptables and dockerd are in."""
    parts = os.environ.get("PATH", "").split(":")
    extra = [part for part in ("/usr/sbin", "/sbin") if part not in parts]
    os.environ["PATH"] = ":".join(parts + extra)


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
