"""A lab machine with two simulated GPUs, from bare to as wanted, broken, healed, and given back.

The driver's packages are not exercised: there is nothing to load. What is: the bindings in the
programs aboard, against a library that keeps state and fails on demand; the units; the reboot.
"""

import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from homeport.lab import desk
from homeport.lab.stage import Stage, stage
from homeport_node.nvidia import APPLIED, PERSISTENCED, UNIT, WANTED
from tests.nvidia.test_aboard import RECORDED
from tests.nvidia.test_node import ASK

pytestmark = pytest.mark.container

INVENTORY = """\
from deploys.node import Node
from deploys.nvidia import Card, Nvidia
from homeport.inventory import inventory
from homeport.pins import gpu

LEFT = Card(gpu=gpu("left"), power_limit=200, locked_clocks=(300, 1800))
RIGHT = Card(gpu=gpu("right"), power_limit=150)
NODE = Node(name="cards", nvidia=Nvidia(cards=(LEFT, RIGHT)))

hosts = inventory(__file__, cards=NODE)
"""
# As whoever is root there would, with the bindings in the programs aboard.
PYTHON = "/opt/homeport/current/bin/python"
SET = f"""{PYTHON} - <<'END'
import pynvml
pynvml.nvmlInit()
for index in range(pynvml.nvmlDeviceGetCount()):
    card = pynvml.nvmlDeviceGetHandleByIndex(index)
    if pynvml.nvmlDeviceGetUUID(card) == "%s":
        pynvml.nvmlDeviceSetPowerManagementLimit(card, %d * 1000)
END"""
CALL = """import json, pynvml
def call(name):
    try:
        return getattr(pynvml, name)()
    except pynvml.NVMLError as error:
        return error.value
print(json.dumps([call(name) for name in %r]))
"""


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("x") / "inventory"
    folder.mkdir()
    path = folder / "cards.py"
    path.write_text(INVENTORY)
    with stage(path) as on:
        yield on


def other(on: Stage, name: str, was: str, now: str) -> Stage:
    """The same machine under another inventory."""
    path = on.inventory.with_name(f"{name}.py")
    assert was in INVENTORY
    path.write_text(INVENTORY.replace(was, now))
    return dataclasses.replace(on, inventory=path)


def refused(on: Stage) -> str:
    done = desk.homeport(on, "converge", str(on.inventory))
    said = done.stdout + done.stderr
    assert done.returncode == 1, said
    assert "Traceback" not in said
    return " ".join(said.split())


def drift(on: Stage) -> dict[str, str]:
    """{what is wanted: what is there}"""
    to = on.directory / "drift.json"
    done = desk.homeport(on, "drift", str(on.inventory), "--json", str(to))
    (host,) = json.loads(to.read_text())["hosts"]
    pairs = [pair for one in host["drift"] for pair in one["differs"]]
    assert done.returncode == (2 if host["drift"] else 0), done.stderr
    return {pair["wanted"]: pair["there"] for pair in pairs}


def cards(on: Stage) -> dict[str, tuple[float, bool]]:
    """{handle: (power limit in W, persistence mode)}, as the driver says."""
    handles = {gpu.uuid: gpu.handle for gpu in on.machine.gpus}
    found: dict[str, Any] = json.loads(on.machine.succeed(ASK))
    return {handles[c["uuid"]]: (c["power_w"], c["persistence"]) for c in found["cards"]}


def state(on: Stage) -> str:
    """Packages and files of a machine that a refused run must not have touched."""
    return on.machine.succeed("dpkg -l; find /etc /opt /var/lib/homeport -type f 2>&1 | sort")


AS_WANTED = {"left": (200.0, True), "right": (150.0, True)}


def test_a_limit_that_a_card_does_not_allow_is_refused_on_the_bare_machine(bare: Stage) -> None:
    before = state(bare)
    said = refused(other(bare, "greedy", "power_limit=200", "power_limit=300"))
    left, _ = bare.machine.gpus
    assert f"left ({left.uuid}): power_limit 300 W; the card allows 100 to 280 W" in said
    assert state(bare) == before


def test_gpus_that_nobody_could_name_yet_stop_the_run_when_their_driver_is_there(
    bare: Stage,
) -> None:
    filled = bare.targets.read_text()
    bare.targets.write_text(re.sub('"GPU-[^"]+"', '""', filled))
    said = refused(bare)
    bare.targets.write_text(filled)
    uuids = ", ".join(sorted(gpu.uuid for gpu in bare.machine.gpus))
    assert f"gpus: left, right: no UUID in the targets file, and the driver knows {uuids}" in said
    assert f"probe {bare.machine.address} --key {bare.machine.ssh_key} --name cards" in said
    bare.machine.succeed(f"test ! -e {WANTED} -a ! -e /opt/homeport/current")


@pytest.fixture(scope="module")
def on(bare: Stage) -> Stage:
    """The machine, converged once."""
    made = desk.converge(bare, quiet=True)
    (host,) = made["hosts"]
    assert [one["capability"] for one in host["not_exercised"]] == ["nvidia"]
    return bare


def test_it_is_as_wanted_and_stays_so(on: Stage) -> None:
    assert cards(on) == AS_WANTED
    assert desk.converge(on, quiet=True)["changed"] == 0
    assert desk.pending(on) == []
    done = desk.homeport(on, "verify", str(on.inventory), "-k", "nvidia")
    assert done.returncode == 0, done.stdout + done.stderr
    on.machine.reboot()
    on.machine.wait_for_unit(UNIT)
    assert cards(on) == AS_WANTED
    assert drift(on) == {}


def test_what_somebody_changed_is_named_and_healed(on: Stage) -> None:
    left, right = on.machine.gpus
    on.machine.succeed(SET % (left.uuid, 250))
    assert drift(on) == {f"left ({left.uuid}): power limit 200 W": "250 W"}
    desk.converge(on, quiet=True)
    on.machine.succeed(f"systemctl stop {PERSISTENCED}")
    found = drift(on)
    assert found[f"{UNIT}: enabled, active"] == "enabled"
    assert found[f"{right.uuid}: persistence mode on"] == "off"
    assert found[f"right ({right.uuid}): power limit 150 W"] == "250 W"
    desk.converge(on, quiet=True)
    assert cards(on) == AS_WANTED
    assert drift(on) == {}


def test_the_simulation_is_held_to_what_a_real_library_said(on: Stage) -> None:
    """The one recording that there is: a real library on a machine without a driver."""
    recorded: list[list[Any]] = json.loads(RECORDED.read_text())["without_a_driver"]
    table = "/usr/lib/simulated-gpu/gpus"
    said = on.machine.succeed(
        f"mv {table} {table}.away; {PYTHON} - <<'END'\n{CALL % [name for name, _ in recorded]}END\n"
        f"status=$?; mv {table}.away {table}; exit $status"
    )
    assert json.loads(said) == [answer for _, answer in recorded]


def test_a_card_that_was_given_to_a_virtual_machine_is_not_listed(on: Stage) -> None:
    """As /sys would say it on a machine with a kernel of its own."""
    _, right = on.machine.gpus
    root, table = "/tmp/away", "/usr/lib/simulated-gpu"
    device = f"{root}/sys/bus/pci/devices/ffff:01:00.0"
    made = f"mkdir -p {root}{table} {root}/run {device} && cp {table}/gpus {root}{table}/gpus"
    on.machine.succeed(f"{made} && ln -s ../../drivers/vfio-pci {device}/driver")
    found = json.loads(on.machine.succeed(f"SIMULATED_GPU_ROOT={root} {ASK}"))
    assert [card["uuid"] for card in found["cards"]] == [right.uuid]


def test_failures_of_cards_and_driver_are_named(on: Stage) -> None:
    left, right = on.machine.gpus
    on.machine.succeed(SET % (left.uuid, 250))
    on.machine.gpu_faults(f"{left.uuid} silent")
    said = refused(on)
    assert f"left ({left.uuid}): power limit: the driver accepted 200 W, and reads 250 W" in said
    on.machine.gpu_faults(f"{right.uuid} lost")
    said = refused(on)
    assert f"does not list right ({right.uuid})" in said
    assert "GPU 1: GPU is lost" in said
    on.machine.gpu_faults("* mismatch")
    assert "driver/library version mismatch" in refused(on)
    on.machine.gpu_faults()
    on.machine.unplug("right")
    assert f"does not list right ({right.uuid})" in refused(on)
    on.machine.plug_all()
    desk.converge(on, quiet=True)
    assert cards(on) == AS_WANTED


def test_what_is_dropped_is_given_back(on: Stage) -> None:
    fewer = other(on, "fewer", "(LEFT, RIGHT)", "(LEFT,)")
    desk.converge(fewer, quiet=True)
    assert cards(on) == {**AS_WANTED, "right": (250.0, True)}
    none = other(on, "none", "nvidia=Nvidia(cards=(LEFT, RIGHT))", "")
    desk.converge(none, quiet=True)
    for path in ("/opt/homeport", WANTED, APPLIED, f"/etc/systemd/system/{UNIT}"):
        on.machine.fail(f"test -e {path}")
    # Nobody is left to ask: what the simulated driver remembers last of each card.
    last = {}
    for line in on.machine.succeed("cat /run/simulated-gpu/settings").splitlines():
        uuid, *values = line.split("|")
        last[uuid] = [values[0], *values[2:]]
    assert last == {gpu.uuid: ["250000", "0", "0"] for gpu in on.machine.gpus}
    assert desk.converge(none, quiet=True)["changed"] == 0
