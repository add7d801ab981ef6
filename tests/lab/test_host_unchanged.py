"""A lab leaves its host as it was: after its end, and after it was killed."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from homeport.lab import cache
from homeport.lab.engine import engine
from homeport.lab.host_state import HostState, changes, snapshot
from homeport.lab.machine import client_key, machine
from homeport.lab.sources import sources

REPOSITORY = Path(__file__).parents[2]

# Who is started in the background by a shell ignores SIGINT, and so do all that it starts.
RUN = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from homeport.lab import cache
from homeport.lab.engine import engine
from homeport.lab.machine import client_key, machine
key, public = client_key(pathlib.Path(sys.argv[1]))
with engine() as found, found.network(f"homeport-short-{os.getpid()}") as network:
    with machine(found, network, "short", ssh_key=key, ssh_public=public):
        print("up", flush=True)
        time.sleep(600)
"""


@pytest.fixture(scope="module")
def own_daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache of this module's own, and so a private daemon that no other test holds on to.

    What images are made from is shared: it takes longest.
    """
    place = tmp_path_factory.mktemp("cache")
    (place / "homeport").mkdir()
    (place / "homeport" / "images").symlink_to(cache.directory("images"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(place))
        with engine():  # takes back what keepers that were killed before these tests have left
            pass
        yield
    shutil.rmtree(place, ignore_errors=True)


def settled(before: HostState, timeout: float = 20) -> list[str]:
    """What differs from `before`, once it is nothing or `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while (found := changes(before, snapshot())) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


@pytest.mark.container
@pytest.mark.usefixtures("own_daemon")
def test_after_a_lab_the_host_is_as_it_was(tmp_path: Path) -> None:
    before = snapshot()
    key, public = client_key(tmp_path)
    with (
        engine() as found,
        found.network(f"homeport-short-{os.getpid()}") as network,
        sources(found, network, wheels=tmp_path),
        machine(found, network, "short", ssh_key=key, ssh_public=public) as node,
    ):
        node.succeed("systemd-run --quiet sleep 3600")
        seen = {line.split(":")[0] for line in changes(before, snapshot(found.environment))}
        assert {"containers", "routes", "interfaces", "processes"} <= seen
    assert settled(before) == []


@pytest.mark.container
@pytest.mark.usefixtures("own_daemon")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_after_a_signal_the_host_is_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    before = snapshot()
    with subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path)], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"up\n"
        assert changes(before, snapshot())
        run.send_signal(number)
        run.wait(60)
    with engine():  # what a killed run left in the machine's own daemon, the next run removes
        pass
    assert settled(before) == []


@contextmanager
def a_socket() -> Iterator[None]:
    with socket.socket() as planted:
        planted.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        planted.bind(("127.0.0.1", 20777))
        planted.listen()
        yield


@contextmanager
def a_process() -> Iterator[None]:
    name = f"{tempfile.gettempdir()}/homeport-planted"
    with subprocess.Popen([name, "60"], executable="/bin/sleep") as planted:
        yield
        planted.kill()


@contextmanager
def commands(make: list[str], undo: list[str]) -> Iterator[None]:
    subprocess.run(make, check=True)
    try:
        yield
    finally:
        subprocess.run(undo, check=True)


def a_link() -> AbstractContextManager[None]:
    link = ["ip", "link"]
    return commands([*link, "add", "hplab-plant", "type", "veth"], [*link, "delete", "hplab-plant"])


def a_rule() -> AbstractContextManager[None]:
    rule = ["OUTPUT", "-d", "192.0.2.77", "-j", "ACCEPT"]
    return commands(["iptables", "-w", "-A", *rule], ["iptables", "-w", "-D", *rule])


def a_mount() -> AbstractContextManager[None]:
    return commands(["mount", "-t", "tmpfs", "planted", "/mnt"], ["umount", "/mnt"])


@contextmanager
def a_sysctl() -> Iterator[None]:
    path = Path("/proc/sys/vm/swappiness")
    old = path.read_text()
    path.write_text(f"{int(old) + 1}\n")
    try:
        yield
    finally:
        path.write_text(old)


@contextmanager
def a_cgroup() -> Iterator[None]:
    roots = Path("/sys/fs/cgroup")
    place = (roots / "unified" if (roots / "unified").is_dir() else roots) / "homeport-lab-planted"
    place.mkdir()
    try:
        yield
    finally:
        place.rmdir()


@contextmanager
def a_directory() -> Iterator[None]:
    place = Path("/tmp/homeport-planted")
    place.mkdir()
    try:
        yield
    finally:
        place.rmdir()


@pytest.mark.container
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can plant these")
@pytest.mark.parametrize(
    ("subject", "plant"),
    [
        ("listening", a_socket),
        ("processes", a_process),
        ("interfaces", a_link),
        ("rules", a_rule),
        ("mounts", a_mount),
        ("sysctls", a_sysctl),
        ("cgroups", a_cgroup),
        ("directories", a_directory),
    ],
)
def test_what_is_planted_is_seen(
    subject: str, plant: Callable[[], AbstractContextManager[None]]
) -> None:
    before = snapshot()
    with plant():
        found = changes(before, snapshot())
    assert any(line.startswith(f"{subject}: new") for line in found), found


def test_changes_of_every_kind_are_named() -> None:
    before = HostState(facts={"modules": frozenset({"a"}), "mounts": frozenset()}, clock=100.0)
    assert changes(before, before) == []
    after = replace(before, facts={"modules": frozenset(), "mounts": frozenset({"/x tmpfs"})})
    assert changes(before, after) == ["modules: gone: a", "mounts: new: /x tmpfs"]
    assert changes(before, replace(before, clock=160.0)) == ["clock: moved by +60.0 s"]
    assert changes(before, replace(before, clock=100.2)) == []
