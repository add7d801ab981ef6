"""The unit of a watch under systemd, aboard the very machine that it looks after.

A person without rights of root's has the checkout in a home of their own, prints the unit, installs
it as its own first lines say, and is told of a drift and of its end.
"""

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from homeport.lab import cache, desk
from homeport.lab.stage import PYTHON, Stage, stage
from homeport.wheel import download_wheels

pytestmark = pytest.mark.container

INVENTORY = """\
from deploys.base import Base
from deploys.node import Node
from homeport.inventory import inventory

hosts = inventory(__file__, desk=Node(name="desk", base=Base(timezone="Etc/UTC")))
"""
USER, HOME, TOKEN = "ann", "/home/ann", "t0ken"
CHECKOUT = f"{HOME}/homeport"
UNIT = "homeport-drift-desk"
TOLD = "/root/told"
HOOK = f"""
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with open({TOLD!r}, "ab") as file:
            file.write(body + b"\\n")
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", 9000), Handler).serve_forever()
"""


def packed(files: dict[str, Path]) -> bytes:
    """A tar of `files`, by their names in it."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name, path in files.items():
            tar.add(path, name, recursive=True)
    return data.getvalue()


def checkout() -> dict[str, Path]:
    """The files of this checkout, as git knows them."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=desk.ROOT, capture_output=True, check=True
    )
    names = [name for name in listed.stdout.decode().split("\0") if name]
    return {name: desk.ROOT / name for name in names if (desk.ROOT / name).exists()}


def as_user(on: Stage, command: str) -> str:
    return on.machine.succeed(
        f"runuser -u {USER} -- sh -c 'cd {CHECKOUT} && {command}'", timeout=600
    )


@pytest.fixture(scope="module")
def on(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The machine, converged, with the checkout in its user's home, and a webhook."""
    inventory = tmp_path_factory.mktemp("inventory") / "desk.py"
    inventory.write_text(INVENTORY)
    file = desk.ROOT / "requirements.txt"
    wheels = cache.entry(
        "wheels",
        f"desk-trixie-{cache.key(file.read_text())}",
        lambda path: download_wheels(path, PYTHON["trixie"], file=file),
    )
    with stage(inventory) as made:
        assert desk.homeport(made, "lock", str(inventory)).returncode == 0
        desk.converge(made, quiet=True)
        machine, key = made.machine, f"{HOME}/.ssh/id"
        machine.succeed(f"useradd --create-home {USER} && mkdir -p {CHECKOUT} {HOME}/.ssh /wheels")
        machine.succeed(f"tar -xC {CHECKOUT}", stdin=packed(checkout()))
        machine.succeed("tar -xC /wheels --strip-components=1", stdin=packed({"w": wheels}))
        targets = made.targets.read_text().replace(str(machine.ssh_key), key)
        own = {"desk.py": inventory.read_bytes(), "desk.targets.toml": targets.encode()}
        own |= {"desk.lock": made.lock.read_bytes()}
        own |= {"ca.crt": (made.targets.parent / "ca.crt").read_bytes()}
        for name, data in own.items():
            machine.put(f"{CHECKOUT}/inventory/{name}", data)
        machine.put(key, machine.ssh_key.read_bytes(), mode=0o600)
        machine.succeed(f"chown -R {USER}: {HOME} && rm -f {TOLD}")
        machine.succeed("apt-get update -q && apt-get install -yq python3-venv", timeout=600)
        machine.put("/root/hook.py", HOOK.encode())
        machine.succeed("systemd-run --unit=hook python3 /root/hook.py")
        yield made


def test_it_tells_of_a_drift_and_of_its_end(on: Stage) -> None:
    machine = on.machine
    offline = "PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels"
    words = "bin/homeport drift inventory/desk.py --every 10s --unit"
    unit = as_user(on, f"{offline} {words} 2>/dev/null")
    assert f"User={USER}\n" in unit
    machine.put(f"/etc/systemd/system/{UNIT}.service", f"{unit}\n".encode())
    address = f"HOMEPORT_TELL=http://127.0.0.1:9000/{TOKEN}\n"
    machine.put(f"/etc/{UNIT}.env", address.encode(), mode=0o600)
    machine.succeed(f"systemctl daemon-reload && systemctl enable --now {UNIT}")
    known = f"ls /var/cache/{UNIT}/homeport/facts/*"
    machine.wait_until(f"{known} 2>/dev/null", timeout=60, what="the watch has checked nothing")
    machine.fail(f"test -s {TOLD}")
    machine.succeed("timedatectl set-timezone Europe/Rome")
    machine.wait_until(f"grep -q drift {TOLD}", timeout=60, what="the drift was not told")
    machine.succeed("timedatectl set-timezone Etc/UTC")
    machine.wait_until(f"tail -n 1 {TOLD} | grep -q clean", timeout=60, what="nor its end")
    assert len(machine.succeed(f"cat {TOLD}").splitlines()) == 2
    assert machine.succeed(f"systemctl show -P NRestarts {UNIT}") == "0"
    assert machine.succeed(f"systemctl is-active {UNIT}") == "active"
    said = machine.succeed(f"journalctl -u {UNIT} --no-pager; systemctl show {UNIT}")
    assert TOKEN not in said
