"""VFIO: which device a card is, what is refused, what is written, and what waits for a boot."""

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploys.node import Node
from deploys.vfio import Vfio, VfioState
from deploys.vfio.difference import (
    FROM,
    MODES,
    images_to_make,
    impossible,
    modprobe_text,
    wanted_files,
    wanted_mark,
)
from deploys.vfio.operations import configuration, initramfs, owned, removed
from homeport import own_files
from homeport.inventory import handles_of, unbound, without_lacking
from homeport.lock import Lock
from homeport.pins import Card, bind, card
from homeport.spec import SpecError
from homeport.targets import PciCard, Target, read_targets
from homeport_node import probe
from homeport_node import vfio as aboard
from homeport_node.common import Ran
from homeport_node.vfio import CARDS
from tests.operations import THEIRS, Words, as_put, is_refusal, not_ours, yielded
from tests.vfio.tree import BOARD, GPU, LEFT, MOVED, RIGHT, SHIFTED, TWINS, Function, build, port

PLACES = {"left": "pci0000:00/01.0/00.0", "right": "pci0000:00/1c.0/00.0"}
PCI = {name: PciCard(id=GPU, subsystem=BOARD, place=place) for name, place in PLACES.items()}
SPEC = Vfio(cards=(Card(handle="right", pci=PCI["right"], others={"left": PCI["left"]}),))
BY_IDS = dataclasses.replace(SPEC, by="ids")
BOTH = Vfio(
    cards=tuple(
        Card(handle=name, pci=PCI[name], others={other: PCI[other]})
        for name, other in (("left", "right"), ("right", "left"))
    ),
    by="ids",
)
VERSION = "6.12.48+deb13-amd64"
NATIVE = {"10de1e07": ["nouveau"], "10de10f7": ["snd_hda_intel"]}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's files and sysfs below a folder: nothing of ours, no kernel in /boot."""
    for name in ("LOG", "RELEASED", "LISTED"):
        monkeypatch.setattr(aboard, name, str(tmp_path / name.lower()))
    moved = {path: str(tmp_path / path.lstrip("/")) for path in aboard.OWN_FILES}
    monkeypatch.setattr(aboard, "OWN_FILES", tuple(moved.values()))
    monkeypatch.setattr(aboard, "CARDS", moved[aboard.CARDS])
    monkeypatch.setattr(aboard, "native_modules", lambda alias: NATIVE.get(_digits(alias), []))
    monkeypatch.setattr(aboard, "_images", lambda native: {})
    return tmp_path


def _digits(alias: str) -> str:
    return alias.replace("pci:v0000", "").replace("d0000", "")


def seen(tmp_path: Path, functions: list[Function], spec: Vfio | None = SPEC) -> dict[str, Any]:
    """What the node's program says of a machine with these functions."""
    root = build(tmp_path / "sys", functions)
    found = aboard.observe(cards=spec.named() if spec else [], sys=str(root))
    return {**found, "initramfs_tools": True}


def changed(functions: list[Function], address: str, **fields: Any) -> list[Function]:
    """`functions` with one of them otherwise; "1f.*" stands for all whose address begins so."""
    names = [one for one in functions if one.address.startswith(address.rstrip("*"))]
    return [dataclasses.replace(one, **fields) if one in names else one for one in functions]


GIVEN = changed(TWINS, "0000:02:*", driver="vfio-pci")

# At the desk -------------------------------------------------------------------------------------


@pytest.mark.parametrize("cards", [(), (card("right"), card("right"))])
def test_wrong_input_names_its_field(cards: tuple[Card, ...]) -> None:
    with pytest.raises(SpecError, match=r"vfio\.cards: .*must name"):
        Vfio(cards=cards)


def test_another_mechanism_is_refused() -> None:
    with pytest.raises(SpecError, match=r"vfio\.by: 'address' must"):
        Vfio(cards=(card("right"),), by="address")  # type: ignore[arg-type]


def test_a_card_is_given_or_kept() -> None:
    iona: Any = unbound(FROM.parents[1] / "inventory/iona.py")["iona"]
    assert dataclasses.replace(iona, vfio=Vfio(cards=(card("third"),))).vfio is not None
    with pytest.raises(SpecError, match=r"vfio\.cards: 'right' must not .* llama_server uses it"):
        dataclasses.replace(iona, vfio=Vfio(cards=(card("right"),)))


def test_the_targets_say_what_a_card_is() -> None:
    target = Target(name="n", address="192.0.2.1", host_key="ssh-ed25519 A", pci=PCI)
    bound = bind(Node(name="n", vfio=Vfio(cards=(card("right"),))), target, Lock())
    assert bound.vfio is not None
    assert bound.vfio.named() == SPEC.named()
    with pytest.raises(SpecError, match=r"pci\.third: .*`bin/homeport probe`"):
        bind(Vfio(cards=(card("third"),)), target, Lock())


def test_a_machine_without_an_iommu_does_without_it() -> None:
    target = Target(
        name="n", address="192.0.2.1", host_key="ssh-ed25519 A", lacks={"iommu": "a container"}
    )
    carried, missing = without_lacking(Node(name="n", vfio=SPEC), target)
    assert carried.vfio is None
    assert [(one.capability, one.reason) for one in missing] == [("vfio", "no iommu: a container")]


def test_the_probe_is_told_which_cards_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "n.py"
    path.write_text(
        "from deploys.node import Node\nfrom deploys.vfio import Vfio\n"
        "from homeport.inventory import inventory\nfrom homeport.pins import card\n"
        "hosts = inventory(__file__, n=Node(name='n', vfio=Vfio(cards=(card('right'),))))\n"
    )
    assert handles_of(unbound(path)["n"]) == {"gpus": [], "cards": ["right"], "radios": []}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"id": "0x10de:1e07"}, "hosts.n.pci.left.id: '0x10de:1e07' must be two numbers in hex"),
        ({"subsystem": ""}, "hosts.n.pci.left.subsystem: '' must be two numbers in hex"),
        ({"place": "00:01.0 00.0"}, "hosts.n.pci.left.place: '00:01.0 00.0' must be a root bus"),
        ({"address": "01:00.0"}, "hosts.n.pci.left.address: '01:00.0' must be a PCI address"),
        ({"slot": "1"}, "hosts.n.pci.left.slot"),
    ],
)
def test_wrong_targets_are_refused(tmp_path: Path, fields: dict[str, str], words: str) -> None:
    good = {"id": GPU, "subsystem": BOARD, "place": PLACES["left"]}
    lines = [f'{name} = "{value}"' for name, value in {**good, **fields}.items()]
    path = tmp_path / "t.toml"
    path.write_text(
        '[hosts.n]\naddress="a"\nhost_key="ssh-ed25519 A"\n[hosts.n.pci.left]\n' + "\n".join(lines)
    )
    with pytest.raises(SpecError) as caught:
        read_targets(path)
    assert words in str(caught.value)


def test_two_cards_are_not_in_one_place() -> None:
    with pytest.raises(SpecError, match=r"target\.pci: .* must name each place once"):
        Target(
            name="n",
            address="192.0.2.1",
            host_key="ssh-ed25519 A",
            pci={"left": PCI["left"], "right": PCI["left"]},
        )


# Which device a card is --------------------------------------------------------------------------

ONLY_RIGHT = Vfio(cards=(Card(handle="right", pci=PCI["right"]),))
IN_LEFT = [*LEFT, port("0000:00:1c.0", "2")]
# (what the machine has, what the targets name, the right card's address or what is said of it)
CASES: list[tuple[str, list[Function], Vfio, str]] = [
    ("as it was", TWINS, SPEC, "0000:02:00.0"),
    ("another bus", SHIFTED, SPEC, "0000:03:00.0"),
    ("both moved by one port", MOVED, SPEC, "nothing is at pci0000:00/01.0/00.0"),
    ("the given one is gone", IN_LEFT, SPEC, "nothing is at pci0000:00/1c.0/00.0"),
    ("the kept one is gone", RIGHT, SPEC, "nothing is at pci0000:00/01.0/00.0, where 'left'"),
    ("a twin that nobody names", TWINS, ONLY_RIGHT, "0000:01:00.0 at pci0000:00/01.0/00.0 is the"),
    ("alone of its kind", RIGHT, ONLY_RIGHT, "0000:02:00.0"),
    (
        "another card of its kind came",
        [*TWINS, port("0000:00:1d.0", "5"), dataclasses.replace(
            RIGHT[1], path="0000:00:1d.0/0000:05:00.0", group="5")],
        SPEC,
        "0000:05:00.0 at pci0000:00/1d.0/00.0 is the same kind",
    ),
    (
        "another maker's board",
        changed(TWINS, "0000:02:00.0", subsystem="1043:866a"),
        SPEC,
        "10de:1e07, subsystem 1043:866a, is at pci0000:00/1c.0/00.0",
    ),
    (
        "another card in the slot",
        changed(TWINS, "0000:02:00.0", id="10de:2204"),
        SPEC,
        "10de:2204, subsystem 1462:3711, is at pci0000:00/1c.0/00.0",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("functions", "spec", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_which_device_a_card_is(
    node: Path, functions: list[Function], spec: Vfio, words: str
) -> None:
    right = seen(node, functions, spec)["cards"]["right"]
    if words.startswith("0000:0") and " " not in words:
        assert (right["address"], right["problem"]) == (words, "")
        slot = words.removesuffix(".0")
        assert [one["address"] for one in right["functions"]] == [f"{slot}.0", f"{slot}.1"]
    else:
        assert words in right["problem"]
        assert right["functions"] == []


@pytest.mark.parametrize(
    ("functions", "spec", "words"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
@pytest.mark.parametrize("shell", ["sh", "busybox"])
def test_the_early_program_means_the_same_device(
    tmp_path: Path, functions: list[Function], spec: Vfio, words: str, shell: str
) -> None:
    unbound = [one if one.kind == "060400" else dataclasses.replace(one, driver="")
               for one in functions]  # fmt: skip
    root = build(tmp_path / "sys", unbound)
    told = early(tmp_path, root, spec, shell=shell)
    expected = words if words.startswith("0000:0") and " " not in words else ""
    slot = expected.removesuffix(".0")
    assert overridden(root) == ([f"{slot}.0", f"{slot}.1"] if slot else [])
    assert ("right stays with the host: " in told) is not bool(slot)


def early(tmp_path: Path, root: Path, spec: Vfio, *, shell: str = "sh", stage: str = "unit") -> str:
    """Run the early program over the sysfs at `root` with a modprobe of ours; its log's text."""
    words = {"sh": ["sh"], "busybox": ["busybox", "sh"]}[shell]
    cards = tmp_path / "cards"
    cards.write_text(wanted_files(spec, bare())[CARDS])
    log = tmp_path / "log"
    log.unlink(missing_ok=True)
    try:
        done = subprocess.run(
            [*words, str(FROM / "early"), stage, str(cards), str(root), str(log), "true"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip(f"there is no {shell} here")
    assert done.returncode == 0
    assert "not found" not in done.stderr
    return log.read_text()


def overridden(root: Path) -> list[str]:
    """The addresses that the sysfs at `root` reserves for vfio-pci."""
    links = sorted((root / "bus/pci/devices").iterdir())
    return [
        one.name for one in links if (one / "driver_override").read_text().strip() == "vfio-pci"
    ]


def bare(**fields: Any) -> dict[str, Any]:
    """A node where nothing of ours is, and that has no card either."""
    return {**VfioState.absent, **fields}


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (TWINS, "0000:02:00.0 is with nouveau already"),
        (changed(TWINS, "0000:02:00.0", driver=""), "0000:02:00.1 is with snd_hda_intel already"),
        (changed(TWINS, "0000:02:*", driver="", group=""), "0000:02:00.0 has no IOMMU group"),
    ],
)
def test_the_early_program_gives_a_whole_card_or_nothing(
    tmp_path: Path, functions: list[Function], words: str
) -> None:
    root = build(tmp_path / "sys", functions)
    assert words in early(tmp_path, root, SPEC)
    assert overridden(root) == []


def test_the_early_program_says_what_it_gave(tmp_path: Path) -> None:
    root = build(tmp_path / "sys", GIVEN)
    told = early(tmp_path, root, SPEC, stage="initramfs").splitlines()
    mark = aboard.parse_cards(wanted_files(SPEC, bare())[CARDS])[0]
    assert told == [f"tried initramfs {mark}", "gave 0000:02:00.0", "gave 0000:02:00.1"]
    assert overridden(root) == ["0000:02:00.0", "0000:02:00.1"]


def test_by_ids_the_early_program_only_loads_the_driver(tmp_path: Path) -> None:
    root = build(tmp_path / "sys", changed(TWINS, "0000:0", driver=""))
    assert early(tmp_path, root, BY_IDS).startswith("tried unit ")
    assert overridden(root) == []


def test_the_probe_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build(tmp_path / "sys", changed(SHIFTED, "0000:01:00.0", boot_vga=True))
    monkeypatch.setattr(probe, "SYS", root)
    displays = probe._displays()
    assert [one["address"] for one in displays] == ["0000:03:00.0", "0000:01:00.0"]
    whole = {one["address"]: one for one in aboard.survey(str(root))}
    for one in displays:
        assert (
            one.items()
            >= {k: whole[one["address"]][k] for k in ("id", "subsystem", "place")}.items()
        )


def test_a_bus_behind_a_controller_of_its_own_keeps_its_name() -> None:
    real = "/sys/devices/pci0000:00/0000:00:0e.0/pci10000:e0/10000:e0:06.0"
    assert aboard.place(real, "/sys/devices") == "pci0000:00/0e.0/pci10000:e0/06.0"


# What is refused on the node ---------------------------------------------------------------------

NVME = Function("0000:00:1c.0/0000:02:01.0", "144d:a808", "010802", "nvme", "2")
HOST_BRIDGE = Function("0000:00:1c.7", "1022:1482", "060000", "", "2")
IMAGE = {"path": f"/boot/initrd.img-{VERSION}", "mark": "", "conf": False, "native": []}
HELD = {VERSION: {**IMAGE, "native": ["nouveau"]}}


def test_what_can_be_given(node: Path) -> None:
    assert impossible(SPEC, seen(node, TWINS)) is None
    assert impossible(SPEC, seen(node, [*TWINS, HOST_BRIDGE])) is None
    assert impossible(BOTH, seen(node, TWINS, BOTH)) is None
    assert impossible(BY_IDS, seen(node, RIGHT, dataclasses.replace(ONLY_RIGHT, by="ids"))) is None


@pytest.mark.parametrize(
    ("functions", "spec", "fields", "words"),
    [
        (MOVED, SPEC, {}, "nothing is at pci0000:00/01.0/00.0"),
        (
            [*TWINS, NVME],
            SPEC,
            {},
            "0000:02:01.0 (144d:a808, class 010802, driver nvme) is in IOMMU group 2",
        ),
        (
            [*TWINS, dataclasses.replace(HOST_BRIDGE, driver="x")],
            SPEC,
            {},
            "0000:00:1c.7 (1022:1482, class 060000, driver x) is in IOMMU group 2",
        ),
        (changed(TWINS, "0000:01:*", group="2"), SPEC, {}, "0000:01:00.0 (10de:1e07, class 0300"),
        (TWINS, BY_IDS, {}, "0000:01:00.0 has the id 10de:1e07 too"),
        (TWINS, SPEC, {"builtin": ["nouveau"]}, "built into this kernel: nouveau"),
        (TWINS, SPEC, {"images": HELD, "initramfs_tools": False}, "there is no update-initramfs"),
    ],
)
def test_what_is_refused(
    node: Path, functions: list[Function], spec: Vfio, fields: dict[str, Any], words: str
) -> None:
    observed = {**seen(node, functions, spec), **fields}
    (refusal,) = yielded(configuration, observed, spec=spec)
    assert is_refusal(refusal)
    assert words in refusal
    assert yielded(initramfs, observed, spec=spec) == []
    (again,) = yielded(owned, observed, spec=spec)
    assert words in again


def test_two_cards_in_one_group_may_both_be_given(node: Path) -> None:
    together = changed(TWINS, "0000:01:*", group="2")
    assert impossible(BOTH, seen(node, together, BOTH)) is None


# What is written ---------------------------------------------------------------------------------


def in_place(spec: Vfio, observed: dict[str, Any]) -> dict[str, Any]:
    """`observed` with our files as wanted, and each initramfs made of them."""
    wanted = wanted_files(spec, observed)
    mark = wanted_mark(wanted)
    images = {
        name: {**one, "mark": mark, "conf": aboard.MODPROBE in wanted}
        for name, one in observed["images"].items()
    }
    return {
        **observed,
        "files": as_put(wanted, MODES),
        "enabled": True,
        "images": images,
        "mark": aboard.parse_cards(wanted[CARDS])[0],
    }


def test_the_list_of_cards_is_read_back() -> None:
    text = wanted_files(SPEC, bare())[CARDS]
    mark, cards = aboard.parse_cards(text)
    assert cards == SPEC.named()
    assert len(mark) == 16
    assert [one["give"] for one in cards] == [False, True]
    assert aboard.parse_cards(wanted_files(BY_IDS, bare())[CARDS])[1] == cards


def test_the_initramfs_only_where_it_holds_a_driver_of_the_cards(node: Path) -> None:
    observed = seen(node, TWINS)
    clean = {**observed, "images": {VERSION: IMAGE}}
    assert aboard.HOOK not in wanted_files(SPEC, clean)
    assert wanted_mark(wanted_files(SPEC, clean)) == ""
    assert images_to_make(wanted_files(SPEC, clean), clean) == []
    held = {**observed, "images": HELD}
    assert {aboard.HOOK, aboard.INIT_TOP} <= wanted_files(SPEC, held).keys()
    assert images_to_make(wanted_files(SPEC, held), held) == [VERSION]
    done = in_place(SPEC, held)
    assert images_to_make(wanted_files(SPEC, done), done) == []


def test_by_ids_all_functions_are_claimed_before_their_drivers(node: Path) -> None:
    lines = modprobe_text(seen(node, TWINS, BOTH)).splitlines()[1:]
    assert lines == [
        "options vfio-pci ids=10de:10f7,10de:1e07",
        "softdep nouveau pre: vfio-pci",
        "softdep snd_hda_intel pre: vfio-pci",
    ]


def test_another_choice_is_another_mark() -> None:
    specs = (SPEC, BY_IDS, BOTH, ONLY_RIGHT)
    marks = [aboard.parse_cards(wanted_files(one, bare())[CARDS])[0] for one in specs]
    assert len({*marks}) == len(marks)


ENABLE = "systemctl daemon-reload && systemctl enable homeport-vfio.service"
MAKE = f"update-initramfs -u -k {VERSION}"


def test_a_bare_node_is_configured_and_then_as_wanted(node: Path) -> None:
    observed = {**seen(node, TWINS), "images": HELD}
    found = yielded(configuration, observed, spec=SPEC)
    assert sum(one.startswith("FileUpload") for one in found) == 5
    assert sum(one.startswith("chmod 755 ") for one in found) == 3
    assert found[8:] == [ENABLE]
    assert yielded(initramfs, observed, spec=SPEC) == [MAKE]
    done = in_place(SPEC, observed)
    assert yielded(configuration, done, spec=SPEC) == []
    assert yielded(initramfs, done, spec=SPEC) == []


def test_a_node_that_cannot_be_asked_yet_is_told_what_will_be_done(node: Path) -> None:
    """Before python3 is there, while a run is prepared."""
    assert VfioState.absent.keys() == seen(node, TWINS).keys()
    assert yielded(configuration, VfioState.absent, spec=SPEC)[-1] == ENABLE
    assert yielded(initramfs, VfioState.absent, spec=SPEC) == []
    assert yielded(owned, VfioState.absent, spec=SPEC) == []
    assert yielded(removed, VfioState.absent) == []
    assert aboard.reboot_reasons(VfioState.absent) == []


def test_files_that_are_wanted_no_more_go(node: Path) -> None:
    """By ids with the initramfs before, by identity without it now."""
    before = in_place(BOTH, {**seen(node, TWINS, BOTH), "images": HELD})
    now = {**before, **seen(node, TWINS), "files": before["files"], "enabled": True}
    now["images"] = {VERSION: {**before["images"][VERSION], "native": []}}
    found = yielded(configuration, now, spec=SPEC)
    assert found[-1] == f"rm -f {aboard.HOOK} {aboard.INIT_TOP} {aboard.MODPROBE}"
    assert yielded(initramfs, now, spec=SPEC) == [MAKE]


@pytest.mark.parametrize(
    ("fields", "start"),
    [
        ({"enabled": False}, ENABLE),
        ({"stale": ["0000:01:00.0"]}, "python3 - <<"),
    ],
)
def test_what_else_is_put_right(node: Path, fields: dict[str, Any], start: str) -> None:
    (command,) = yielded(configuration, {**in_place(SPEC, seen(node, TWINS)), **fields}, spec=SPEC)
    assert command.startswith(start)


def test_a_mode_is_put_right(node: Path) -> None:
    done = in_place(SPEC, seen(node, TWINS))
    done["files"][aboard.EARLY]["mode"] = "644"
    upload, mode = yielded(configuration, done, spec=SPEC)
    assert upload.startswith("FileUpload")
    assert mode == f"chmod 755 {aboard.EARLY}"


# Who has the cards -------------------------------------------------------------------------------


def test_the_proof_is_who_has_every_function(node: Path) -> None:
    assert yielded(owned, seen(node, GIVEN), spec=SPEC) == []


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        (TWINS, "0000:02:00.0 (right) is with nouveau, 0000:02:00.1 (right) is with snd_hda"),
        (
            changed(GIVEN, "0000:02:00.1", driver=""),
            "0000:02:00.1 (right) is with no driver",
        ),
        (
            changed(GIVEN, "0000:01:00.0", driver="vfio-pci"),
            "0000:01:00.0 (left, which is kept) is with vfio-pci",
        ),
    ],
)
def test_a_card_that_the_wrong_driver_has(
    node: Path, functions: list[Function], words: str
) -> None:
    (refusal,) = yielded(owned, seen(node, functions), spec=SPEC)
    assert is_refusal(refusal)
    assert words in refusal


def test_without_an_iommu_the_remedy_is_named(node: Path) -> None:
    off = seen(node, changed(TWINS, "0000:", group=""))
    (refusal,) = yielded(owned, off, spec=SPEC)
    assert "no IOMMU groups" in refusal
    assert "VT-d or AMD-Vi" in refusal
    assert aboard.reboot_reasons(off) == []


def test_a_boot_is_awaited_until_it_was_tried(node: Path) -> None:
    observed = in_place(SPEC, seen(node, TWINS))
    assert aboard.reboot_reasons(observed) == [
        "0000:02:00.0 (right) is with nouveau, not vfio-pci",
        "0000:02:00.1 (right) is with snd_hda_intel, not vfio-pci",
    ]
    (refusal,) = yielded(owned, observed, spec=SPEC)
    assert "reboot the node, then converge again" in refusal
    assert yielded(owned, observed, spec=SPEC, deferred=True) == []

    log = {"tried": [["unit", observed["mark"]]], "gave": [], "words": ["right stays: why"]}
    tried = {**observed, "log": log}
    assert aboard.reboot_reasons(tried) == []
    (refusal,) = yielded(owned, tried, spec=SPEC, deferred=True)
    assert "said: right stays: why" in refusal
    # It had been given, and somebody bound another driver since.
    gave = {**observed, "log": {**log, "gave": ["0000:02:00.0"]}}
    assert aboard.reboot_reasons(gave) == ["0000:02:00.0 (right) is with nouveau, not vfio-pci"]


@pytest.mark.parametrize("images", [HELD, {}], ids=["in the initramfs", "not any more"])
def test_a_try_of_an_older_initramfs_counts_for_nothing(node: Path, images: dict[str, Any]) -> None:
    """It gave the left card, and the right one is wanted since."""
    left_given = changed(TWINS, "0000:01:00.0", driver="vfio-pci")
    observed = in_place(SPEC, {**seen(node, left_given), "images": images})
    log = {"tried": [["initramfs", "older"], ["unit", observed["mark"]]], "gave": [], "words": []}
    assert aboard.reboot_reasons({**observed, "log": log}) == [
        "0000:02:00.0 (right) is with nouveau, not vfio-pci",
        "0000:02:00.1 (right) is with snd_hda_intel, not vfio-pci",
        "0000:01:00.0 (left, which is kept) is with vfio-pci",
    ]
    log["tried"][0] = ["initramfs", observed["mark"]]
    assert aboard.reboot_reasons({**observed, "log": log}) == []


def test_a_card_that_is_not_certain_is_no_reason_to_boot(node: Path) -> None:
    assert aboard.reboot_reasons(in_place(SPEC, seen(node, MOVED))) == []


def test_the_reasons_need_no_inventory(node: Path) -> None:
    root = build(node / "sys", TWINS)
    Path(aboard.CARDS).parent.mkdir(parents=True)
    Path(aboard.CARDS).write_text(wanted_files(SPEC, bare())[CARDS])
    assert len(aboard.reboot_reasons(aboard.observe(sys=str(root)))) == 2


# Undo --------------------------------------------------------------------------------------------


def test_a_card_that_is_taken_back_waits_for_a_boot(node: Path) -> None:
    root = build(node / "sys", changed(TWINS, "0000:02:*", driver="vfio-pci"))
    Path(aboard.CARDS).parent.mkdir(parents=True)
    Path(aboard.CARDS).write_text(wanted_files(SPEC, bare())[CARDS])
    early(node, root, SPEC)
    before = aboard.observe(cards=[], sys=str(root))
    assert before["stale"] == ["0000:02:00.0", "0000:02:00.1"]
    assert aboard.release(before["stale"], sys=str(root)) is None
    assert overridden(root) == []
    Path(aboard.CARDS).unlink()
    after = aboard.observe(cards=[], sys=str(root))
    assert after["stale"] == []
    assert aboard.reboot_reasons(after) == [
        "0000:02:00.0 is still with vfio-pci",
        "0000:02:00.1 is still with vfio-pci",
    ]


def test_what_is_ours_is_taken_back(node: Path) -> None:
    assert yielded(removed, seen(node, TWINS, None)) == []
    done = in_place(SPEC, {**seen(node, GIVEN), "images": HELD})
    found = yielded(removed, {**done, "stale": ["0000:02:00.0"]})
    assert "_module.release(" in found[0]
    assert found[1:] == [
        "systemctl disable homeport-vfio.service",
        f"rm -f {aboard.HOOK} {aboard.INIT_TOP} {aboard.UNIT_FILE} && systemctl daemon-reload",
        MAKE,
        f"rm -rf {aboard.FOLDER}",
    ]


def test_an_undo_that_was_cut_short_goes_on(node: Path) -> None:
    """Only the list of cards is left: by it the initramfs is looked at."""
    done = in_place(SPEC, {**seen(node, TWINS), "images": HELD})
    left = {**done, "files": {CARDS: done["files"][CARDS]}, "enabled": False}
    assert yielded(removed, left) == [MAKE, f"rm -rf {aboard.FOLDER}"]


# Aboard ------------------------------------------------------------------------------------------

LISTED = f"""\
.
etc/homeport/vfio/cards
etc/homeport/vfio/mark-0a1b2c3d
etc/modprobe.d/homeport-vfio.conf
usr/lib/modules/{VERSION}/kernel/drivers/gpu/drm/tiny/bochs.ko.xz
usr/lib/modules/{VERSION}/kernel/drivers/usb/host/xhci-pci.ko
"""


def test_an_initramfs_is_listed_once(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = node / f"initrd.img-{VERSION}"
    image.write_text("x")
    ran: list[tuple[str, ...]] = []

    def run(*command: str, **_: Any) -> Ran:
        ran.append(command)
        return Ran(0, LISTED, "")

    monkeypatch.setattr(aboard, "run", run)
    for _ in range(2):
        answer = aboard.listing(str(image))
        assert answer is not None
        assert answer["modules"] == ["bochs", "xhci_pci"]
        assert (answer["mark"], answer["conf"]) == ("0a1b2c3d", True)
    assert ran == [("lsinitramfs", str(image))]
    image.write_text("longer")
    aboard.listing(str(image))
    assert len(ran) == 2


@pytest.mark.parametrize(
    ("status", "text", "native", "mark"),
    [
        (0, LISTED, ["bochs"], "0a1b2c3d"),
        (0, "usr/lib/x/ext4.ko\n", [], ""),
        (1, LISTED, ["bochs", "nouveau"], ""),  # broken off in the middle: made anew
        (0, "", ["bochs", "nouveau"], ""),
    ],
)
def test_which_drivers_an_initramfs_holds(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
    text: str,
    native: list[str],
    mark: str,
) -> None:
    monkeypatch.setattr(aboard, "LISTED", str(tmp_path / "listed"))
    monkeypatch.setattr(aboard, "BOOT", str(tmp_path))
    monkeypatch.setattr(aboard, "MODULES", str(tmp_path))
    monkeypatch.setattr(aboard, "run", lambda *_, **__: Ran(status, text, ""))
    (tmp_path / VERSION / "kernel").mkdir(parents=True)
    (tmp_path / f"initrd.img-{VERSION}").write_text("x")
    (tmp_path / "initrd.img-6.1-purged").write_text("x")
    found = aboard._images({"bochs", "nouveau"})
    assert found.keys() == {VERSION}
    assert (found[VERSION]["native"], found[VERSION]["mark"]) == (native, mark)


def test_the_drivers_of_a_device_are_those_that_modprobe_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers = {"pci:v1": "nvidia-current\nnouveau\nvfio_pci\n", "pci:v2": ""}
    monkeypatch.setattr(aboard, "run", lambda *words: Ran(0, answers[words[-1]], ""))
    assert aboard.native_modules("pci:v1") == ["nouveau", "nvidia_current"]
    assert aboard.native_modules("pci:v2") == []
    assert aboard.native_modules("") == []


def test_the_log_of_a_boot(node: Path) -> None:
    Path(aboard.LOG).write_text(
        "tried initramfs 0a1b\ngave 0000:02:00.0\nright stays with the host: why\ntried unit\n"
    )
    assert aboard._log() == {
        "tried": [["initramfs", "0a1b"], ["unit", ""]],
        "gave": ["0000:02:00.0"],
        "words": ["right stays with the host: why"],
    }


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (("cards", "early"), ["cards", "early", "mark-MARK"]),
        (("cards",), ["cards"]),  # cut short: no mark, so it is made anew
        ((), None),
    ],
)
def test_the_hook_puts_all_of_it_into_an_initramfs_or_no_mark(
    tmp_path: Path, there: tuple[str, ...], found: list[str] | None
) -> None:
    ours, destination = tmp_path / "ours", tmp_path / "made"
    ours.mkdir()
    functions = tmp_path / "hook-functions"
    functions.write_text('manual_add_modules() { echo "$*"; }\n')
    text = (FROM / "hook").read_text()
    text = text.replace("/usr/share/initramfs-tools/hook-functions", str(functions))
    hook = tmp_path / "hook"
    hook.write_text(text.replace(aboard.FOLDER, str(ours)))
    cards = wanted_files(SPEC, bare())[CARDS]
    for name, content in (("cards", cards), ("early", "")):
        if name in there:
            (ours / name).write_text(content)
    done = subprocess.run(
        ["sh", str(hook)],
        env={"DESTDIR": str(destination), "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    made = Path(f"{destination}{ours}")
    if found is None:
        assert not made.exists()
        return
    mark = aboard.parse_cards(cards)[0]
    assert sorted(one.name for one in made.iterdir()) == [n.replace("MARK", mark) for n in found]
    assert done.stdout == "vfio_iommu_type1 vfio_pci\n"


@pytest.mark.parametrize("name", ["hook", "init-top"])
def test_the_initramfs_scripts_need_none_before_them(name: str) -> None:
    done = subprocess.run(["sh", str(FROM / name), "prereqs"], capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


# What drift says ---------------------------------------------------------------------------------


def _function(address: str, driver: str, **fields: Any) -> dict[str, Any]:
    return {
        "address": address,
        "id": GPU,
        "subsystem": BOARD,
        "class": "030000",
        "driver": driver,
        "override": "",
        "group": "2",
        "native": ["nouveau"],
        **fields,
    }


def _card(give: bool, *functions: dict[str, Any], problem: str = "") -> dict[str, Any]:
    address = functions[0]["address"] if functions else ""
    return {"give": give, "address": address, "problem": problem, "functions": [*functions]}


CARD = {
    "right": _card(True, _function("0000:02:00.0", "nouveau")),
    "left": _card(False, _function("0000:01:00.0", "vfio-pci")),
}
READY = in_place(SPEC, bare(cards=CARD, images=HELD))
MARK = READY["mark"]
CARDS_HASH = READY["files"][CARDS]["sha256"][:12]
WORDS: list[Words] = [
    (configuration, [{**READY, "dropins": [THEIRS]}], {"spec": SPEC}, [not_ours(aboard.UNIT)]),
    (
        configuration,
        [
            {
                **READY,
                "files": {
                    **{path: one for path, one in READY["files"].items() if path != CARDS},
                    aboard.EARLY: {**READY["files"][aboard.EARLY], "mode": "644"},
                    aboard.MODPROBE: own_files.as_put("x"),
                },
                "enabled": False,
                "stale": ["0000:01:00.0"],
            }
        ],
        {"spec": SPEC},
        [
            (f"{aboard.EARLY}: mode 755", "mode 644"),
            (f"{CARDS}: sha256 {CARDS_HASH}", "no such file"),
            (f"{aboard.MODPROBE}: no such file", "a file of ours"),
            ("0000:01:00.0: with the host", "reserved for vfio-pci"),
            ("homeport-vfio.service: enabled", "not enabled"),
        ],
    ),
    (
        configuration,
        [bare(cards={"right": _card(True, problem="nothing is there")})],
        {"spec": SPEC},
        [("card 'right' where the targets say", "nothing is there")],
    ),
    (
        initramfs,
        [bare(cards=CARD, images=HELD)],
        {"spec": SPEC},
        [(f"/boot/initrd.img-{VERSION}: our program for the cards, {MARK}", "none")],
    ),
    (
        owned,
        [READY],
        {"spec": SPEC},
        [
            (
                "vfio-pci: every function of right",
                "0000:02:00.0 (right) is with nouveau, "
                "0000:01:00.0 (left, which is kept) is with vfio-pci",
            )
        ],
    ),
    (
        removed,
        [
            {
                **READY,
                "files": {aboard.HOOK: READY["files"][aboard.HOOK]},
                "stale": ["0000:02:00.0"],
                "images": {VERSION: {**HELD[VERSION], "mark": "0a1b", "conf": True}},
            }
        ],
        {},
        [
            (f"{aboard.HOOK}: no such file", "a file of ours"),
            ("0000:02:00.0: with the host", "reserved for vfio-pci"),
            (
                f"/boot/initrd.img-{VERSION}: nothing of ours",
                "0a1b, our file for modprobe",
            ),
        ],
    ),
]
