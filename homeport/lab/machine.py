"""A lab machine: one container with systemd that is to Homeport what a bare machine is.

It is reached by ssh at an address of its own, knows the names of the lab's sources, and has
simulated GPUs. Its Docker image store and its model directory start empty. What a container has
not (a kernel of its own, a boot loader, radios) is in `LACKS`.
"""

import contextlib
import io
import ipaddress
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.hazmat.primitives.serialization import PublicFormat as Public

from homeport.lab import LabError, cache, images, nvml
from homeport.lab.cache import Progress, quiet
from homeport.lab.driver import Driver
from homeport.lab.engine import Engine
from homeport.lab.gpus import gpu_table, simulated_gpus
from homeport.lab.keeper import remove_cgroups
from homeport.lab.network import Network

HARDWARE = Path(__file__).with_name("hardware")
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
GPU_NODES = 8  # simulated GPUs that containers can be given by their device nodes

LACKS = {
    "radio": "a container has no Wi-Fi radio",
    "boot_loader": "a container has no boot loader",
    "kernel": "a container has no kernel of its own",
    "iommu": "a container has no IOMMU groups",
    "nvidia_driver": "the GPUs are simulated: there is nothing that a driver could be loaded for",
    "cuda": "the GPUs are simulated, and the lab's llama-server is a build for the CPU",
}

# Enough for systemd and for Docker inside. Left out on purpose: SYS_TIME, SYS_MODULE, SYS_BOOT,
# SYS_RAWIO, MAC_ADMIN and SYSLOG, with which a machine could change its host.
CAPABILITIES = (
    "SYS_ADMIN",
    "NET_ADMIN",
    "NET_RAW",
    "SYS_PTRACE",
    "SYS_NICE",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "AUDIT_CONTROL",
    "AUDIT_WRITE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
)


def key_pair() -> tuple[bytes, str]:
    """A fresh ssh key: the private half as OpenSSH writes it, and the public line."""
    private = Ed25519PrivateKey.generate()
    text = private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    return text, private.public_key().public_bytes(Encoding.OpenSSH, Public.OpenSSH).decode()


def client_key(directory: Path) -> tuple[Path, str]:
    """A key for the lab's desk, made in `directory`: its path and its public line."""
    path = directory / "id_ed25519"
    private, public = key_pair()
    path.touch(mode=0o600)
    path.write_bytes(private)
    return path, public


def archive(files: dict[str, tuple[bytes, int]]) -> bytes:
    """A tar archive of root's `files`: path to contents and mode, with the directories."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, (data, mode) in files.items():
            entry = tarfile.TarInfo(path.lstrip("/"))
            entry.size, entry.mode, entry.mtime = len(data), mode, int(time.time())
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def resolvers() -> bytes:
    """A resolv.conf with the host's name servers, those that a guest can reach: by IPv4.

    Empty when there is none: then a container keeps the one that Docker gives it.
    """
    for path in RESOLV_CONF:
        with contextlib.suppress(OSError):
            lines = [line.split() for line in path.read_text().splitlines()]
            found = [words[1] for words in lines if words[:1] == ["nameserver"] and words[1:]]
            if reached := [one for one in found if _reached(one)]:
                return "".join(f"nameserver {one}\n" for one in reached).encode()
    return b""


def _reached(address: str) -> bool:
    """Whether a guest, which has no way out by IPv6, can reach a name server at `address`."""
    with contextlib.suppress(ValueError):
        found = ipaddress.IPv4Address(address)
        return not (found.is_loopback or found.is_unspecified)
    return False


class Machine(Driver):
    """One lab machine that is a container; made by `machine`."""

    lacks = LACKS

    def run(
        self, command: str, *, timeout: float = 300, stdin: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        words = ["exec"] + (["--interactive"] if stdin is not None else [])
        return self.engine.run(
            *words, self.container, "sh", "-c", command, stdin=stdin, timeout=timeout
        )

    def put(self, path: str, data: bytes, mode: int = 0o644) -> None:
        self.engine.docker("cp", "-", f"{self.container}:/", stdin=archive({path: (data, mode)}))

    def journal(self, lines: int = 40) -> str:
        done = self.run(f"journalctl --no-pager --quiet --lines={lines}", timeout=30)
        if done.returncode or not done.stdout:
            done = self.engine.run("logs", "--tail", str(lines), self.container)
        return (done.stdout + done.stderr).decode(errors="replace").strip()

    def reboot(self, *, timeout: float = 120) -> None:
        self.engine.docker("restart", "--time", "60", self.container)
        self.wait_for_boot(timeout=timeout)

    def power_cut(self) -> None:
        self.engine.docker("kill", self.container)

    def start(self, *, timeout: float = 120) -> None:
        self.engine.docker("start", self.container)
        self.wait_for_boot(timeout=timeout)


def firmware(
    name: str,
    names: dict[str, str],
    client: str,
    host: tuple[bytes, str],
    gpus: bytes,
    hook: bool = True,
) -> dict[str, tuple[bytes, int]]:
    """The files that a machine comes with: path to contents and mode.

    `names` are names to addresses for its /etc/hosts, `client` the public ssh key of the desk. With
    `hook`, somebody has put NVIDIA's hook for Docker there already.
    """
    hosts = f"127.0.0.1\tlocalhost\n127.0.1.1\t{name}\n::1\tlocalhost ip6-localhost ip6-loopback\n"
    hosts += "".join(f"{address}\t{alias}\n" for alias, address in names.items())
    files = {
        "/usr/lib/lab-machine/power-on": ((HARDWARE / "power-on").read_bytes(), 0o755),
        "/usr/lib/lab-machine/hosts": (hosts.encode(), 0o644),
        "/usr/lib/lab-machine/hostname": (f"{name}\n".encode(), 0o644),
        "/root/.ssh/authorized_keys": (f"{client}\n".encode(), 0o600),
        "/etc/ssh/ssh_host_ed25519_key": (host[0], 0o600),
        "/etc/ssh/ssh_host_ed25519_key.pub": (f"{host[1]}\n".encode(), 0o644),
    }
    if servers := resolvers():
        files["/usr/lib/lab-machine/resolv.conf"] = (servers, 0o644)
    if gpus:
        files["/usr/lib/simulated-gpu/gpus"] = (gpus, 0o644)
        for program in ("nvidia-smi", *(["nvidia-container-runtime-hook"] if hook else [])):
            files[f"/usr/bin/{program}"] = ((HARDWARE / program).read_bytes(), 0o755)
    return files


@contextmanager
def machine(
    engine: Engine,
    network: Network,
    name: str,
    *,
    ssh_key: Path,
    ssh_public: str,
    release: str = "trixie",
    names: dict[str, str] | None = None,
    gpus: tuple[str, ...] = (),
    hook: bool = True,
    progress: Progress = quiet,
) -> Iterator[Machine]:
    """A booted machine on `network` with Debian `release`, for the length of the block.

    `names` are the sources' names and their addresses, `gpus` the handles of its simulated GPUs,
    which Docker finds a `hook` for.
    Gone afterwards with its disk, unless the engine was told to keep the lab.
    """
    image = images.node_image(engine, release, progress)
    progress(f"starting the machine {name} (Debian {release})")
    container, address = f"{network.name}-{name}", network.address()
    host = key_pair()
    simulated = simulated_gpus(name, gpus)
    files = firmware(name, names or {}, ssh_public, host, gpu_table(simulated), hook)
    if simulated:
        files |= nvml.files(nvml.library(engine, progress))
    with packages(release, container, engine) as shared:
        try:
            _create(engine, network, image, container, name, address, shared)
            engine.docker("cp", "-", f"{container}:/", stdin=archive(files))
            engine.docker("start", container)
            made = Machine(
                engine=engine,
                name=name,
                container=container,
                address=address,
                host_key=host[1],
                ssh_key=ssh_key,
                gpus=simulated,
            )
            made.wait_for_boot()
            yield made
        finally:
            if not engine.keeping:
                engine.run("rm", "--force", "--volumes", container)
                remove_cgroups(f"homeport-lab-{container}")


def _create(
    engine: Engine,
    network: Network,
    image: str,
    container: str,
    name: str,
    address: str,
    shared: Path,
) -> None:
    words = ["create", "--name", container, "--hostname", name, *engine.labels]
    words += ["--network", network.name, "--ip", address, "--cgroupns=private"]
    words += ["--env", "container=docker", "--tmpfs", "/run:exec", "--tmpfs", "/tmp:exec"]
    words += ["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
    words += ["--stop-signal", "SIGRTMIN+3"]
    words += [word for one in CAPABILITIES for word in ("--cap-add", one)]
    # Nodes of simulated GPUs: see hardware/nvidia-ctk. There is no device behind such a number.
    for minor in (*range(200, 200 + GPU_NODES), 209):  # 209 is /dev/nvidia-uvm
        words += ["--device-cgroup-rule", f"c 1:{minor} rwm"]
    # A volume: overlayfs, which Docker inside wants for its images, does not stack on overlayfs.
    words += ["--volume", "/var/lib/docker"]
    words += ["--volume", f"{shared}:/var/cache/apt/archives"]
    power_on = "/usr/lib/lab-machine/power-on"
    engine.docker(*words, image, power_on, f"homeport-lab-{container}")


@contextmanager
def packages(release: str, container: str, engine: Engine) -> Iterator[Path]:
    """A directory for the machine's downloaded packages, which begins with all that others got.

    It spares the mirror, nothing else: apt checks every file in it against the index before use.
    Each machine has its own, so that their apts do not share a lock.
    """
    shared = cache.directory("apt", release)
    path = cache.directory("apt", "machines", container)
    for package in shared.glob("*.deb"):
        with contextlib.suppress(OSError):
            (path / package.name).hardlink_to(package)
    try:
        yield path
    finally:
        if not engine.keeping:
            for package in path.glob("*.deb"):
                with contextlib.suppress(OSError):
                    if not (shared / package.name).exists():
                        package.rename(shared / package.name)
            shutil.rmtree(path, ignore_errors=True)


class Neighbour:
    """Another host on the node's network; made by `neighbour`."""

    def __init__(self, engine: Engine, container: str, address: str) -> None:
        self.engine = engine
        self.container = container
        self.address = address

    def run(self, *words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
        """Run a command on it, whatever comes of it."""
        return self.engine.run("exec", "--interactive", self.container, *words, stdin=stdin)

    def python(self, program: str, *arguments: str) -> str:
        """What a Python program prints there. Raises `LabError` with its words when it fails."""
        done = self.run("python3", "-", *arguments, stdin=program.encode())
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise LabError(f"{self.container}: {said[-2000:]}")
        return done.stdout.decode().strip()

    def route(self, subnet: str, via: str) -> None:
        """Send what is for `subnet` ("10.213.0.0/24") to `via`, as an intruder would."""
        self.engine.docker("exec", self.container, "ip", "route", "replace", subnet, "via", via)


@contextmanager
def neighbour(
    engine: Engine, network: Network, name: str = "neighbour", progress: Progress = quiet
) -> Iterator[Neighbour]:
    """A plain host on `network`, with python3, for the length of the block."""
    image = images.node_image(engine, "trixie", progress)
    # Not with a hyphen, as the machines' are called: one of them may have this name.
    container, address = f"{network.name}_{name}", network.address()
    try:
        engine.docker(
            *("run", "--detach", "--init", "--name", container, "--hostname", name),
            *engine.labels,
            *("--network", network.name, "--ip", address, "--cap-add", "NET_ADMIN"),
            *(image, "sleep", "infinity"),
        )
        yield Neighbour(engine, container, address)
    finally:
        if not engine.keeping:
            engine.run("rm", "--force", "--volumes", container)
