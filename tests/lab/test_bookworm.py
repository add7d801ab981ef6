"""Iona on Debian 12, as a user with sudo, by pyinfra's own command line.

Docker 20.10 and Compose 1 this time; uploads go through sudo, and one secret is given at the desk.
"""

import json
import secrets as randomness
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.lab.desk import containers, homeport, pending, pyinfra, secrets
from homeport.lab.stage import Stage, stage
from homeport.leaks import find_leaks

pytestmark = pytest.mark.container

USER = "olga"
GIVEN = randomness.token_urlsafe(32)


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Iona's inventory, with the API key from the desk's environment."""
    text = Path("inventory/iona.py").read_text()
    given = '    name="iona",\n    secrets_given={"llama_server.api_key": from_env("IONA_KEY")},\n'
    text = text.replace('    name="iona",\n', given, 1)
    text = text.replace(
        "from deploys.base import", "from deploys.secrets import from_env\nfrom deploys.base import"
    )
    path = tmp_path_factory.mktemp("x") / "inventory" / "iona.py"
    path.parent.mkdir()
    path.write_text(text)
    return path


@pytest.fixture(scope="module")
def bookworm(inventory: Path) -> Iterator[Stage]:
    with stage(inventory, release="bookworm") as on, pytest.MonkeyPatch.context() as patch:
        patch.setenv("IONA_KEY", GIVEN)
        on.machine.succeed(
            f"useradd --create-home --shell /bin/sh {USER}\n"
            f"echo '{USER} ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/{USER}\n"
            f"cp -r /root/.ssh /home/{USER}/ && chown -R {USER}: /home/{USER}/.ssh"
        )
        on.targets.write_text(on.targets.read_text().replace('user = "root"', f'user = "{USER}"'))
        made = homeport(on, "lock", str(on.inventory))
        assert made.returncode == 0, made.stderr
        yield on


def test_pyinfra_alone_builds_it_and_prints_no_secret(bookworm: Stage) -> None:
    """The first run is the one in which secrets are made and everything is uploaded."""
    done = pyinfra(bookworm, "-y", "-vvv", "--diff")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-4000:]
    known = secrets(bookworm)
    assert known["llama_server.api_key"] == GIVEN
    assert len(known) >= 3
    assert find_leaks(known, {"pyinfra -y -vvv --diff": said}) == []
    planted = f"{said} --api-key {known['llama_server.api_key']}"
    assert find_leaks(known, {"a planted leak": planted}) != []


def test_nothing_is_left_of_the_uploads(bookworm: Stage) -> None:
    left = bookworm.machine.succeed("ls -d /tmp/homeport-* /tmp/pyinfra-* 2>/dev/null || true")
    assert left == ""


def test_it_is_verified(bookworm: Stage) -> None:
    to = bookworm.directory / "verify.json"
    done = homeport(bookworm, "verify", str(bookworm.inventory), "--json", str(to))
    assert done.returncode == 0, done.stderr
    assert json.loads(to.read_text())["ok"]


def test_gpus_come_from_nvidias_runtime_and_stay(bookworm: Stage) -> None:
    """Docker 20.10 has no CDI; its runc knows a device only by its link in /dev/char."""
    label = "label=com.docker.compose.service=llama-server"
    engine = bookworm.machine.succeed(f"docker ps -q --filter {label}")
    inspect = f"docker inspect -f '{{{{.HostConfig.Runtime}}}}' {engine}"
    assert bookworm.machine.succeed(inspect) == "nvidia"
    bookworm.machine.succeed("systemctl daemon-reload")
    listed = bookworm.machine.succeed(f"docker exec {engine} nvidia-smi -L")
    assert all(gpu.uuid in listed for gpu in bookworm.machine.gpus)
    # Where the links are not, a container loses its GPUs: so the check of them can fail.
    bookworm.machine.succeed("rm /dev/char/1:20*")
    bookworm.machine.succeed(f"docker restart {engine} && systemctl daemon-reload")
    assert "Failed to initialize NVML" in bookworm.machine.fail(
        f"docker exec {engine} nvidia-smi -L"
    )
    assert "GPUs for containers | GPUs described" in pending(bookworm)
    bookworm.machine.succeed(f"systemctl restart homeport-nvidia-cdi && docker restart {engine}")
    health = f"docker inspect -f '{{{{.State.Health.Status}}}}' {engine}"
    bookworm.machine.wait_until(f"{health} | grep -qx healthy", timeout=120)


def test_a_second_run_changes_nothing(bookworm: Stage) -> None:
    before = containers(bookworm)
    assert pending(bookworm) == []
    done = pyinfra(bookworm, "-y", "--json")
    assert done.returncode == 0, done.stderr
    assert containers(bookworm) == before


def test_the_verbs_of_every_day(bookworm: Stage) -> None:
    """Status, logs, stop and start, as a person types them."""
    inventory = str(bookworm.inventory)
    assert homeport(bookworm, "status", inventory).returncode == 0
    logs = homeport(bookworm, "logs", inventory, "llama-server", "--lines", "20")
    assert logs.returncode == 0
    assert len(logs.stdout.splitlines()) >= 5
    assert homeport(bookworm, "stop", inventory).returncode == 0
    assert homeport(bookworm, "status", inventory).returncode == 2
    assert homeport(bookworm, "start", inventory).returncode == 0
    assert homeport(bookworm, "status", inventory).returncode == 0


def test_probe_reads_the_machine(bookworm: Stage) -> None:
    """What `probe` prints is a targets file for this very machine."""
    machine = bookworm.machine
    words = ["probe", machine.address, "--user", USER, "--key", str(machine.ssh_key)]
    done = homeport(bookworm, *words, "--inventory", str(bookworm.inventory))
    assert done.returncode == 0, done.stderr
    for expected in (machine.host_key, USER, *(gpu.uuid for gpu in machine.gpus)):
        assert expected in done.stdout
    path = bookworm.directory / "probed.targets.toml"
    path.write_text(done.stdout)
    again = homeport(bookworm, "--targets", str(path), "status", str(bookworm.inventory))
    assert again.returncode == 0, again.stderr
