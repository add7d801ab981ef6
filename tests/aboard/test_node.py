"""The programs aboard, on a live node."""

import hashlib
from typing import Any

import pytest

from homeport import wheel

pytestmark = pytest.mark.node

ENTRY = "/opt/homeport/current/bin/homeport-node"


def test_the_entry_point_runs(host: Any) -> None:
    done = host.run(ENTRY)
    assert done.rc == 2
    assert "hf_models check|prune|sync" in done.stderr


def test_one_version_is_installed_and_current(host: Any) -> None:
    names = host.run("ls /opt/homeport").stdout.split()
    assert len(names) == 2
    link = host.run("readlink /opt/homeport/current").stdout.strip()
    assert sorted(names) == sorted([link, "current"])


def test_what_is_installed_is_this_source(host: Any) -> None:
    site = host.run("echo /opt/homeport/current/lib/python3.*/site-packages").stdout.strip()
    listed = host.run(f"cd {site} && sha256sum homeport_node/*.py").stdout.splitlines()
    found = {line.split()[1]: line.split()[0] for line in listed}
    assert found == {
        f"homeport_node/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest()
        for path in wheel.PACKAGE.glob("*.py")
    }


def test_the_pinned_dependencies_are_installed(host: Any) -> None:
    python = "/opt/homeport/current/bin/python"
    name = "f'{sys.version_info[0]}.{sys.version_info[1]} {platform.machine()}'"
    version, machine = host.run(f'{python} -c "import sys, platform; print({name})"').stdout.split()
    frozen = host.run(f"{python} -m pip freeze --all").stdout.lower().replace("_", "-")
    for line in wheel.requirements(version, machine).splitlines():
        assert line.split(" ")[0].lower().replace("_", "-") in frozen.split()
