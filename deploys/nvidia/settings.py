"""The operations on the cards: what is refused, what is set, and what is taken back."""

import shlex
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from deploys.nvidia.facts import DriverState, NvidiaState
from deploys.nvidia.packages import APT_FILES, HEADER, KEY
from deploys.nvidia.spec import Card, Nvidia
from homeport import own_files
from homeport.differs import Pair, differs, listed
from homeport.observe import act
from homeport.refuse import refuse
from homeport.waiting import waits
from homeport_node.nvidia import PERSISTENCED, UNIT, WANTED, reboot_reasons
from homeport_node.nvidia_settings import STEP_MHZ, out_of_range

UNIT_SOURCE = Path(__file__).resolve().parents[2] / "files/nvidia" / UNIT
UNIT_FILE = f"/etc/systemd/system/{UNIT}"
DROP_IN = f"/etc/systemd/system/{PERSISTENCED}.d/homeport.conf"
OWN_FILES = (WANTED, UNIT_FILE, DROP_IN)
# Ubuntu's unit has it: the daemon runs, and keeps nothing.
SWITCHED_OFF = "--no-persistence-mode"

Commands = Generator[Any, None, None]


def observed_cards() -> dict[str, Any]:
    """The cards, our files and units, as they are."""
    state: dict[str, Any] = host.get_fact(NvidiaState, files=[*OWN_FILES])
    return state


def excess(spec: Nvidia, observed: dict[str, Any]) -> list[str]:
    """What the inventory asks of the cards that are there and they do not allow, in words."""
    there = {card["uuid"]: card for card in observed.get("cards", ())}
    return [
        f"nvidia.cards: {card.name}: {words}"
        for card in spec.cards
        if card.gpu.uuid in there
        for words in out_of_range(spec.settings[card.gpu.uuid], there[card.gpu.uuid])
    ]


def unreachable(spec: Nvidia, observed: dict[str, Any]) -> tuple[str, str] | None:
    """(cause, remedy) when a card of the inventory cannot be asked, else None."""
    waits = reboot_reasons(observed)
    if observed["mismatch"] or (observed["error"] and waits):
        mismatch = ["driver/library version mismatch"] if observed["mismatch"] else []
        return (
            f"the driver does not answer: {observed['error']}: {'; '.join([*mismatch, *waits])}",
            "reboot the node; held packages (nvidia.driver other than 'none') stay as they are",
        )
    if observed["error"]:
        return (
            f"the driver does not answer: {observed['error']}",
            "`journalctl -k -g 'nvidia|NVRM|Loading of|Lockdown'` on the node says why; a module "
            "that was installed in this run may need a reboot",
        )
    there = [card["uuid"] for card in observed["cards"]]
    absent = [card.name for card in spec.cards if card.gpu.uuid not in there]
    if not absent:
        return None
    others = listed([*there, *observed["lost"]])
    return (
        f"nvidia.cards: the driver does not list {', '.join(absent)}; it lists: {others}",
        "a card that was there has fallen off the bus (`journalctl -k -g 'Xid|NVRM'`): cut its "
        "power; else put what `bin/homeport probe` prints into the targets file",
    )


def drop_in(packaged: str) -> str:
    """The text that has the daemon start as `packaged`, with persistence."""
    start = " ".join(word for word in packaged.split() if word != SWITCHED_OFF)
    # Nothing else wants it between two boots, and this keeps the state of cards.
    return f"{HEADER}[Unit]\nStopWhenUnneeded=no\n\n[Service]\nExecStart=\nExecStart={start}\n"


def wanted_files(spec: Nvidia, observed: dict[str, Any]) -> dict[str, str]:
    """{path: text} of our files."""
    texts = {WANTED: spec.settings_text, UNIT_FILE: UNIT_SOURCE.read_text()}
    packaged = observed["units"].get(PERSISTENCED, {}).get("packaged", "")
    if spec.persistence and SWITCHED_OFF in packaged:
        texts[DROP_IN] = drop_in(packaged)
    return texts


def card_words(card: Card, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of one card. Locked clocks can be read nowhere: of them it counts what was
    applied since the boot, and a clock above them."""
    there = next((one for one in observed["cards"] if one["uuid"] == card.gpu.uuid), None)
    if there is None:
        yield Pair(f"{card.name}: listed by the driver", "not listed")
        return
    power = there["power_w"]
    if card.power_limit is not None and (power is None or abs(power - card.power_limit) >= 1):
        found = "not known" if power is None else f"{power:g} W"
        yield Pair(f"{card.name}: power limit {card.power_limit} W", found)
    if card.locked_clocks is not None:
        least, most = card.locked_clocks
        wanted = f"{card.name}: clocks locked to {least} to {most} MHz"
        applied = observed["applied"].get(card.gpu.uuid, {}).get("locked_clocks")
        clock = there["clock_mhz"] or 0
        if applied != [least, most]:
            yield Pair(wanted, f"{applied[0]} to {applied[1]} MHz" if applied else "not since boot")
        elif clock > most + STEP_MHZ:
            yield Pair(wanted, f"runs at {clock} MHz")


def stray(spec: Nvidia, observed: dict[str, Any]) -> list[Pair]:
    """Cards that carry what the inventory no longer asks for."""
    wanted = spec.settings
    return [
        Pair(f"{one['handle']} ({uuid}): {what}: the card's own", "set by Homeport")
        for uuid, one in observed["applied"].items()
        for what in ("power_limit", "locked_clocks")
        if one.get(what) and not wanted.get(uuid, {}).get(what)
    ]


def sleeping(spec: Nvidia, observed: dict[str, Any]) -> list[str]:
    """The cards whose state the driver does not keep, though it should."""
    return [
        card["uuid"] for card in observed["cards"] if spec.persistence and not card["persistence"]
    ]


def unit_words(spec: Nvidia, observed: dict[str, Any]) -> Iterator[Pair]:
    """What differs of the units."""
    for name, one in observed["units"].items():
        if one["stale"]:
            yield Pair(f"{name}: as its files say", "as they said before")
    unit = observed["units"].get(UNIT, {})
    if not unit.get("enabled") or not unit.get("active"):
        states = [word for word in ("enabled", "active") if unit.get(word)]
        yield Pair(f"{UNIT}: enabled, active", ", ".join(states) or "neither")
    for uuid in sleeping(spec, observed):
        yield Pair(f"{uuid}: persistence mode on", "off")


def commands(spec: Nvidia, observed: dict[str, Any], changed: set[str]) -> list[str]:
    """What brings units and cards to the files, once the files at `changed` are written."""
    units = observed["units"]
    found = []
    if changed - {WANTED} or any(unit["stale"] for unit in units.values()):
        found.append("systemctl daemon-reload")
    if not units.get(UNIT, {}).get("enabled"):
        found.append(f"systemctl enable {UNIT}")
    if DROP_IN in changed or sleeping(spec, observed):
        found.append(f"systemctl restart {PERSISTENCED}")  # takes our unit along
    differ = [*stray(spec, observed), *(p for c in spec.cards for p in card_words(c, observed))]
    sleepers = sleeping(spec, observed)
    if differ or changed or sleepers or not units.get(UNIT, {}).get("active"):
        # A failure says what the program aboard said, not where to read it.
        found.append(
            f"systemctl reload-or-restart {UNIT} || "
            f"{{ journalctl -u {UNIT} -n 6 -o cat --no-pager >&2; exit 1; }}"
        )
    return found


def _remove(paths: list[str]) -> StringCommand:
    folder = shlex.quote(str(Path(DROP_IN).parent))
    tidy = f"; rmdir {folder} 2>/dev/null || true" if DROP_IN in paths else ""
    return StringCommand(f"rm -f {shlex.join(paths)}{tidy}")


@operation()
def known(handles: tuple[str, ...], fill: str) -> Commands:
    """The targets file says which GPU each of `handles` is; the command `fill` has it do so."""
    observed = observed_cards()
    there = observed.get("cards", ())
    found = f"knows {listed(card['uuid'] for card in there)}" if there else "does not answer yet"
    remedy = f"`{fill}`, then converge again"
    yield refuse(
        f"gpus: {listed(handles)}: no UUID in the targets file, and the driver {found}",
        remedy if there else f"converge, which installs it and reboots; then {remedy}",
        wanted="every GPU of the inventory has a UUID in the targets file",
        at_desk=True,
    )


@operation()
def within_limits(spec: Nvidia) -> Commands:
    """Refuse what the cards do not allow, before anything is changed."""
    faults = excess(spec, observed_cards())
    if faults:
        yield refuse("; ".join(faults), "give what the card allows")
    else:
        host.noop("the cards that are there allow what is asked")


@operation()
def configured(spec: Nvidia, deferred: bool = False) -> Commands:
    """Write our files, start our unit, and see that every card is as wanted.

    `deferred`: the reboot that the driver may wait for is put off; the end of the run says so.
    """
    observed = observed_cards()
    problem = unreachable(spec, observed)
    reasons = reboot_reasons(observed)
    if problem and reasons and deferred:
        waits(host.name, Nvidia.STEM, "; ".join(reasons))
        host.noop("a reboot waits")
        return
    if problem:
        names = listed((card.name for card in spec.cards), otherwise="those that are there")
        yield refuse(*problem, wanted=f"the driver answers for the GPUs: {names}")
        return
    masked = spec.persistence and observed["units"].get(PERSISTENCED, {}).get("masked")
    if masked:
        # The cards are awake until the next boot, where nobody would wake them. What its unit says
        # shows only then.
        differs([Pair(f"{PERSISTENCED}: not masked", "masked")])
        yield StringCommand(
            f"systemctl unmask {PERSISTENCED}; systemctl unmask --runtime {PERSISTENCED}"
        )
        observed = observed_cards()
    wanted, found = wanted_files(spec, observed), observed["files"]
    write, remove = own_files.changes(wanted, found)
    differs(own_files.words(wanted, found))
    differs(unit_words(spec, observed))
    for card in spec.cards:
        differs(card_words(card, observed))
    differs(stray(spec, observed))
    for path, text in write.items():
        yield from own_files.put(path, text)
    if remove:
        yield _remove(remove)
    todo = commands(spec, observed, {*write, *remove})
    for command in todo:
        yield StringCommand(command)
    unit = observed["units"].get(UNIT, {})
    foreign = own_files.foreign_dropins(UNIT, unit.get("dropins", ()))
    yield from foreign
    if not write and not remove and not todo:
        if not masked and not foreign:
            host.noop("the cards are as wanted")
        return
    # The unit fails when a setter did nothing; nothing but a look tells of the persistence mode.
    still = sleeping(spec, observed_cards())
    if still:
        yield refuse(
            f"persistence mode is still off on {listed(still)}, with {PERSISTENCED} started anew",
            f"`journalctl -u {PERSISTENCED}` on the node",
        )


@operation()
def removed() -> Commands:
    """Take back what this capability put on the node and on the cards; the driver stays."""
    ours: dict[str, Any] = host.get_fact(
        DriverState, files=[*OWN_FILES, *APT_FILES], key=KEY, whole=False
    )
    paths = [*ours.get("files", {}), *([KEY] if ours.get("key") else [])]
    held = ours.get("held_by_us")
    if not paths and not held:
        host.noop("there is nothing of ours")
        return
    differs(own_files.no_longer(paths))
    if held:
        differs([Pair(f"packages not held by Homeport: {listed(held)}", "held")])
    if UNIT_FILE in paths:
        yield StringCommand(f"systemctl disable --now {UNIT}")  # which takes back the settings
    if paths:
        yield _remove(paths)
        yield StringCommand("systemctl daemon-reload")
    if DROP_IN in paths:
        yield StringCommand(f"systemctl try-restart {PERSISTENCED}")
    if held:
        yield act("nvidia_driver", "release")
