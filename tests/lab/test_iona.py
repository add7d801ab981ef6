"""Iona, whole: built, verified, used, broken and healed, stopped and booted, taken away again.

One machine serves all tests of this file and of `test_circumstances`; each leaves it converged.
"""

import base64
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from homeport.lab import desk
from homeport.leaks import find_leaks
from tests.lab.breaks import READY, Break, rounds
from tests.lab.breaks import SERVICES as SERVICES_OPERATION
from tests.lab.iona import KEY, Iona

pytestmark = pytest.mark.container

SERVICES = {"llama-server", "open-webui"}
ADMIN = "/api/v1/auths/admin/config"
FORGER = Path(__file__).parents[1] / "docker" / "neighbour.py"

NOTHING = """
from deploys.node import Node
from homeport.inventory import inventory

hosts = inventory(__file__, iona=Node(name="iona"))
"""


def verified(iona: Iona) -> dict[str, Any]:
    """What `bin/homeport verify --json` wrote; every check passed."""
    to = iona.stage.directory / "verified.json"
    words = ("verify", str(iona.stage.inventory), "--json", str(to))
    done = desk.homeport(iona.stage, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(to.read_text())
    to.unlink()
    return found


def test_a_bare_machine_becomes_iona(iona: Iona) -> None:
    assert iona.first["changed"] > 10
    assert any(check["outcome"] == "passed" for check in verified(iona)["checks"])


def test_a_second_converge_changes_nothing(iona: Iona) -> None:
    containers, owned = iona.containers(), iona.owned()
    assert iona.converge()["changed"] == 0
    assert iona.pending() == []
    assert iona.containers() == containers
    assert iona.owned() == owned


def test_a_session_and_a_setting_survive_the_container(iona: Iona) -> None:
    token = iona.sign_in()
    settings = iona.get(token, ADMIN)
    ours = not settings["ENABLE_MESSAGE_RATING"]
    sendable = {k: v for k, v in settings.items() if v is not None and "MFA" not in k}
    iona.post(token, ADMIN, {**sendable, "ENABLE_MESSAGE_RATING": ours})
    iona.machine.succeed("docker rm -f iona-open-webui-1")
    iona.heal()
    assert iona.get(token, ADMIN)["ENABLE_MESSAGE_RATING"] is ours
    assert iona.models(token) == ["gemma-4-26b-a4b"]


def test_a_provider_changed_by_hand_is_put_right_and_no_more(iona: Iona) -> None:
    token = iona.sign_in()
    theirs = "https://elsewhere.example/v1"
    wrong = {
        "ENABLE_OPENAI_API": True,
        "OPENAI_API_BASE_URLS": [theirs],
        "OPENAI_API_KEYS": ["a-key-of-theirs"],
        "OPENAI_API_CONFIGS": {"0": {"enable": False}},
    }
    before = iona.get(token, "/openai/config")
    banner = {"id": "b", "type": "info", "content": "hello", "dismissible": True, "timestamp": 1}
    iona.post(token, "/openai/config/update", wrong)
    iona.post(token, "/api/v1/configs/banners", {"banners": [banner]})
    assert iona.models(token) == []
    assert iona.pending() == ["Open WebUI | Put the provider and sign-up right"]
    containers = iona.containers()
    iona.heal()
    assert iona.containers() == containers
    assert iona.models(token) == ["gemma-4-26b-a4b"]
    now = iona.get(token, "/openai/config")
    assert now["OPENAI_API_BASE_URLS"] == [*before["OPENAI_API_BASE_URLS"], theirs]
    assert now["OPENAI_API_KEYS"][1] == "a-key-of-theirs"
    assert iona.get(token, "/api/v1/configs/banners")[0]["content"] == "hello"
    iona.post(token, "/openai/config/update", before)


def reached(iona: Iona, *ports: int) -> dict[str, list[int]]:
    """Open ports by address, as a neighbour sees them; the forged ones are under 127.0.0.1."""
    seen = desk.neighbour_sees(iona.stage, *ports)
    assert len(seen) >= 3, "the machine and two containers were to be looked at"
    seen["127.0.0.1"] = []
    for port in (3000, 8080):
        words = ("python3", "-", "eth0", iona.machine.address, "127.0.0.1", str(port))
        done = iona.stage.neighbour.run(*words, stdin=FORGER.read_bytes())
        assert done.stdout.decode().strip() in ("open", "shut", "silent"), done.stderr
        if done.returncode == 0:
            seen["127.0.0.1"].append(port)
    return seen


def test_a_neighbour_reaches_caddy_and_ssh_alone(iona: Iona) -> None:
    seen, own = reached(iona), iona.machine.addresses
    assert len(own) == 1 + Path("/proc/net/if_inet6").exists(), "IPv6 was to be looked at too"
    assert [seen.pop(address) for address in own] == [[22, 80, 443]] * len(own)
    assert set(map(tuple, seen.values())) == {()}
    iona.machine.succeed("nft delete table inet homeport_docker")
    seen = reached(iona, 22, 80, 443, 3000, 8080)
    for address in own:
        seen.pop(address)
    forged = seen.pop("127.0.0.1")
    reachable = [ports for ports in seen.values() if 8080 in ports]
    assert len(reachable) == 2, "without the guard this check must be red"
    assert forged == [3000, 8080]
    iona.heal()


def test_secrets_show_nowhere(iona: Iona) -> None:
    known = desk.secrets(iona.stage)
    assert len(known) == 3
    assert find_leaks(known, desk.places(iona.stage)) == []


def test_planted_secrets_are_found(iona: Iona) -> None:
    known = desk.secrets(iona.stage)
    key = known["llama_server.api_key"]
    encoded = base64.b64encode(f"admin:{key}".encode()).decode()
    image = "$(docker inspect -f '{{.Config.Image}}' iona-llama-server-1)"
    iona.machine.succeed(
        f"systemd-run --unit=leak sh -c 'sleep 300; : '\"$(cat {KEY})\" && "
        f"docker run -d --name leak -e AUTH={encoded} --entrypoint sleep {image} 300"
    )
    found = "\n".join(find_leaks(known, desk.places(iona.stage)))
    iona.machine.succeed("systemctl stop leak; docker rm -f leak")
    # systemd notes the command line in the journal.
    iona.machine.succeed("journalctl --rotate --vacuum-time=1s")
    assert "llama_server.api_key, raw, in iona: ps" in found
    assert "in iona: docker inspect" in found
    assert "base64" in found
    assert key not in found


def test_what_is_stopped_stays_stopped(iona: Iona) -> None:
    iona.machine.succeed("systemctl stop homeport-stack")
    assert iona.running() == set()
    iona.machine.succeed("systemctl restart docker && sleep 3")
    assert iona.running() == set()
    iona.machine.succeed("systemctl start homeport-stack")
    iona.wait_until_served()


def test_a_killed_program_and_a_restarted_docker_come_back(iona: Iona) -> None:
    for service in sorted(SERVICES):
        pid = iona.container(service)["State"]["Pid"]
        iona.machine.succeed(f"kill -9 {pid}")
    iona.wait_until_served()
    assert all(iona.container(service)["RestartCount"] == 1 for service in SERVICES)
    iona.machine.succeed("systemctl restart docker")
    iona.wait_until_served()
    iona.machine.succeed("kill -9 $(pidof dockerd)")
    iona.wait_until_served()


def test_a_reboot_brings_all_back(iona: Iona) -> None:
    iona.machine.reboot()
    iona.wait_until_served()
    verified(iona)
    assert iona.pending() == []


def test_a_daemon_reload_takes_no_gpu_from_a_container(iona: Iona) -> None:
    """And where systemd knows nothing of the devices, it does: that is what CDI is for."""
    listed = "docker exec {} nvidia-smi -L"
    engine = listed.format("iona-llama-server-1")
    wanted = {gpu.uuid for gpu in iona.machine.gpus}
    before = iona.containers()
    iona.machine.succeed("systemctl daemon-reload")
    assert set(re.findall(r"UUID: ([^)]+)", iona.machine.succeed(engine))) == wanted
    assert iona.containers() == before
    image = iona.container("llama-server")["Config"]["Image"]
    device = f"nvidia.com/gpu={iona.machine.gpus[0].uuid}"
    started = f"docker run -d --rm --name other --device {device} --entrypoint sleep {image} 600"
    scope = f"docker-{iona.machine.succeed(started)}.scope"
    try:
        assert iona.machine.gpus[0].uuid in iona.machine.succeed(listed.format("other"))
        known = "DeviceAllow= 'DeviceAllow=/dev/null rwm'"
        iona.machine.succeed(f"systemctl set-property --runtime {scope} {known}")
        iona.machine.succeed("systemctl daemon-reload")
        assert "Failed to initialize NVML" in iona.machine.fail(listed.format("other"))
    finally:
        iona.machine.succeed("docker rm -f other")


def label(row: list[Break]) -> str:
    """How a round is called: by its first break, and how many go with it."""
    return row[0].name + (f" and {len(row) - 1} more" if len(row) > 1 else "")


@pytest.mark.parametrize("row", rounds(), ids=label)
def test_breaks_are_found_and_healed(iona: Iona, row: list[Break]) -> None:
    for one in row:
        iona.machine.succeed(one.do)
    for one in row:
        iona.machine.fail(one.mended)
    found = set(iona.pending())
    told = iona.drift()
    for one in row:
        iona.machine.fail(one.mended)  # a look changes nothing
    named = {one["operation"]: one["capability"] for one in told}
    # "not so" is what is said of an operation of which nothing is known.
    assert all(one["differs"] for one in told)
    assert "not so" not in [pair["there"] for one in told for pair in one["differs"]]
    assert set(named) == found
    for one in row:
        assert named.get(one.by) == one.capability, one.name
        pairs = [p for entry in told if entry["operation"] == one.by for p in entry["differs"]]
        assert any(one.told in pair["wanted"] for pair in pairs), (one.name, pairs)
        assert not one.hushed or one.hushed not in json.dumps(told)
    assert found <= {name for one in row for name in (one.by, *one.also, READY)}
    iona.heal()
    for one in row:
        iona.machine.succeed(one.mended)


def test_a_tag_that_leads_to_another_image_is_seen(iona: Iona, tmp_path: Path) -> None:
    """Without a lock images go by tag; the container that runs is of the image before."""
    engine = "llama-server"
    lacking = dataclasses.replace(iona.stage, lock=tmp_path / "there-is-none.lock")
    unlocked = Iona(stage=lacking, hub=iona.hub)
    unlocked.heal()
    tag, old = iona.container(engine)["Config"]["Image"], iona.container(engine)["Image"]
    assert "@" not in tag
    iona.machine.succeed(f"docker commit --change 'LABEL newer=1' iona-{engine}-1 {tag}")
    assert SERVICES_OPERATION in unlocked.pending()
    told = {one["operation"]: one for one in unlocked.drift()}
    assert told[SERVICES_OPERATION]["capability"] == "stack"
    assert any(engine in pair["wanted"] for pair in told[SERVICES_OPERATION]["differs"]), told
    unlocked.heal()
    assert iona.container(engine)["Image"] != old
    iona.machine.succeed(f"docker image tag {old} {tag}")
    iona.heal()
    assert "@sha256:" in iona.container(engine)["Config"]["Image"]
    assert iona.container(engine)["Image"] == old


def test_what_is_no_longer_wanted_is_removed_and_data_stay(iona: Iona, tmp_path: Path) -> None:
    token, machine = iona.sign_in(), iona.machine
    data = machine.succeed("cd /srv/homeport/models && sha256sum gemma4-26b/*/*")
    bare = iona.with_inventory(tmp_path / "iona.py", NOTHING)
    bare.converge()
    assert bare.pending() == []
    assert machine.succeed("docker ps -aq") == ""
    assert "iona" not in machine.succeed("docker network ls")
    assert machine.succeed("find /etc/homeport -mindepth 1 -not -path '*/secrets*'") == ""
    owned = "grep -rls 'Managed by Homeport' /etc /usr/local /opt || true"
    assert machine.succeed(owned) == ""
    for listed in ("list-unit-files", "list-units --all"):
        assert machine.run(f"systemctl {listed} --no-legend 'homeport-*'").stdout == b""
    assert "homeport" not in machine.succeed("nft list tables")
    # Trust in the sources' CA belongs to the base, which every node has.
    left = "find / -xdev -name '*homeport*' -not -path '/proc/*' -not -path '*cert*'"
    assert set(machine.succeed(left).split()) == {
        "/etc/homeport",
        "/srv/homeport",
        "/var/lib/homeport",
    }
    machine.succeed("dpkg -s docker.io docker-compose caddy nftables")
    machine.succeed("docker volume inspect open-webui && test -s /etc/homeport/secrets/*secret_key")
    assert machine.succeed("cd /srv/homeport/models && sha256sum gemma4-26b/*/*") == data
    iona.heal()
    assert iona.models(token) == ["gemma-4-26b-a4b"]
    assert iona.running() == SERVICES
