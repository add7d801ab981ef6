"""The measurement's pure parts: what is measured, how output is read, what the limits say."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from homeport import cli
from homeport.lab import LabError, commands, desk
from homeport.lab.bench_drift import iona, limits, measure, mix, playbooks
from homeport.lab.bench_drift.fleet import shares
from homeport.lab.bench_drift.rivals import REQUIREMENTS, drifted, planned, would_change

ANSIBLE_SAYS = """
PLAY [all] ****

TASK [ledger: files] ****
ok: [node1] => (item=/srv/bench/ledger/ledger.conf)
changed: [node1] => (item=/srv/bench/ledger/users.csv)
ok: [node1] => (item=/srv/bench/ledger/rotate.conf)

TASK [ledger: unit] ****
changed: [node1]

PLAY RECAP ****
node1                      : ok=2    changed=2    unreachable=0    failed=0    skipped=0
"""


def test_the_workload_is_150_operations_on_150_things() -> None:
    assert mix.operations() == 150
    assert {service.operations for service in mix.services()} == {15}
    paths = list(mix.paths())
    assert len(set(paths)) == len(paths)


def test_the_deploy_and_the_playbook_are_the_same_operations(tmp_path: Path) -> None:
    tasks = playbooks.mix_tasks(mix.services(), tmp_path)
    # A task with a loop is as many operations; a list of packages is one.
    assert sum(len(task.get("loop", [None])) for task in tasks) == 150
    copied = [item for task in tasks for item in task.get("loop", []) if "files" in task["name"]]
    for service in mix.services():
        for file in service.files:
            (item,) = (one for one in copied if one["dest"] == file.path)
            assert Path(item["src"]).read_text() == file.content
            assert (item["mode"], item["group"]) == (f"0{file.mode}", file.group)


def test_tasks_name_their_modules_in_full_and_gather_nothing(tmp_path: Path) -> None:
    tasks = playbooks.mix_tasks(mix.services(), tmp_path)
    for task in tasks:
        (module,) = (key for key in task if "." in key)
        assert module.startswith("ansible.builtin.")
    text = playbooks.write(tmp_path / "play.yml", tasks).read_text()
    assert "gather_facts: false" in text


def test_what_ansible_would_change_is_read_and_held_against_its_recap() -> None:
    assert would_change(ANSIBLE_SAYS) == [
        "ledger: files: /srv/bench/ledger/users.csv",
        "ledger: unit",
    ]
    clean = ANSIBLE_SAYS.replace("changed: ", "ok: ").replace("changed=2", "changed=0")
    assert would_change(clean) == []
    for broken in (
        "",
        ANSIBLE_SAYS.replace("changed=2", "changed=0"),
        clean.replace("changed=0", "changed=1"),
        ANSIBLE_SAYS.replace("unreachable=0", "unreachable=1"),
    ):
        with pytest.raises(LabError):
            would_change(broken)


def test_what_pyinfra_and_homeport_would_change_is_read() -> None:
    plan = [{"name": "a", "hosts_with_change": ["x"]}, {"name": "b", "hosts_with_change": []}]
    assert planned(json.dumps({"plan": plan})) == ["a"]
    host = '{"name": "x", "state": "%s", "drift": [{"operation": "a"}], "failure": "why"}'
    assert drifted('{"hosts": [' + host % "drift" + "]}") == ["a"]
    with pytest.raises(LabError, match="why"):
        drifted('{"hosts": [' + host % "unknown" + "]}")


def test_every_rival_is_pinned_by_hash() -> None:
    for path in REQUIREMENTS.glob("*.txt"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line or "--hash=sha256:" in line for line in lines if line.strip())
    assert len(list(REQUIREMENTS.glob("*.txt"))) == 3


FOUND: list[dict[str, Any]] = [
    {"path": "/etc/homeport", "owner": "root", "group": "root", "mode": "0755", "directory": True},
    {
        "path": "/etc/homeport/a",
        "owner": "root",
        "group": "root",
        "mode": "0644",
        "content": "YQ==",
    },
    {"path": "/etc/homeport/secrets/k", "owner": "root", "group": "root", "mode": "0600"},
    {"path": "/srv/homeport/models/x.gguf", "owner": "r", "group": "r", "mode": "0644", "size": 5},
    {"path": "/opt/homeport/current", "owner": "r", "group": "r", "mode": "0777", "src": "1.0"},
]


def test_iona_for_ansible_copies_files_and_reads_no_secret(tmp_path: Path) -> None:
    tasks = iona.file_tasks(FOUND, tmp_path) + iona.model_tasks(FOUND)
    looped = {task["name"]: [item["path"] for item in task["loop"]] for task in tasks}
    assert looped == {
        "Directories": ["/etc/homeport"],
        "Files": ["/etc/homeport/a"],
        "Secrets": ["/etc/homeport/secrets/k"],
        "Links": ["/opt/homeport/current"],
        "Models": ["/srv/homeport/models/x.gguf"],
    }
    assert [path.read_text() for path in tmp_path.iterdir()] == ["a"]
    assert iona.model_tasks([]) == []


def result(tool: str, seconds: float, rtt: int = 20, workload: str = "150") -> dict[str, Any]:
    return {
        "tool": tool,
        "workload": workload,
        "rtt_ms": rtt,
        "median_s": seconds,
        "remote_commands": 1,
    }


def value(
    ours: float, near: float = 0.8, iona_s: float = 1.5, fleet_s: float = 30
) -> dict[str, Any]:
    results = [
        result("homeport", ours),
        result("homeport", near, rtt=0),
        result("ansible+mitogen", 10),
        result("pyinfra", 15),
        result("ansible", 40),
        result("homeport", iona_s, workload="iona"),
    ]
    return {
        "results": results,
        "floor": [{"workload": "150", "rtt_ms": 20, "median_s": 0.6}],
        "fleet": [{"hosts": 100, "median_s": fleet_s}, {"hosts": 1, "median_s": 99}],
        "ratios": limits.ratios(results),
        "growth": limits.growths(results),
    }


def test_the_limits_that_hold_are_met() -> None:
    found = limits.limits(value(0.95))
    assert len(found) == 8
    assert all(one["met"] for one in found), found
    assert all(limits.sentence(one).startswith("met ") for one in found)


@pytest.mark.parametrize(
    ("measured", "missed"),
    [
        (value(1.2), {"of ansible+mitogen", "of pyinfra", "of ansible'", "floor", "growth"}),
        (value(1.02), {"of ansible+mitogen", "of pyinfra", "of ansible'", "floor"}),
        (value(0.97), {"floor"}),
        (value(0.95, near=0.6), {"growth"}),
        (value(0.95, iona_s=2.01), {"iona"}),
        (value(0.95, fleet_s=40.5), {"targets"}),
    ],
)
def test_a_limit_that_is_missed_is_said_to_be(measured: dict[str, Any], missed: set[str]) -> None:
    wrong = [limits.sentence(one) for one in limits.limits(measured) if not one["met"]]
    assert len(wrong) == len(missed), wrong
    for word in missed:
        assert any(word in line for line in wrong), (word, wrong)
    assert all(line.startswith("NOT MET") for line in wrong)


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    assert (
        limits.limits({"results": [], "floor": [], "fleet": [], "ratios": [], "growth": []}) == []
    )


def test_growth_is_told_in_round_trips() -> None:
    (grown,) = limits.growths([result("ansible", 50), result("ansible", 40, rtt=0)])
    assert grown == {"tool": "ansible", "workload": "150", "seconds": 10, "round_trips": 500}
    assert limits.growths([result("ansible", 50)]) == []


def test_shares_of_a_profile_are_by_package(tmp_path: Path) -> None:
    import cProfile

    from pyinfra.api import arguments

    profile = cProfile.Profile()
    profile.runcall(lambda: [arguments.all_global_arguments() for _ in range(20)])
    profile.dump_stats(tmp_path / "profile")
    found = shares(tmp_path / "profile")
    assert "python" in found
    assert 0.9 < sum(found.values()) <= 1.001


@pytest.mark.parametrize(("met", "code"), [(True, 0), (False, 2)])
def test_a_limit_that_is_missed_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, met: bool, code: int
) -> None:
    seen = value(0.95) | {"limits": [{"what": "w", "seen": 1, "limit": 2, "met": met}]}
    monkeypatch.setattr(commands, "_install_lab_packages", lambda: None)
    monkeypatch.setattr(measure, "bench_drift", lambda *_: seen)
    monkeypatch.setattr(measure, "print_end", lambda result: None)
    monkeypatch.chdir(desk.ROOT)
    assert CliRunner().invoke(cli.main, ["bench", "drift"]).exit_code == code
