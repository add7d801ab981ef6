"""Docker: what is refused, and what differs from what is wanted."""

import json
from pathlib import Path
from typing import Any

import pytest

from deploys.docker import Docker, deploy
from deploys.docker.deploy import (
    OWN_FILES,
    UNIT_FILE,
    guard_commands,
    wanted_files,
)
from deploys.docker.engine import engine_commands, packages
from deploys.docker.guard import GUARD_UNIT, Known, known, pool_conflict, rules
from deploys.docker.spec import daemon_values
from homeport import own_files
from homeport.spec import SpecError
from homeport.targets import Sources
from homeport_node import docker as aboard
from homeport_node import docker_daemon_json as daemon_json
from homeport_node import docker_engine
from homeport_node.common import Ran
from tests.operations import THEIRS, Words, as_put, is_refusal, not_ours, yielded

SPEC = Docker()
WANTED = daemon_values(SPEC)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("address_pool", "8.8.0.0/16"),
        ("address_pool", "10.213.0.1/16"),
        ("address_pool", "10.213.0.0/24"),
        ("address_pool", "nonsense; reboot"),
        ("log_max_size", "10"),
        ("log_max_size", "0m"),
        ("log_max_size", "10m;"),
        ("log_files", 0),
        ("log_files", 101),
    ],
)
def test_wrong_input_names_its_field(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"docker.{field}: .*must be"):
        Docker(**{field: value})


def test_the_bridge_is_the_first_network_of_the_pool() -> None:
    values = daemon_values(Docker(address_pool="172.20.0.0/20"))
    assert values["bip"] == "172.20.0.1/24"
    assert values["default-address-pools"] == [{"base": "172.20.0.0/20", "size": 24}]


@pytest.mark.parametrize(
    ("system", "version", "names"),
    [
        ("debian", "13", {"docker.io", "docker-cli", "docker-compose"}),
        ("debian", "12", {"docker.io", "docker-compose"}),
        ("ubuntu", "22.04", {"docker.io", "docker-compose-v2"}),
        ("ubuntu", "24.04", {"docker.io", "docker-compose-v2"}),
    ],
)
def test_packages_of_the_distributions(system: str, version: str, names: set[str]) -> None:
    assert set(packages({"id": system, "version": version}, {}) or ()) == {"nftables", *names}


def test_docker_coms_packages_are_kept() -> None:
    chosen = packages({"id": "debian", "version": "13"}, {"docker-ce": "5:29.1"})
    assert set(chosen or ()) == {
        "nftables",
        "docker-ce",
        "docker-ce-cli",
        "docker-compose-plugin",
    }


def test_an_unknown_distribution_has_no_packages() -> None:
    assert packages({"id": "fedora", "version": "43"}, {}) is None
    assert packages({}, {}) is None


# daemon.json ------------------------------------------------------------------------------------


def test_merging_twice_changes_nothing() -> None:
    once = daemon_json.merged({"debug": True}, {}, WANTED)
    assert daemon_json.merged(*once, WANTED) == once


def test_what_is_foreign_stays() -> None:
    current = {
        "bip": "192.168.90.1/24",
        "debug": True,
        "features": {"buildkit": True},
        "live-restore": True,
        "log-driver": "syslog",
    }
    config, record = daemon_json.merged(current, {}, WANTED)
    assert config == {
        **current,
        "default-address-pools": WANTED["default-address-pools"],
        "features": {"buildkit": True, "cdi": True},
    }
    assert set(record["ours"]) == {"default-address-pools", "features/cdi"}
    assert daemon_json.merged(config, record, WANTED) == (config, record)


@pytest.mark.parametrize(
    ("foreign", "left_out"),
    [
        ({"bridge": "none"}, {"bip"}),
        ({"fixed-cidr": "172.17.1.0/24"}, {"bip"}),
        ({"log-opts": {"tag": "x"}}, {"log-driver"}),
        ({"log-driver": "syslog"}, {"log-opts"}),
        ({"features": {"cdi": False}}, set()),
    ],
)
def test_what_docker_would_refuse_beside_it_is_left_out(
    foreign: dict[str, Any], left_out: set[str]
) -> None:
    config, record = daemon_json.merged(foreign, {}, WANTED)
    assert {**config, **foreign} == config
    assert WANTED.keys() - record["ours"].keys() - {"features/cdi", *foreign} == left_out
    assert not left_out & config.keys()


def test_all_is_given_back() -> None:
    current = {"debug": True, "features": {"buildkit": True}, "log-driver": "syslog"}
    assert daemon_json.merged(*daemon_json.merged(current, {}, WANTED), {}) == (current, {})
    assert daemon_json.merged(*daemon_json.merged({}, {}, WANTED), {}) == ({}, {})
    theirs = {"log-driver": WANTED["log-driver"]}  # as Docker's own advice has it
    config, record = daemon_json.merged(theirs, {}, WANTED)
    assert "log-opts" not in config
    assert daemon_json.merged(config, record, {}) == (theirs, {})


@pytest.mark.parametrize(
    ("dockerd", "added"),
    [
        ("Docker version 20.10.24+dfsg1, build 297e128", True),
        ("Docker version 24.0.9, build x", True),
        ("Docker version 26.1.5+dfsg1, build a72d7cd", False),
        ("", False),  # none yet
    ],
)
def test_what_only_a_docker_without_cdi_needs(
    monkeypatch: pytest.MonkeyPatch, dockerd: str, added: bool
) -> None:
    monkeypatch.setattr(daemon_json, "run", lambda *_: Ran(0, dockerd, ""))
    theirs = {"runtimes": {"runsc": {"path": "/usr/bin/runsc"}}}
    config, record = daemon_json.merged(theirs, {}, daemon_json.here(WANTED, RUNTIME))
    assert config["runtimes"].keys() == ({"runsc", "nvidia"} if added else {"runsc"})
    assert daemon_json.merged(config, record, {})[0] == theirs
    assert daemon_json.here(WANTED, {}) == WANTED


def test_a_path_that_is_dropped_goes_and_its_neighbours_stay() -> None:
    config, record = daemon_json.merged({}, {}, {"bip": "10.0.0.1/24", "log-driver": "local"})
    assert daemon_json.merged(config, record, {"log-driver": "local"}) == (
        {"log-driver": "local"},
        {"ours": {"log-driver": "local"}},
    )


def test_an_edit_of_a_path_of_ours_is_undone() -> None:
    config, record = daemon_json.merged({}, {}, WANTED)
    edited = {**config, "log-driver": "syslog"}
    assert daemon_json.merged(edited, record, WANTED) == (config, record)


def test_a_dropped_path_that_was_edited_is_left() -> None:
    config, record = daemon_json.merged({}, {}, {"log-driver": "local"})
    assert daemon_json.merged({**config, "log-driver": "syslog"}, record, {}) == (
        {"log-driver": "syslog"},
        {},
    )


@pytest.fixture
def on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of homeport_node.docker, in a folder of the test's own."""
    monkeypatch.setattr(daemon_json, "DAEMON_JSON", tmp_path / "etc/daemon.json")
    monkeypatch.setattr(daemon_json, "RECORD", tmp_path / "lib/docker.json")
    monkeypatch.setattr(daemon_json, "STARTED_WITH", tmp_path / "started.json")
    monkeypatch.setattr(daemon_json, "refused", lambda value: None)
    return tmp_path


def test_merge_writes_then_agrees(on_disk: Path) -> None:
    assert set(daemon_json.daemon(WANTED)["differs"]) == {
        "bip",
        "default-address-pools",
        "features/cdi",
        "log-driver",
        "log-opts",
    }
    assert daemon_json.merge(WANTED) is None
    assert daemon_json.daemon(WANTED)["differs"] == []


@pytest.mark.parametrize("edit", [{}, dict.fromkeys(("bip", "log-driver", "log-opts"), "x")])
def test_a_record_that_was_lost_is_seen_and_comes_back(on_disk: Path, edit: dict[str, Any]) -> None:
    assert daemon_json.merge(WANTED) is None
    config = daemon_json.load(daemon_json.DAEMON_JSON)
    daemon_json.replace(daemon_json.DAEMON_JSON, {**config, **edit})
    daemon_json.RECORD.unlink()
    seen = daemon_json.daemon(WANTED)
    assert seen["differs"] == ["record"]
    assert seen["there"] == {"record": "no such file"}
    assert daemon_json.merge(WANTED) is None
    # What was edited meanwhile cannot be told from what somebody else set.
    assert daemon_json.load(daemon_json.RECORD)["ours"].keys() == WANTED.keys() - edit.keys()
    assert daemon_json.daemon(WANTED)["differs"] == []
    assert aboard.take_back() is None


def test_a_record_without_anything_of_ours_is_one_too(on_disk: Path) -> None:
    theirs = {"bip": "10.0.0.1/24", "default-address-pools": [], "features": {"cdi": False}}
    daemon_json.replace(daemon_json.DAEMON_JSON, {**theirs, "log-driver": "x", "log-opts": {}})
    for lost in (False, True):
        assert daemon_json.merge(WANTED) is None
        assert daemon_json.daemon(WANTED)["differs"] == []
        assert daemon_json.load(daemon_json.RECORD) == {"ours": {}}
        if not lost:
            daemon_json.RECORD.unlink()
            assert daemon_json.daemon(WANTED)["differs"] == ["record"]


def test_a_file_that_is_not_json_is_left_as_it_is(on_disk: Path) -> None:
    daemon_json.DAEMON_JSON.parent.mkdir()
    daemon_json.DAEMON_JSON.write_text("{,}")
    assert "nothing was changed" in (daemon_json.merge(WANTED) or "")
    assert daemon_json.DAEMON_JSON.read_text() == "{,}"
    assert "daemon.json" in daemon_json.daemon(WANTED)["error"]


def test_a_configuration_that_docker_refuses_is_not_written(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_json, "refused", lambda value: "no such option")
    assert "no such option" in (daemon_json.merge(WANTED) or "")
    assert not daemon_json.DAEMON_JSON.exists()
    assert not daemon_json.RECORD.exists()


@pytest.mark.parametrize("stop_after", [1, 2])
def test_a_merge_that_is_cut_short_is_healed_and_can_be_given_back(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    daemon_json.DAEMON_JSON.parent.mkdir()
    daemon_json.DAEMON_JSON.write_text('{"log-driver": "syslog"}')
    calls: list[Path] = []

    def replace(path: Path, value: dict[str, Any]) -> None:
        if len(calls) == stop_after:
            raise KeyboardInterrupt
        calls.append(path)
        real(path, value)

    real = daemon_json.replace
    monkeypatch.setattr(daemon_json, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        daemon_json.merge(WANTED)
    monkeypatch.setattr(daemon_json, "replace", real)
    assert daemon_json.merge(WANTED) is None
    assert daemon_json.daemon(WANTED)["differs"] == []
    assert daemon_json.merge({}) is None
    assert json.loads(daemon_json.DAEMON_JSON.read_text()) == {"log-driver": "syslog"}


def test_a_restart_is_due_for_our_paths_only(on_disk: Path) -> None:
    daemon_json.merge(WANTED)
    started = json.loads(daemon_json.DAEMON_JSON.read_text())
    daemon_json.STARTED_WITH.write_text(json.dumps({**started, "debug": True}))
    assert daemon_json.daemon(WANTED)["not_running"] == []
    daemon_json.STARTED_WITH.write_text(json.dumps({**started, "bip": "10.0.0.1/24"}))
    assert daemon_json.daemon(WANTED)["not_running"] == ["bip"]
    daemon_json.STARTED_WITH.write_text("{")
    assert daemon_json.daemon(WANTED)["not_running"] == sorted(WANTED)


def test_a_docker_that_was_there_before_runs_what_was_on_the_disk(on_disk: Path) -> None:
    daemon_json.DAEMON_JSON.parent.mkdir()
    daemon_json.DAEMON_JSON.write_text(json.dumps({**WANTED, "features": {"cdi": True}}))
    assert daemon_json.daemon(WANTED)["differs"] == ["record"]
    assert daemon_json.daemon(WANTED)["not_running"] == []
    daemon_json.RECORD.parent.mkdir()
    daemon_json.RECORD.write_text(json.dumps({"ours": WANTED}))
    assert daemon_json.daemon(WANTED)["not_running"] == []
    daemon_json.RECORD.unlink()
    daemon_json.DAEMON_JSON.write_text('{"bip": "192.168.90.1/24"}')
    daemon_json.merge(WANTED)
    rest = sorted(WANTED.keys() - {"bip"})
    assert daemon_json.daemon(WANTED)["differs"] == []
    assert daemon_json.daemon(WANTED)["not_running"] == rest
    assert daemon_json.STARTED_WITH.stat().st_mode & 0o777 == 0o600


def test_a_docker_that_other_people_use_is_not_restarted_to_take_our_paths_back(
    on_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = {"Id": "1", "Names": ["/iona-x-1"], "Labels": dict([aboard.OWN_PROJECT])}
    theirs = {"Id": "2", "Names": ["/registry"], "Labels": {}}
    ran: list[tuple[str, ...]] = []
    running = [ours, theirs]
    monkeypatch.setattr(aboard, "units", lambda names: {"docker.service": {"active": True}})
    monkeypatch.setattr(docker_engine, "ask", lambda path: running)

    def run(*words: str, **_: Any) -> Ran:
        ran.append(words)
        return Ran(0, "", "")

    monkeypatch.setattr(aboard, "run", run)
    daemon_json.merge(WANTED)
    daemon_json.STARTED_WITH.write_text(daemon_json.DAEMON_JSON.read_text())
    assert aboard.take_back() is None
    assert ran == []
    assert not daemon_json.DAEMON_JSON.exists()
    daemon_json.merge(WANTED)
    running.remove(theirs)
    assert aboard.take_back() is None
    assert ran == [("systemctl", "restart", "docker.service")]
    assert not daemon_json.RECORD.exists()


# The engine and the guard -----------------------------------------------------------------------

GOOD = {"enabled": True, "active": True, "stale": False}


@pytest.mark.parametrize(
    ("unit", "not_running", "commands"),
    [
        (GOOD, [], []),
        (GOOD, ["bip"], ["systemctl restart docker.service"]),
        ({**GOOD, "enabled": False}, [], ["systemctl enable docker.service"]),
        ({**GOOD, "stale": True}, [], ["systemctl daemon-reload"]),
        (
            {**GOOD, "enabled": False, "masked": True},
            [],
            [
                "systemctl unmask docker.service",
                "systemctl unmask --runtime docker.service",
                "systemctl enable docker.service",
            ],
        ),
    ],
)
def test_engine(unit: dict[str, bool], not_running: list[str], commands: list[str]) -> None:
    observed = {"units": {"docker.service": unit}, "daemon": {"not_running": not_running}}
    assert engine_commands(observed) == commands


@pytest.mark.parametrize(
    ("arguments", "config", "found"),
    [
        (["-H", "fd://"], {}, []),
        (["-H", "tcp://0.0.0.0:2375"], {}, ["tcp://0.0.0.0:2375"]),
        (["--host=tcp://[::]:2375", "-Htcp://127.0.0.1:1"], {}, ["tcp://[::]:2375"]),
        ([], {"hosts": ["fd://", "tcp://10.0.0.1:2375"]}, ["tcp://10.0.0.1:2375"]),
        (["-H", "tcp://localhost:2375", "-H", "tcp://:2375", "-H", "tcp://[::1]:1"], {}, []),
        (["-H", "tcp://0.0.0.0:2376", "--tlsverify"], {}, []),
        (["-H", "tcp://0.0.0.0:2376"], {"tlsverify": True}, []),
        (["-H", "tcp://0.0.0.0:2376", "--tlsverify=1"], {}, []),
        (["--log-opt", "gelf-address=tcp://10.0.0.9:12201", "-H", "fd://"], {}, []),
        ([], {"hosts": "nonsense"}, []),
    ],
)
def test_a_docker_that_takes_orders_from_the_network(
    on_disk: Path, arguments: list[str], config: dict[str, Any], found: list[str]
) -> None:
    (on_disk / "7").mkdir()
    (on_disk / "7/cmdline").write_text("\0".join(["/usr/sbin/dockerd", *arguments, ""]))
    daemon_json.replace(daemon_json.DAEMON_JSON, config)
    assert aboard.exposed(7, str(on_disk)) == found


def test_a_docker_that_takes_orders_from_the_network_is_refused() -> None:
    units = {"docker.service": {**GOOD, "dropins": [THEIRS, "/x/docker.service.d/homeport.conf"]}}
    observed = {**AS_WANTED, "units": units, "exposed": ["tcp://0.0.0.0:2375"]}
    (refusal,) = yielded(deploy.running, observed, spec=SPEC)
    assert is_refusal(refusal)
    assert f"out of {JSON} or {THEIRS}," in refusal


@pytest.mark.parametrize("name", ["docker.socket", "containerd.service"])
def test_what_docker_would_miss_at_the_next_boot_is_unmasked(name: str) -> None:
    observed = {"units": {"docker.service": GOOD, name: {**GOOD, "masked": True}}}
    assert engine_commands(observed) == [
        f"systemctl unmask {name}",
        f"systemctl unmask --runtime {name}",
    ]


def test_a_stopped_engine_is_started_once() -> None:
    observed = {
        "units": {"docker.service": {**GOOD, "active": False}},
        "daemon": {"not_running": ["bip"]},
    }
    assert engine_commands(observed)[-1] == "systemctl start docker.service"
    assert "systemctl restart docker.service" not in engine_commands(observed)


@pytest.mark.parametrize(
    ("unit", "same", "commands"),
    [
        (GOOD, True, []),
        (GOOD, False, [f"systemctl reload-or-restart {GUARD_UNIT}"]),
        ({**GOOD, "active": False}, True, [f"systemctl reload-or-restart {GUARD_UNIT}"]),
        ({**GOOD, "enabled": False}, True, [f"systemctl enable {GUARD_UNIT}"]),
    ],
)
def test_guard(unit: dict[str, bool], same: bool, commands: list[str]) -> None:
    observed = {"units": {GUARD_UNIT: unit}, "guard": {"same": same, "error": ""}}
    assert guard_commands(observed) == commands


def test_a_drop_in_of_nftables_that_systemd_has_not_read() -> None:
    units = {GUARD_UNIT: GOOD, "nftables.service": {**GOOD, "stale": True}}
    observed = {"units": units, "guard": {"same": True, "error": ""}}
    assert guard_commands(observed) == ["systemctl daemon-reload"]


def _network(interface: str, *subnets: str) -> dict[str, Any]:
    return {"name": "n", "interface": interface, "subnets": [*subnets]}


def test_networks_in_the_pool_change_no_rule() -> None:
    bare: dict[str, Any] = {
        "networks": [_network("docker0", "10.213.0.0/24")],
        "bridges": ["docker0"],
    }
    more = {
        "networks": [*bare["networks"], _network("br-0123456789ab", "10.213.1.0/24")],
        "bridges": ["docker0", "br-0123456789ab"],
    }
    assert rules(SPEC, known(bare)) == rules(SPEC, known(more)) == rules(SPEC, Known())


def test_networks_with_subnets_of_their_own_are_guarded() -> None:
    text = rules(SPEC, Known(subnets=("172.30.0.0/24", "10.213.1.0/24", "fd00:5::/64")))
    assert "elements = { 10.213.0.0/16, 172.30.0.0/24 }" in text
    assert "elements = { fd00:5::/64 }" in text
    assert "ip6 daddr @containers6 counter drop" in text


def test_bridges_are_told_apart() -> None:
    observed = {
        "networks": [_network("docker0"), _network("mine0"), _network("br-0123456789ab")],
        "bridges": ["docker0", "mine0", "br-0123456789ab", "br-lan", "vmbr0", 'br-"; x'],
    }
    assert known(observed) == Known(inside=("mine0",), outside=("br-lan",))
    text = rules(SPEC, known(observed))
    assert text.index('"br-lan" goto') < text.index('"br-*" jump')
    assert 'iifname "mine0" accept' in text


def test_a_name_like_dockers_is_not_enough() -> None:
    """A bridge "br-lan" that is made after the converge is outside."""
    lines = [line.strip() for line in rules(SPEC, Known()).splitlines()]
    assert [line for line in lines if "br-*" in line and "accept" in line] == []
    inside = lines[lines.index("chain from_a_bridge {") + 1 : lines.index("chain from_outside {")]
    assert [line for line in inside if "accept" in line] == [
        "ip saddr @containers4 fib saddr . iif oif exists accept"
    ]


def test_foreign_pools_are_guarded_unless_the_node_is_in_them() -> None:
    observed = {
        "networks": [],
        "daemon": {"pools": ["10.213.0.0/16", "172.30.0.0/16", "192.168.0.0/16"]},
        "routes": [["192.168.1.0/24", "eth0"]],
    }
    assert "elements = { 10.213.0.0/16, 172.30.0.0/16 }" in rules(SPEC, known(observed))
    assert known({**observed, "networks": None}) == known(observed)


def test_pools_as_daemon_json_names_them() -> None:
    wrong: list[Any] = [{"base": "x"}, {}, "y", None]
    config = {"default-address-pools": [*wrong, {"base": "172.30.0.7/16", "size": 24}]}
    assert daemon_json.pools(config) == ["172.30.0.0/16"]
    assert daemon_json.pools({}) == daemon_json.pools({"default-address-pools": 7}) == []


def test_rules_outlive_a_docker_that_is_stopped() -> None:
    beyond = Known(subnets=("172.30.0.0/24", "fd00:5::/64"), inside=("mine0",), outside=("br-lan",))
    text = rules(SPEC, beyond)
    observed = {"networks": None, "guard": {"rules": text}}
    assert rules(SPEC, known(observed)) == text


@pytest.mark.parametrize("text", ["", "# Known: {", '# Known: {"x": 1}', "# Known: {}"])
def test_rules_that_say_nothing(text: str) -> None:
    assert known({"networks": None, "guard": {"rules": text}}) == Known()


def _listing(*rule_exprs: object, elements: tuple[str, ...] = ("a", "b"), handle: int = 1) -> str:
    return json.dumps(
        {
            "nftables": [
                {"metainfo": {"version": "1"}},
                {"set": {"name": "s", "handle": handle, "elem": [*elements]}},
                *({"rule": {"handle": handle, "expr": [one]}} for one in rule_exprs),
            ]
        }
    )


def test_listings_are_compared_by_meaning() -> None:
    counter = {"counter": {"packets": 7, "bytes": 9}}
    zero = {"counter": {"packets": 0, "bytes": 0}}
    same = _listing(counter, {"drop": None}, elements=("b", "a"), handle=9)
    assert aboard.canonical(same) == aboard.canonical(_listing(zero, {"drop": None}))
    assert aboard.canonical(_listing(zero)) != aboard.canonical(_listing(zero, {"drop": None}))
    swapped = _listing({"drop": None}, zero)
    assert aboard.canonical(swapped) != aboard.canonical(_listing(zero, {"drop": None}))
    assert aboard.canonical("Error: no such table") is None


@pytest.mark.parametrize(
    ("destination", "interface", "clash"),
    [
        ("10.213.4.0/24", "eth0", True),
        ("10.0.0.0/8", "wg0", True),
        ("10.213.4.7", "eth0", True),
        ("10.213.0.0/24", "docker0", False),
        ("10.213.1.0/24", "br-0123456789ab", False),
        ("10.213.2.0/24", "mine0", False),
        ("192.168.1.0/24", "eth0", False),
    ],
)
def test_a_pool_that_hides_a_network(destination: str, interface: str, clash: bool) -> None:
    observed = {"networks": [_network("mine0")], "routes": [[destination, interface]]}
    assert bool(pool_conflict(SPEC, observed)) is clash


# Files ------------------------------------------------------------------------------------------


def test_files_as_wanted_are_left() -> None:
    wanted = wanted_files(Sources())
    assert set(wanted) == set(OWN_FILES)
    assert own_files.changes(wanted, as_put(wanted)) == ({}, [])


PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def test_registries_of_the_sources_are_trusted_and_forgotten() -> None:
    sources = Sources(registries={"ghcr.io": "r.example:5000/hub"}, ca_certificates=(PEM,))
    path = "/etc/docker/certs.d/r.example:5000/homeport.crt"
    write, remove = own_files.changes(wanted_files(sources), {})
    assert write[path] == PEM
    assert remove == []
    assert own_files.changes(wanted_files(Sources()), as_put({path: "x"}))[1] == [path]


@pytest.mark.parametrize("path", OWN_FILES)
def test_our_files_say_whose_they_are(path: str) -> None:
    first = OWN_FILES[path].read_text().splitlines()[0]
    assert first == "# Managed by Homeport (docker). Changes are replaced by the next converge."


# The operations ---------------------------------------------------------------------------------

TEXTS = {**wanted_files(Sources()), str(aboard.RULES): rules(SPEC, Known())}
AS_WANTED: dict[str, Any] = {
    "os": {"id": "debian", "version": "13"},
    "daemon": {"error": "", "differs": [], "not_running": [], "pools": ["10.213.0.0/16"]},
    "recorded": True,
    "units": {"docker.service": GOOD, GUARD_UNIT: GOOD},
    "networks": [_network("docker0", "10.213.0.0/24")],
    "foreign": ["registry"],
    "bridges": ["docker0"],
    "routes": [["10.213.0.0/24", "docker0"]],
    "guard": {"rules": TEXTS[str(aboard.RULES)], "same": True, "error": ""},
    "files": as_put(TEXTS),
}
BARE: dict[str, Any] = {
    "os": {"id": "debian", "version": "13"},
    "daemon": {"error": "", "differs": ["bip"], "not_running": [], "pools": []},
    "guard": {"rules": None, "same": False, "error": ""},
}
INSTALLED = {"installed": dict.fromkeys(packages(AS_WANTED["os"], {}) or (), "1"), "lists_age": 1.0}
NOTHING = {"installed": {}, "lists_age": 1.0}
RESTART_DUE = {**AS_WANTED, "daemon": {**AS_WANTED["daemon"], "not_running": ["bip", "log-driver"]}}
CONFIGURATION = {"spec": SPEC, "sources": Sources()}


def _but(**changes: Any) -> dict[str, Any]:
    """A node as wanted, but for `changes`; a mapping changes single keys."""
    return {
        **AS_WANTED,
        **{
            key: {**AS_WANTED[key], **value} if isinstance(value, dict) else value
            for key, value in changes.items()
        },
    }


RUNTIME = {"runtimes/nvidia": {"path": "nvidia-container-runtime"}}
OLDER = {"spec": SPEC, "without_cdi": RUNTIME}
NO_RUNTIME = _but(
    daemon={"differs": ["bip", "runtimes/nvidia"], "there": {"runtimes/nvidia": "not set"}}
)


@pytest.mark.parametrize(
    ("operation", "observed", "arguments", "commands"),
    [
        (deploy.configuration, [AS_WANTED], CONFIGURATION, []),
        (
            deploy.configuration,
            [BARE],
            CONFIGURATION,
            [*["FileUpload"] * 4, "systemctl daemon-reload && systemctl enable", "_module.merge("],
        ),
        (
            deploy.configuration,
            [_but(guard={"rules": "x"}, files=as_put({str(aboard.RULES): "x"}))],
            CONFIGURATION,
            ["FileUpload"],
        ),
        (deploy.configuration, [_but(daemon={"differs": ["bip"]})], CONFIGURATION, ["merge("]),
        (deploy.configuration, [_but(files=as_put({"/x": "y"}))], CONFIGURATION, ["rm -f /x"]),
        (deploy.packages, [INSTALLED, AS_WANTED], {"spec": SPEC}, []),
        (
            deploy.packages,
            [NOTHING, AS_WANTED],
            {"spec": SPEC},
            ["docker-cli docker-compose docker.io nft"],
        ),
        (deploy.without_cdi_as_well, [AS_WANTED], OLDER, []),
        (deploy.without_cdi_as_well, [_but(daemon={"differs": ["bip"]})], OLDER, []),
        (deploy.without_cdi_as_well, [NO_RUNTIME], OLDER, ["_module.merge("]),
        (deploy.running, [AS_WANTED], {"spec": SPEC}, []),
        (
            deploy.running,
            [{**RESTART_DUE, "foreign": []}, AS_WANTED],
            {"spec": SPEC},
            ["systemctl restart docker.service"],
        ),
        # Docker's start shows a network of its own with a subnet outside the pool.
        (
            deploy.running,
            [
                _but(units={"docker.service": {**GOOD, "active": False}}, networks=None),
                _but(networks=[_network("docker0", "172.30.0.0/24")]),
            ],
            {"spec": SPEC},
            ["systemctl reset-failed", "systemctl start docker", "FileUpload", "reload-or-restart"],
        ),
        (deploy.removed, [BARE], {}, []),
        (
            deploy.removed,
            [AS_WANTED],
            {},
            ["_module.take_back(", "systemctl disable --now", "rm -f", "systemctl daemon-reload"],
        ),
        # Interrupted after daemon.json.
        (
            deploy.removed,
            [{**BARE, "files": as_put({str(aboard.RULES): "x"})}],
            {},
            ["rm -f /etc/homeport/docker-guard.nft", "systemctl daemon-reload"],
        ),
    ],
)
def test_operations(
    operation: Any, observed: list[dict[str, Any]], arguments: dict[str, Any], commands: list[str]
) -> None:
    found = yielded(operation, *observed, **arguments)
    assert len(found) == len(commands), found
    for command, words in zip(found, commands, strict=True):
        assert words in command


@pytest.mark.parametrize(
    ("operation", "observed", "arguments", "words"),
    [
        (
            deploy.configuration,
            [{**BARE, "routes": [["10.213.4.0/24", "eth0"]]}],
            CONFIGURATION,
            "10.213.0.0/16 hides a part of the node's network: 10.213.4.0/24 is reached through",
        ),
        (
            deploy.configuration,
            [{**BARE, "daemon": {"error": "daemon.json: Expecting value"}}],
            CONFIGURATION,
            "daemon.json cannot be merged: daemon.json: Expecting value",
        ),
        (
            deploy.packages,
            [NOTHING, {"os": {"id": "fedora", "version": "43"}}],
            {"spec": SPEC},
            "fedora 43 is not known",
        ),
        (deploy.running, [_but(guard={"error": "no fib"})], {"spec": SPEC}, "nft: no fib"),
        (
            deploy.running,
            [RESTART_DUE],
            {"spec": SPEC},
            "for bip, log-driver in daemon.json, and that stops containers that are not",
        ),
        (deploy.running, [RESTART_DUE], {"spec": SPEC}, ": registry: when it suits them"),
    ],
)
def test_refusals(
    operation: Any, observed: list[dict[str, Any]], arguments: dict[str, Any], words: str
) -> None:
    (refusal,) = yielded(operation, *observed, **arguments)
    assert is_refusal(refusal)
    assert words in refusal.replace("'\"'\"'", "'")


def test_the_guard_is_in_force_before_a_restart_is_refused() -> None:
    opened = {**RESTART_DUE, "guard": {**AS_WANTED["guard"], "same": False}}
    first, second = yielded(deploy.running, opened, spec=SPEC)
    assert first == f"systemctl reload-or-restart {GUARD_UNIT}"
    assert is_refusal(second)


# What drift says --------------------------------------------------------------------------------

JSON = "/etc/docker/daemon.json"
GUARD_RULES = "/etc/homeport/docker-guard.nft"
ELSEWHERE = rules(SPEC, Known(subnets=("172.30.0.0/24",)))
OURS_ELSE = {"differs": ["bip", "log-opts"], "there": {"bip": "not set", "log-opts": "x"}}
STOPPED = {"enabled": False, "active": False, "stale": True, "masked": True}
WORDS: list[Words] = [
    (
        deploy.configuration,
        [
            {
                **AS_WANTED,
                "files": as_put({**wanted_files(Sources()), UNIT_FILE: "x", "/x.crt": "1"}),
                "guard": {"rules": None},
            }
        ],
        CONFIGURATION,
        [
            (f"{GUARD_RULES}: the guard's rules", "no such file"),
            (
                f"{UNIT_FILE}: sha256 {own_files.sha256(TEXTS[UNIT_FILE])[:12]}",
                f"sha256 {own_files.sha256('x')[:12]}",
            ),
            ("/x.crt: no such file", "a file of ours"),
        ],
    ),
    (
        deploy.configuration,
        [
            _but(
                guard={"rules": ELSEWHERE}, daemon=OURS_ELSE, files=as_put({GUARD_RULES: ELSEWHERE})
            )
        ],
        CONFIGURATION,
        [
            (f"{GUARD_RULES}: networks beside the pool: none", "172.30.0.0/24"),
            (f'{JSON}: bip "10.213.0.1/24"', "not set"),
            (f'{JSON}: log-opts {{"max-size": "10m", "max-file": "3"}}', "x"),
        ],
    ),
    (
        deploy.configuration,
        [_but(daemon={"differs": ["record"], "there": {"record": "no such file"}})],
        CONFIGURATION,
        [(f"/var/lib/homeport/docker.json: what Homeport set in {JSON}", "no such file")],
    ),
    (
        deploy.without_cdi_as_well,
        [NO_RUNTIME],
        OLDER,
        [(f'{JSON}: runtimes/nvidia {{"path": "nvidia-container-runtime"}}', "not set")],
    ),
    (
        deploy.packages,
        [{**INSTALLED, "installed": {"nftables": "1"}}, AS_WANTED],
        {"spec": SPEC},
        [("packages: docker-cli, docker-compose, docker.io", "not installed")],
    ),
    (
        deploy.running,
        [_but(units={"docker.service": STOPPED, GUARD_UNIT: {**GOOD, "enabled": False}})],
        {"spec": SPEC},
        [
            ("docker.service: not masked", "masked"),
            (f"{GUARD_UNIT}: enabled", "not enabled"),
            ("docker.service: loaded as on the disk", "an older one is loaded"),
            ("docker.service: enabled", "not enabled"),
            ("docker.service: active", "not active"),
        ],
    ),
    (
        deploy.running,
        [{**AS_WANTED, "exposed": ["tcp://0.0.0.0:2375"]}],
        {"spec": SPEC},
        [
            (
                "Docker takes no orders from the network",
                "dockerd listens at tcp://0.0.0.0:2375, and whoever reaches that is root here",
            )
        ],
    ),
    (
        deploy.running,
        [_but(units={GUARD_UNIT: {**GOOD, "dropins": [THEIRS]}})],
        {"spec": SPEC},
        [not_ours(GUARD_UNIT)],
    ),
    (
        deploy.running,
        [_but(units={"docker.socket": {**GOOD, "masked": True}}), AS_WANTED],
        {"spec": SPEC},
        [("docker.socket: not masked", "masked")],
    ),
    (
        deploy.running,
        [_but(guard={"same": False}), AS_WANTED],
        {"spec": SPEC},
        [(f"the kernel's rules: those of {GUARD_RULES}", "others, or none")],
    ),
    # A network that somebody made, with a subnet of its own.
    (
        deploy.running,
        [_but(networks=[_network("docker0", "172.30.0.0/24")])],
        {"spec": SPEC},
        [(f"{GUARD_RULES}: networks beside the pool: 172.30.0.0/24", "none")],
    ),
    (
        deploy.running,
        [RESTART_DUE],
        {"spec": SPEC},
        [
            (
                "its name",
                f"Docker must be restarted for bip, log-driver in daemon.json, and that stops "
                f"containers that are not Homeport's: {AS_WANTED['foreign'][0]}",
            ),
            (
                f"docker.service: runs with bip, log-driver of {JSON}",
                "runs with other values",
            ),
        ],
    ),
    (
        deploy.removed,
        [_but(files={})],
        {},
        [
            *[(f"{path}: no such file", "a file of ours") for path in sorted(TEXTS)],
            (f"{JSON}: nothing that Homeport set", "what it set"),
        ],
    ),
]


def test_of_daemon_json_only_what_cannot_be_secret_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_json, "DAEMON_JSON", tmp_path / "daemon.json")
    monkeypatch.setattr(daemon_json, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(daemon_json, "STARTED_WITH", tmp_path / "started.json")
    daemon_json.replace(daemon_json.RECORD, {"ours": WANTED})
    options = {"splunk-token": "hush", "max-size": "50m"}
    theirs = {"bip": "10.0.0.1/24", "log-opts": options, "proxies": "hush"}
    daemon_json.replace(daemon_json.DAEMON_JSON, {**WANTED, **theirs})
    there = daemon_json.daemon(WANTED)["there"]
    assert there == {
        "bip": '"10.0.0.1/24"',
        "features/cdi": "not set",
        "log-opts": '{"max-size": "50m"}, and others',
    }
    daemon_json.replace(daemon_json.DAEMON_JSON, {**WANTED, "log-opts": "hush"})
    assert daemon_json.daemon(WANTED)["there"]["log-opts"] == "another value"
