"""The hotspot on a machine with radios, from a Wi-Fi client's seat. In this order, on one machine.

The access point is NetworkManager's, the radios are the kernel's (mac80211_hwsim).
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploys.hotspot import NAMES_FILE, OWN_FILES
from homeport.lab import LabError, StepFailed
from homeport.lab.desk import converge, homeport
from homeport.lab.stage import Stage, stage
from homeport.lab.vm import seat
from homeport.lab.vm.client import Client
from homeport.lab.vm.machine import VirtualMachine
from homeport.network_change import AFTERWARDS, SECONDS
from homeport_node.hotspot import CONNECTION, PROFILE
from homeport_node.network_change import CHANGE
from tests.hotspot.seat import SEAT
from tests.lab.box import HARDWARE

pytestmark = pytest.mark.machine

HERE = Path(__file__).parent
UP = f"nmcli -g GENERAL.STATE connection show {CONNECTION} | grep -qx activated"

# The desk's network goes, once: as when it and the hotspot were on one radio.
CUT = "[ ! -e /run/lab-cut ] && touch /run/lab-cut && sleep {after} && ip link set dev {link} down"
# A script of NetworkManager's dispatcher, see NetworkManager-dispatcher(8).
CUT_FILE = "/etc/NetworkManager/dispatcher.d/50-lab-cut"
# Found before systemd's own.
BEFORE_FILE = "/usr/local/bin/systemd-run"
# When it goes, with the seconds after the event that tells that the hotspot is up; None: as the
# node begins the change, of which its answer can say nothing any more.
CUTS = {
    "as it comes up": 0,
    "after it is up": 3,
    "before the node has answered": None,
}
# The soak has the others.
AT_ONCE = ("as it comes up",)


@pytest.fixture(scope="module")
def built() -> Iterator[Stage]:
    """The machine, converged once."""
    with stage(HERE / "seat_with.py", on="machine", hardware=HARDWARE) as made:
        converge(made)
        yield made


@pytest.fixture
def machine(built: Stage) -> VirtualMachine:
    assert isinstance(built.machine, VirtualMachine)
    return built.machine


def test_a_client_finds_what_the_inventory_says(built: Stage, machine: VirtualMachine) -> None:
    said = seat.hotspot_seat(built, machine, SEAT)
    assert "2 names lead to 10.42.0.1, and no query for them goes upstream" in said
    assert "2 certificates verify with the node's CA alone" in said
    assert "only ports [22, 53, 80, 443] answer" in said


def test_a_second_converge_changes_nothing(built: Stage) -> None:
    assert converge(built)["changed"] == 0


def test_a_leak_upstream_is_seen(built: Stage, machine: VirtualMachine) -> None:
    """Without `local=`, queries of other types are forwarded: the check must go red."""
    machine.succeed(f"sed -i /^local=/d {NAMES_FILE}")
    machine.succeed(f"nmcli connection down {CONNECTION}; nmcli connection up {CONNECTION}")
    client = Client(machine)
    client.join(SEAT.hotspot.ssid, psk(machine))  # type: ignore[union-attr]
    try:
        with pytest.raises(StepFailed, match="queries went upstream: .*type 65"):
            seat.names(built, machine, client, SEAT)
    finally:
        client.leave()


def test_a_removed_names_file_is_named_and_comes_back(
    built: Stage, machine: VirtualMachine
) -> None:
    machine.succeed(f"rm {NAMES_FILE}")
    found = homeport(built, "drift", str(built.inventory))
    assert found.returncode == 2, found.stdout + found.stderr
    assert f"wanted  {NAMES_FILE}: sha256" in found.stderr
    assert converge(built)["changed"] > 0
    client = Client(machine)
    client.join(SEAT.hotspot.ssid, psk(machine))  # type: ignore[union-attr]
    try:
        seat.names(built, machine, client, SEAT)
    finally:
        client.leave()


@pytest.mark.parametrize(
    "when", [pytest.param(one, marks=() if one in AT_ONCE else pytest.mark.soak) for one in CUTS]
)
def test_a_change_that_cuts_the_connection_takes_itself_back(
    built: Stage, machine: VirtualMachine, when: str
) -> None:
    (route,) = json.loads(machine.succeed("ip -json route get 192.0.2.1"))
    after = CUTS[when]
    cut = CUT.format(after=after or 0, link=route["dev"])
    if after is None:
        begins = f"case $* in *--unit={CHANGE}*) {cut} ;; esac"
        script = f'#!/bin/sh\n{begins}\nexec /usr/bin/systemd-run "$@"\n'
        machine.put(BEFORE_FILE, script.encode(), mode=0o755)
    else:
        script = f'#!/bin/sh\n[ "$2" = up ] && {cut}\nexit 0\n'
        machine.put(CUT_FILE, script.encode(), mode=0o755)
    machine.succeed(f"rm -f {NAMES_FILE} /run/lab-cut")
    began = time.monotonic()
    try:
        done = homeport(built, "converge", str(built.inventory))
        took = time.monotonic() - began
        assert done.returncode == 1
        said = done.stdout + done.stderr
        assert "cut the connection to seat" in said, said
        assert "the change was taken back" in said, said
        machine.succeed("test -e /run/lab-cut")  # it was cut indeed
        # The run's own steps, then the time that is stated, then a new connection.
        assert took < SECONDS + AFTERWARDS + 60 * machine.patience
    finally:
        machine.run(f"rm -f {CUT_FILE} {BEFORE_FILE} && sync")
    machine.wait_for_open_port(22)
    converge(built)
    assert converge(built)["changed"] == 0


def test_it_is_back_by_itself_after_a_power_cut(built: Stage, machine: VirtualMachine) -> None:
    machine.power_cut()
    machine.start()
    machine.wait_until(UP, timeout=60, what="the hotspot does not come back")
    client = Client(machine)
    try:
        seat.joined(client, SEAT, psk(machine))
        assert client.resolve(SEAT.names[0]).data == ("10.42.0.1",)
    finally:
        client.leave()
    assert converge(built)["changed"] == 0


def test_an_inventory_without_it_takes_it_back(built: Stage, machine: VirtualMachine) -> None:
    without = dataclasses.replace(built, inventory=HERE / "seat_without.py")
    assert converge(without)["changed"] > 0
    for path in (PROFILE, *OWN_FILES):
        machine.fail(f"test -e {path}")
    machine.fail("systemctl is-active NetworkManager.service")
    machine.fail("systemctl is-enabled NetworkManager.service")
    machine.fail("ip -4 -br address | grep -F 10.42.0.1/")
    with pytest.raises(LabError, match="no network joined"):
        Client(machine).join(SEAT.hotspot.ssid, "whatever it was", timeout=5)  # type: ignore[union-attr]
    Client(machine).leave()
    assert converge(without)["changed"] == 0


def psk(machine: VirtualMachine) -> str:
    """The passphrase that the node made."""
    return machine.succeed("cat /etc/homeport/secrets/hotspot.psk")
