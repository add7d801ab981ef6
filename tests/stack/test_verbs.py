"""What the verbs' shell text does, between programs that are played."""

import subprocess
from pathlib import Path

import pytest

from deploys.stack.verbs import BOOTING_SECONDS, settle

# Each `sleep` is one step further; at `$BOOTED` systemd has started, at `$HEALTHY` the container.
PLAYED = {
    "systemctl": """\
now=$(cat "$PLAY/now")
case "$*" in
is-system-running) if [ "$now" -lt "$BOOTED" ]; then echo starting; else echo degraded; fi ;;
list-jobs*) echo 11 docker.service start running; echo 12 multi-user.target start waiting ;;
*is-active*) [ "$now" -ge "$BOOTED" ] ;;
esac
""",
    "docker": 'echo docker >>"$PLAY/asked"; [ "$(cat "$PLAY/now")" -ge "$HEALTHY" ] || echo web\n',
    "sleep": 'echo $(($(cat "$PLAY/now") + 1)) >"$PLAY/now"\n',
}


def played(play: Path, *, up: float, booted: int, healthy: int) -> list[str]:
    """What `settle` says of a machine that has been up for `up` s, is booted after so many steps,
    and has its container healthy after so many."""
    for name, text in PLAYED.items():
        program = play / name
        program.write_text(f"#!/bin/sh\n{text}")
        program.chmod(0o755)
    (play / "now").write_text("0\n")
    (play / "uptime").write_text(f"{up} 1.00\n")
    done = subprocess.run(
        ["sh", "-s"],
        input=settle("iona").replace("/proc/uptime", str(play / "uptime")),
        env={
            "PATH": f"{play}:/usr/bin:/bin",
            "PLAY": str(play),
            "BOOTED": str(booted),
            "HEALTHY": str(healthy),
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_a_machine_is_given_the_time_to_start_what_it_starts(tmp_path: Path) -> None:
    assert played(tmp_path, up=130.4, booted=3, healthy=5) == [
        "iona booted 2 min ago and still starts: docker.service",
        "iona booted 2 min ago and still starts: web",
    ]
    assert (tmp_path / "now").read_text() == "5\n"


def test_a_docker_that_does_not_run_is_not_asked(tmp_path: Path) -> None:
    played(tmp_path, up=10, booted=3, healthy=0)
    assert (tmp_path / "asked").read_text() == "docker\n", "asked once it ran, and not before"


@pytest.mark.parametrize(
    ("up", "booted", "healthy"), [(100, 0, 0), (BOOTING_SECONDS, 0, 99), (BOOTING_SECONDS, 99, 99)]
)
def test_nothing_is_waited_for(tmp_path: Path, up: float, booted: int, healthy: int) -> None:
    """The machine is up, or has been for so long that what is not well will not get well."""
    assert played(tmp_path, up=up, booted=booted, healthy=healthy) == []
    assert (tmp_path / "now").read_text() == "0\n"
