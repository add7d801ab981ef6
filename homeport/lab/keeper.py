"""The program that keeps a private Docker daemon: it sets it up, waits, and takes it all away.

    python3 keeper.py '{"run": "/tmp/homeport-…", "data": "…", "subnet": "10.214"}'

It is a process of its own, in its own session, so that the host is put right even when the run
that started it is killed. Runs hold a connection to its socket `<run>/control`; when the last one
is gone it stops, unless one of them said "keep". SIGTERM stops it in any case. Anything that a run
says is answered with "last" or "shared": whether the daemon would end with its leaving.

The daemon lives in its own network, mount and process namespaces. Its bridges, mounts, packet
filter and processes therefore end with it. What the host itself gets is one veth interface with a
route, three iptables rules with our comment, `ip_forward` while it runs, and a cgroup per
hierarchy: each is taken back here, or by the next keeper when this one is killed: what was there
before is in `<data>.undo`. Needs root. Standard library only.
"""

import contextlib
import fcntl
import json
import os
import selectors
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

# In the daemon's namespaces. The directories that a daemon writes whatever it is told are covered,
# and it gets no iptables work: the host does the one masquerading.
START = """
for directory in /etc/docker /run/docker /run/containerd; do
    mount -t tmpfs -o mode=0700 homeport-lab "$directory" || exit 1
done
read -r go || exit 1
dockerd "$@" & daemon=$!
trap 'kill -TERM $daemon' TERM
while kill -0 $daemon 2>/dev/null; do wait $daemon; done
"""
COVERED = (Path("/etc/docker"), Path("/run/docker"), Path("/run/containerd"))
FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
BOOT = Path("/proc/sys/kernel/random/boot_id")


def command(*words: str, check: bool = True) -> str:
    """Run a command and return what it printed; `RuntimeError` with its words when it fails."""
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def cgroup_roots() -> list[Path]:
    """The mount points of the host's cgroup hierarchies, of both versions."""
    fields = [line.split() for line in Path("/proc/mounts").read_text().splitlines()]
    return [Path(f[1]) for f in fields if f[2] in ("cgroup", "cgroup2")]


def remove_cgroups(name: str, timeout: float = 5) -> list[Path]:
    """Remove the cgroup `name` of every hierarchy; returns those that are left after `timeout` s.

    The kernel lets go of a cgroup only some time after its last process has ended.
    """
    deadline = time.monotonic() + timeout
    while True:
        left = [root / name for root in cgroup_roots() if (root / name).is_dir()]
        for top in left:
            for path, _, _ in os.walk(top, topdown=False):
                with contextlib.suppress(OSError):
                    Path(path).rmdir()
        left = [path for path in left if path.is_dir()]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.05)


def sweep() -> None:
    """Take back what a keeper that was itself killed has left in the packet filter and cgroups.

    Its interface and route went with its network namespace.
    """
    for table in ("filter", "nat"):
        for line in command("iptables-save", "-t", table).splitlines():
            words = shlex.split(line)
            for word in words:
                owner = word.removeprefix("homeport-lab ")
                if owner != word and not Path("/proc", owner).exists():
                    command("iptables", "-w", "-t", table, "-D", *words[1:], check=False)
    for root in cgroup_roots():
        for path in root.glob("homeport-lab-*"):
            if not Path("/proc", path.name.removeprefix("homeport-lab-")).exists():
                remove_cgroups(path.name, timeout=0)


def take_back(forwarding: str | None, made: list[Path], run: Path) -> None:
    """Set the host's forwarding as it was, if it was set; remove `made`, if empty, and `run`."""
    if forwarding is not None:
        FORWARD.write_text(forwarding)
    for path in reversed(made):
        with contextlib.suppress(OSError):
            path.rmdir()
    shutil.rmtree(run, ignore_errors=True)


class Keeper:
    """One private daemon and what the host has because of it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.run = Path(settings["run"])
        self.data = Path(settings["data"])
        self.subnet = settings["subnet"]  # the first half of a /16: "10.214"
        self.interface = f"hplab{os.getpid() % 1000000}"
        self.cgroup = f"homeport-lab-{os.getpid()}"
        self.socket = self.run / "docker.sock"
        self.undo = Path(f"{self.data}.undo")
        self.made: list[Path] = []
        self.rules: list[tuple[str, ...]] = []
        self.forwarding: str | None = None
        self.lock: int | None = None
        self.shell: subprocess.Popen[bytes] | None = None
        self.stopping = False

    def start(self) -> None:
        """Set everything up; returns once the daemon answers."""
        # One daemon at a time on these images: an earlier one may still be on its way out.
        lock = os.open(f"{self.data}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        self.lock = lock
        self.replay()
        self.cover()
        log = (self.run / "dockerd.log").open("wb")
        self.shell = subprocess.Popen(
            # Should this process be killed, the daemon goes too; `sweep` takes back the rest.
            [
                *("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--net", "--pid"),
                *("--fork", "--kill-child", "--mount-proc", "--propagation", "slave"),
                *("sh", "-c", START, "dockerd", *self.daemon_arguments()),
            ],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        self.connect(self.init())
        assert self.shell.stdin is not None
        self.shell.stdin.write(b"go\n")
        self.shell.stdin.close()
        self.wait()

    def remember(self) -> None:
        """Write down what `stop` takes back, before it is done: who is killed cannot stop."""
        known = {
            "boot": BOOT.read_text(),
            "forwarding": self.forwarding,
            "made": [str(path) for path in self.made],
            "run": str(self.run),
        }
        new = self.undo.with_suffix(".new")
        new.write_text(json.dumps(known))
        new.replace(self.undo)

    def replay(self) -> None:
        """Take back what a keeper that was killed wrote down. Holds the lock: none is alive."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            known = json.loads(self.undo.read_text())
            # Since a reboot the setting is the host's own again.
            forwarding = known["forwarding"] if known["boot"] == BOOT.read_text() else None
            take_back(forwarding, [Path(path) for path in known["made"]], Path(known["run"]))
        self.undo.unlink(missing_ok=True)

    def cover(self) -> None:
        """Make the directories that the daemon's own are mounted over."""
        self.made = [path for path in COVERED if not path.exists()]
        self.remember()
        for path in self.made:
            path.mkdir(parents=True)

    def forward(self) -> None:
        """Have the host forward packets."""
        if FORWARD.read_text().strip() == "0":
            self.forwarding = "0"
            self.remember()
            FORWARD.write_text("1")

    def daemon_arguments(self) -> list[str]:
        return [
            f"--data-root={self.data}",
            f"--exec-root={self.run}/exec",
            f"--pidfile={self.run}/dockerd.pid",
            f"--host=unix://{self.socket}",
            f"--config-file={self.run}/daemon.json",
            f"--bip={self.subnet}.0.1/24",
            f"--default-address-pool=base={self.subnet}.64.0/18,size=24",
            "--iptables=false",
            "--ip6tables=false",
            f"--cgroup-parent=/{self.cgroup}",
            "--exec-opt=native.cgroupdriver=cgroupfs",
            "--log-level=warn",
        ]

    def init(self) -> int:
        """The process id, here, of the first process in the daemon's namespaces."""
        assert self.shell is not None
        (self.run / "daemon.json").write_text("{}\n")
        parent = self.shell.pid
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and self.shell.poll() is None:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "sh":
                return int(children[0])
            time.sleep(0.02)
        raise RuntimeError(f"the daemon's namespaces did not come up: {self.log_tail()}")

    def connect(self, init: int) -> None:
        """Give the daemon's network namespace a way to the host, and through it to the rest."""
        here, there = f"{self.subnet}.255.253", f"{self.subnet}.255.254"
        peer = ("peer", "name", "uplink", "netns", str(init))
        command("ip", "link", "add", self.interface, "type", "veth", *peer)
        command("ip", "address", "add", f"{here}/30", "dev", self.interface)
        command("ip", "link", "set", self.interface, "up")
        inside = ("nsenter", "--target", str(init), "--net", "ip")
        command(*inside, "link", "set", "lo", "up")
        command(*inside, "address", "add", f"{there}/30", "dev", "uplink")
        command(*inside, "link", "set", "uplink", "up")
        command(*inside, "route", "add", "default", "via", here)
        command("ip", "route", "add", f"{self.subnet}.0.0/16", "via", there)
        self.forward()
        ours = ("-m", "comment", "--comment", f"homeport-lab {os.getpid()}")
        network, masquerade = f"{self.subnet}.0.0/16", ("-j", "MASQUERADE")
        for rule in (
            ("filter", "FORWARD", "-i", self.interface, *ours, "-j", "ACCEPT"),
            ("filter", "FORWARD", "-o", self.interface, *ours, "-j", "ACCEPT"),
            ("nat", "POSTROUTING", "-s", network, "!", "-o", self.interface, *ours, *masquerade),
        ):
            command("iptables", "-w", "-t", rule[0], "-I", *rule[1:])
            self.rules.append(rule)

    def wait(self) -> None:
        assert self.shell is not None
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not self.stopping:
            if self.shell.poll() is not None:
                raise RuntimeError(f"the private Docker daemon ended: {self.log_tail()}")
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.socket))
                probe.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
                if b"OK" in probe.recv(4096):
                    return
            time.sleep(0.05)
        raise RuntimeError(f"the private Docker daemon does not answer: {self.log_tail()}")

    def log_tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self.run / "dockerd.log").read_text(errors="replace").strip().splitlines()
            return " | ".join(lines[-5:])
        return ""

    def serve(self, listener: socket.socket) -> None:
        """Wait until nobody needs the daemon any more, or it ends, or we are told to stop."""
        assert self.shell is not None
        selector = selectors.DefaultSelector()
        selector.register(listener, selectors.EVENT_READ)
        clients: set[socket.socket] = set()
        keep, grace = False, time.monotonic() + 30
        while not self.stopping and self.shell.poll() is None:
            for event, _ in selector.select(timeout=0.5):
                if event.fileobj is listener:
                    client, _ = listener.accept()
                    clients.add(client)
                    selector.register(client, selectors.EVENT_READ)
                    grace = 0
                    continue
                client = event.fileobj  # type: ignore[assignment]
                said = client.recv(64)
                if not said:
                    selector.unregister(client)
                    clients.discard(client)
                    client.close()
                    continue
                if b"keep" in said or b"release" in said:
                    keep = b"keep" in said
                # Whoever leaves is told whether the daemon ends with that.
                client.sendall(b"shared\n" if keep or len(clients) > 1 else b"last\n")
            if not clients and not keep and time.monotonic() > grace:
                return

    def stop(self) -> None:
        """Take back everything, in any state that `start` has reached."""
        if self.shell is not None and self.shell.poll() is None:
            self.stop_daemon()
        command("ip", "link", "delete", self.interface, check=False)
        for rule in reversed(self.rules):
            command("iptables", "-w", "-t", rule[0], "-D", *rule[1:], check=False)
        remove_cgroups(self.cgroup)
        take_back(self.forwarding, self.made, self.run)
        if self.lock is not None:
            self.undo.unlink(missing_ok=True)

    def stop_daemon(self) -> None:
        assert self.shell is not None
        docker = ("docker", "--host", f"unix://{self.socket}")
        # Everything in this daemon is the lab's. Killing it is quicker than a polite shutdown.
        with contextlib.suppress(RuntimeError, OSError):
            containers = command(*docker, "ps", "--all", "--quiet").split()
            if containers:
                command(*docker, "rm", "--force", "--volumes", *containers, check=False)
            command(*docker, "network", "prune", "--force", check=False)
        with contextlib.suppress(OSError, RuntimeError):
            os.kill(self.init(), signal.SIGTERM)
        try:
            self.shell.wait(30)
        except subprocess.TimeoutExpired:
            self.shell.kill()  # and with it, by --kill-child, all that is in the namespaces
            self.shell.wait()

    def ask_to_stop(self, *_: object) -> None:
        self.stopping = True


def main() -> int:
    keeper = Keeper(json.loads(sys.argv[1]))
    signal.signal(signal.SIGTERM, keeper.ask_to_stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(keeper.run / "control"))
        listener.listen()
        sweep()
        keeper.start()
        print(json.dumps({"ok": True}), flush=True)
        keeper.serve(listener)
    except (RuntimeError, OSError) as error:
        print(json.dumps({"ok": False, "error": str(error)}), flush=True)
        return 1
    finally:
        keeper.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
