"""Drift on a lab machine: the same plan as pyinfra's own, in one remote command, found in time."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from homeport.lab.desk import ROOT, converge, homeport, secrets
from homeport.lab.stage import Stage, stage
from homeport.leaks import find_leaks
from tests.drift.hook import TOKEN, Hook
from tests.lab.plans import assert_same_plan, drift

pytestmark = pytest.mark.container

# What somebody did to the node, the capability that must be named, and parts of what must be said
# to be wanted and to be there.
START = "/etc/homeport/stack/files/open-webui/start.sh"
DRIFTS = {
    "a mounted file's mode": (f"chmod 600 {START}", "stack", f"{START}: mode 644", "mode 600"),
    "a hosts entry removed": (
        "grep -v iona-api /etc/hosts >/tmp/hosts; cat /tmp/hosts >/etc/hosts",
        "host_names",
        "/etc/hosts, Homeport's block: 127.0.0.1 iona-api",
        "no such line",
    ),
    "the Caddyfile edited": (
        "echo '# mine' >>/etc/homeport/Caddyfile",
        "caddy",
        "/etc/homeport/Caddyfile: sha256 ",
        "sha256 ",
    ),
    "a key made world-readable": (
        "chmod 644 /etc/homeport/secrets/llama_server.api_key",
        "secrets",
        "secret llama_server.api_key: mode 600",
        "mode 644",
    ),
    "a model truncated": (
        "truncate -s 100 $(readlink -f /srv/homeport/models/model.gguf)",
        "hf_models",
        ".gguf: whole, as verified",
        "100 bytes instead of ",
    ),
    "a container stopped": (
        "docker stop -t 1 $(docker ps -qf name=open-webui)",
        "stack",
        "service open-webui: as the inventory says",
        " does not run (exited, exit status ",
    ),
    "a unit of ours deleted": (
        "rm /etc/systemd/system/homeport-docker-guard.service",
        "docker",
        "/etc/systemd/system/homeport-docker-guard.service: sha256 ",
        "no such file",
    ),
}


@pytest.fixture(scope="module")
def iona() -> Iterator[Stage]:
    with stage(Path("inventory/iona.py")) as on:
        made = homeport(on, "lock", str(on.inventory))
        assert made.returncode == 0, made.stderr
        yield on


def named(found: Any) -> set[str]:
    return {one["capability"] for host in found["hosts"] for one in host["drift"]}


def assert_told(found: Any, name: str) -> None:
    """The injected drift `name` is told by its capability: what is wanted, and what is there."""
    _, capability, wanted, there = DRIFTS[name]
    entries = [one for host in found["hosts"] for one in host["drift"]]
    told = [pair for one in entries if one["capability"] == capability for pair in one["differs"]]
    assert any(wanted in pair["wanted"] and there in pair["there"] for pair in told), (name, told)
    for one in entries:
        # "not so" is what is said of an operation of which nothing is known.
        assert one["differs"], one
        assert all(pair["wanted"] and pair["there"] != "not so" for pair in one["differs"]), one


def test_the_plan_is_the_same_on_a_half_converged_node(iona: Stage) -> None:
    with (iona.directory / "half.log").open("w+") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "converge", str(iona.inventory)],
            cwd=ROOT,
            env=iona.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        deadline = time.monotonic() + 120
        while "Programs aboard" not in Path(log.name).read_text():
            assert time.monotonic() < deadline
            assert run.poll() is None, Path(log.name).read_text()
            time.sleep(0.1)
        run.kill()
        run.wait()
    # What goes on in the background would change the plan between two looks at it.
    fetched = "! systemctl is-active --quiet homeport-fetch.service"
    iona.machine.wait_until(fetched, timeout=120, what="the images are still being fetched")
    waiting = assert_same_plan(iona)
    assert "Programs aboard | Install the programs aboard" in waiting
    assert "Base | Time zone and clock" not in waiting


def test_five_runs_find_a_drift_when_it_is_there(iona: Stage) -> None:
    converge(iona, quiet=True)
    assert assert_same_plan(iona) == []
    name = "a hosts entry removed"
    inject, capability, _, _ = DRIFTS[name]
    statuses = []
    for number in range(1, 6):
        if number == 3:
            iona.machine.succeed(inject)
        status, found, commands = drift(iona)
        statuses.append(status)
        assert commands == 1
        assert named(found) == (set() if number < 3 else {capability})
        if number >= 3:
            assert_told(found, name)
    assert statuses == [0, 0, 2, 2, 2]


def begin(on: Stage, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "homeport.cli", *words],
        cwd=ROOT,
        env=on.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def test_runs_that_go_on_at_once_are_each_right(iona: Stage) -> None:
    converge(iona, quiet=True)
    inject, capability, _, _ = DRIFTS["a hosts entry removed"]
    iona.machine.succeed(inject)
    where, files = str(iona.inventory), [iona.directory / f"drift-{n}.json" for n in range(3)]
    checks = [begin(iona, "drift", where, "--json", str(file)) for file in files]
    assert [run.wait(timeout=120) for run in checks] == [2, 2, 2]
    assert [named(json.loads(file.read_text())) for file in files] == [{capability}] * 3
    healing, looking = begin(iona, "converge", where), begin(iona, "drift", where)
    assert healing.wait(timeout=300) == 0
    assert looking.wait(timeout=120) in (0, 2)
    status, found, _ = drift(iona)
    assert (status, named(found)) == (0, set())


def test_a_watch_tells_of_a_drift_and_of_its_end(iona: Stage) -> None:
    converge(iona, quiet=True)
    iona.machine.succeed("cp /etc/hosts /root/hosts")
    hook = Hook()
    with (iona.directory / "watch.log").open("w+") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "homeport.cli", "drift", str(iona.inventory), "--every", "10s"],
            cwd=ROOT,
            env={
                **iona.environment,
                "HOMEPORT_TELL": hook.address,
                "XDG_STATE_HOME": str(iona.directory),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_for(lambda: "checking" in Path(log.name).read_text(), run)
            time.sleep(5)  # the first check finds nothing, and says nothing
            inject, capability, _, _ = DRIFTS["a hosts entry removed"]
            iona.machine.succeed(inject)
            wait_for(lambda: len(hook.got) == 1, run)
            iona.machine.succeed("cat /root/hosts >/etc/hosts; rm /root/hosts")
            wait_for(lambda: len(hook.got) == 2, run)
            time.sleep(12)  # one check more, which says nothing either
        finally:
            run.terminate()
            code = run.wait(timeout=20)
            hook.close()
        said = Path(log.name).read_text()
    assert code == 0, said
    assert hook.states() == ["drift", "clean"], said
    assert {one["capability"] for one in hook.got[0]["drift"]} == {capability}
    assert TOKEN not in said
    assert find_leaks(secrets(iona), {"messages": json.dumps(hook.got), "log": said}) == []


def wait_for(true: Callable[[], bool], run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.1)


def test_drifts_are_named_by_capability_and_the_plan_is_the_same(iona: Stage) -> None:
    for inject, _, _, _ in DRIFTS.values():
        iona.machine.succeed(inject)
    # Nobody can be the administrator of a web UI that does not run.
    expected = {capability for _, capability, _, _ in DRIFTS.values()} | {"open_webui"}
    status, found, _ = drift(iona, PYINFRA_YES="1")
    assert status == 2
    assert named(found) == expected
    for name in DRIFTS:
        assert_told(found, name)
    assert find_leaks(secrets(iona), {"drift --json": json.dumps(found)}) == []
    assert assert_same_plan(iona) != []


def test_the_record_is_private_and_holds_no_secret(iona: Stage) -> None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    records = list((cache / "homeport" / "facts").glob("*.json"))
    assert records
    assert {path.stat().st_mode & 0o777 for path in records} == {0o600}
    known = secrets(iona)
    assert len(known) >= 3
    assert find_leaks(known, {path.name: path.read_text() for path in records}) == []
