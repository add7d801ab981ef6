"""Iona under bad circumstances: the cause in the node's words, exit status 1, nothing lost.

Each test provokes one, converges, and reads what is said; what served before still serves. When
the cause is gone, one converge heals. The machine is the one of `test_iona`.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.lab.iona import MODEL, MODELS, Iona

pytestmark = pytest.mark.container

LISTEN = "import socket, time; s = socket.create_server(('127.0.0.1', %d)); time.sleep(300)"
# dpkg's own lock, as a long upgrade holds it.
HOLD = (
    "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); "
    "fcntl.lockf(f, fcntl.LOCK_EX); time.sleep(300)"
)


@contextmanager
def running(iona: Iona, name: str, program: str) -> Iterator[int]:
    """A Python program on the machine, of somebody else's: its process id."""
    text = program.replace("'", '"')
    iona.machine.succeed(f"systemd-run --unit={name} python3 -c '{text}' && sleep 1")
    try:
        yield int(iona.machine.succeed(f"systemctl show -P MainPID {name}"))
    finally:
        iona.machine.succeed(f"systemctl stop {name}")


def test_a_disk_too_small_is_refused_before_the_first_byte(iona: Iona) -> None:
    iona.hub.forget()
    links = iona.links()
    iona.machine.succeed(f"mount -t tmpfs -o size=32m,mode=755 tmpfs {MODELS}")
    try:
        said = iona.refused()
    finally:
        iona.machine.succeed(f"umount {MODELS}")
    assert "the disk is too small: 69" in said
    assert "bytes are free" in said or "bytes (32 MiB) are free" in said
    assert iona.hub.sent() == 0
    assert iona.answers() == 200
    assert iona.links() == links


def test_a_download_that_breaks_off_is_resumed(iona: Iona, tmp_path: Path) -> None:
    """The new commit's model arrives in two runs; the old one serves until the new one is whole."""
    links, old = iona.links(), iona.container("llama-server")["Id"]
    commit = iona.publish(tmp_path)
    iona.hub.forget()
    half = 30 << 20
    gone = {"*Q4_0.gguf": {"break_after": half, "times": 1}, "*Q4_0*": {"status": 503}}
    iona.hub.faults(gone)
    said = iona.refused()
    assert "answers 503" in said
    assert "what was fetched so far is kept" in said
    assert iona.links() == links
    assert iona.answers() == 200
    assert iona.hub.ranges() == [[0, half]]
    iona.hub.faults({})
    iona.heal()
    size = (tmp_path / MODEL).stat().st_size
    (_, (second, _)) = iona.hub.ranges()
    # What the connection swallowed when it broke is all that may come twice.
    assert half - (1 << 20) <= second <= half
    assert size <= iona.hub.sent() <= size + (1 << 20)
    assert iona.links().count(commit) == 2
    now = iona.container("llama-server")
    assert now["Id"] != old
    assert now["Config"]["Labels"]["homeport.model.commit"] == commit
    assert iona.machine.succeed(f"ls -d {MODELS}/gemma4-26b/*/").split() == [
        f"{MODELS}/gemma4-26b/{commit}/"
    ]


def test_a_hash_that_does_not_match_leaves_the_old_model_serving(
    iona: Iona, tmp_path: Path
) -> None:
    links = iona.links()
    commit = iona.publish(tmp_path)
    iona.hub.faults({"*Q4_0.gguf": {"corrupt": True}})
    said = iona.refused()
    assert "the download is wrong and was removed: wanted" in said
    assert "the links stay as they were" in said
    assert iona.links() == links
    assert iona.answers() == 200
    iona.machine.fail(f"ls {MODELS}/gemma4-26b/{commit}/{MODEL}")
    iona.hub.faults({})
    iona.heal()
    assert iona.links().count(commit) == 2


def refused_without(iona: Iona, source: str) -> str:
    """What a converge says while `source` ("hub", "registry") is away."""
    iona.stage.sources.stop(source)
    try:
        return iona.refused()
    finally:
        iona.stage.sources.start(source)


def test_a_hub_that_is_away_is_named(iona: Iona) -> None:
    link = iona.machine.succeed(f"readlink -f {MODELS}/mmproj.gguf")
    iona.machine.succeed(f"rm {link}")
    said = refused_without(iona, "hub")
    assert f"the Hub at {iona.stage.sources.hub} does not answer" in said
    assert iona.answers() == 200
    iona.heal()


def test_a_registry_that_is_away_is_named(iona: Iona) -> None:
    image = iona.container("llama-server")["Config"]["Image"]
    iona.machine.succeed(f"docker image rm --force {image}")
    said = refused_without(iona, "registry")
    assert f"the image {image} cannot be pulled from {image.split('/')[0]}. Docker says:" in said
    assert "connection refused" in said
    assert "No service was touched" in said
    assert iona.answers() == 200
    iona.heal()
    iona.machine.succeed(f"docker image inspect {image}")


def test_a_configuration_that_caddy_refuses_is_not_put_in_place(iona: Iona, tmp_path: Path) -> None:
    """Valid at the desk, and not on this node: the CA's key is damaged. Caddy runs without it."""
    last = 'Site(name="iona-api.local.arpeggio.one", to="llama_server"),'
    more = f'{last} Site(name="chat.example", to="open_webui"),'
    more = iona.stage.inventory.read_text().replace(last, more)
    assert "chat.example" in more
    other = iona.with_inventory(tmp_path / "iona.py", more)
    key = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.key"
    file = iona.machine.succeed("sha256sum /etc/homeport/Caddyfile")
    iona.machine.succeed(f"cp -a {key} /tmp/root.key && echo damaged > {key}")
    try:
        said = other.refused()
    finally:
        iona.machine.succeed(f"cp -a /tmp/root.key {key} && rm /tmp/root.key")
    assert "Put the validated Caddyfile in place" in said
    assert "the old one keeps serving" in said
    assert "root.key" in said or "root key" in said or "PEM" in said
    assert iona.machine.succeed("sha256sum /etc/homeport/Caddyfile") == file
    assert iona.answers() == 200
    other.converge()
    assert "chat.example" in iona.machine.succeed("cat /etc/homeport/Caddyfile")
    iona.heal()
    assert "chat.example" not in iona.machine.succeed("cat /etc/homeport/Caddyfile /etc/hosts")


def test_a_port_that_somebody_holds_is_named(iona: Iona) -> None:
    iona.machine.succeed("docker rm -f iona-llama-server-1")
    with running(iona, "squatter", LISTEN % 8080) as pid:
        said = iona.refused()
    assert f"port 8080, wanted by llama_server, is taken by python3 (pid {pid})" in said
    iona.heal()


def test_a_web_port_that_somebody_holds_is_named(iona: Iona) -> None:
    iona.machine.succeed("systemctl stop caddy")
    with running(iona, "squatter", LISTEN % 443) as pid:
        said = iona.refused()
    assert f"port 443 is taken by python3 (pid {pid}, squatter.service)" in said
    assert "systemctl disable --now squatter.service" in said
    iona.heal()


def test_an_apt_that_is_in_use_is_named(iona: Iona, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEPORT_APT_WAIT", "3")
    iona.machine.succeed("dpkg --remove --force-depends curl")
    with running(iona, "upgrade", HOLD) as pid:
        said = iona.refused()
    assert "/var/lib/dpkg/lock-frontend" in said
    assert f"python3 (pid {pid}) was using apt for more than 3 s, and nothing was changed" in said
    assert iona.answers() == 200
    iona.heal()
    iona.machine.succeed("curl --version")


def test_a_gpu_that_is_missing_is_refused_and_nothing_serves_instead(iona: Iona) -> None:
    gone = next(gpu for gpu in iona.machine.gpus if gpu.handle == "right")
    iona.machine.succeed("docker rm -f iona-llama-server-1")
    iona.machine.unplug("right")
    try:
        said = iona.refused()
        assert iona.running() == {"open-webui"}
    finally:
        iona.machine.plug_all()
    assert f"this node does not list right ({gone.uuid})" in said
    iona.heal()
    reserved = iona.container("llama-server")["HostConfig"]["DeviceRequests"]
    assert json.dumps(reserved).count("GPU-") == 2


def test_gpus_that_cuda_does_not_find_are_refused(iona: Iona) -> None:
    """The lab's target says that it lacks CUDA. A real one does not, and must not use its CPU."""
    text = iona.stage.targets.read_text()
    lacking = tomllib.loads(text)["hosts"]["iona"]["lacks"]["cuda"]
    targets = iona.stage.directory / "with-cuda.toml"
    targets.write_text(text.replace(f', "cuda" = {json.dumps(lacking)}', ""))
    real = Iona(stage=dataclasses.replace(iona.stage, targets=targets), hub=iona.hub)
    assert "cuda" not in tomllib.loads(targets.read_text())["hosts"]["iona"]["lacks"]
    iona.machine.succeed("docker rm -f iona-llama-server-1")
    said = real.refused()
    assert iona.running() == {"open-webui"}
    assert "llama_server would compute on the CPU" in said
    assert "0 of 2 found by " in said
    assert "NVIDIA's driver is 550.163.01" in said
    iona.heal()


def test_a_volume_that_somebody_else_made_is_not_taken(iona: Iona, tmp_path: Path) -> None:
    ours = 'volume="open-webui"'
    text = iona.stage.inventory.read_text()
    assert ours in text
    other = iona.with_inventory(tmp_path / "iona.py", text.replace(ours, 'volume="theirs"'))
    iona.machine.succeed("docker volume create theirs")
    said = other.refused()
    iona.machine.succeed("docker volume rm theirs")  # which needs that nobody uses it
    assert "there is a volume theirs that Homeport did not make" in said
    assert "open_webui.adopt=True" in said


def test_a_compose_project_of_the_same_name_is_not_touched(iona: Iona) -> None:
    label = "--label com.docker.compose.project"
    labels = f"{label}=iona {label}.working_dir=/home/kim/iona"
    image = iona.container("llama-server")["Config"]["Image"]
    iona.machine.succeed(f"docker run -d --name theirs {labels} --entrypoint sleep {image} 300")
    said = iona.refused()
    iona.machine.succeed("docker rm -f theirs")
    assert "the container theirs belongs to another Compose project that is called iona" in said
    assert "made in /home/kim/iona" in said
