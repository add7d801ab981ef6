"""NVIDIA: what is refused, which packages make the driver, and what is done about a difference."""

import copy
import dataclasses
from typing import Any

import pytest

from deploys.nvidia import Card, Nvidia, driver, packages, settings
from homeport import own_files
from homeport.pins import Gpu, bind, find
from homeport.spec import SpecError
from homeport.targets import Target
from homeport_node import nvidia_driver
from homeport_node.nvidia import PERSISTENCED, UNIT, WANTED
from tests.nvidia.fake_nvml import LEFT, RIGHT
from tests.operations import THEIRS, Words, as_put, is_refusal, not_ours, said, yielded

GPU = Gpu(handle="left", uuid=LEFT)
CARD = Card(gpu=GPU, power_limit=200, locked_clocks=(300, 1800))
SPEC = Nvidia(cards=(CARD,))
NVIDIAS = Nvidia(driver="nvidia", branch=580, kernel_modules="open")

# What the inventory may say ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("branch", {"branch": 58}),
        ("branch", {"driver": "nvidia"}),
        ("branch", {"driver": "none", "branch": 580}),
        ("cards", {"cards": (CARD, Card(gpu=GPU, power_limit=1))}),
        ("persistence", {"cards": (CARD,), "persistence": False}),
        ("driver", {"driver": "elsewhere"}),
    ],
)
def test_wrong_input_names_its_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"nvidia\.{field}: .*must"):
        Nvidia(**fields)


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("gpu", {"power_limit": None}),
        ("gpu", {"gpu": Gpu(handle="left", uuid="MIG-" + LEFT[4:])}),
        ("power_limit", {"power_limit": 0}),
        ("power_limit", {"power_limit": 250.5}),
        ("locked_clocks", {"locked_clocks": (1800, 300)}),
        ("locked_clocks", {"locked_clocks": (0, 300)}),
    ],
)
def test_a_wrong_card_names_its_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"nvidia\.cards\.{field}: .*must"):
        Card(**{"gpu": GPU, "power_limit": 200, **fields})


def test_handles_become_uuids() -> None:
    spec = Nvidia(cards=(Card(gpu=Gpu(handle="left"), power_limit=200),))
    assert [gpu.handle for gpu in find(spec, Gpu)] == ["left"]
    target = Target(name="x", address="192.0.2.1", host_key="ssh-ed25519 AAAA", gpus={"left": LEFT})
    bound: Any = bind(spec, target, None)  # type: ignore[arg-type]
    assert bound.settings == {LEFT: {"handle": "left", "power_limit": 200, "locked_clocks": None}}


# The driver -------------------------------------------------------------------------------------

DEBIAN: dict[str, Any] = {
    "os": {"ID": "debian", "VERSION_ID": "13"},
    "machine": "x86_64",
    "kernel": "6.12.48+deb13-amd64",
    "packages": {"linux-image-amd64": {"version": "6.12.48-1", "held": False}},
    "archives": [["http://d.example/debian/", "trixie", "main", "/etc/apt/sources.list", ""]],
    "apt_error": "",
    "files": {},
    "texts": {},
    "key": [],
    "held_by_us": [],
}
UBUNTU: dict[str, Any] = {
    **DEBIAN,
    "os": {"ID": "ubuntu", "VERSION_ID": "24.04"},
    "packages": {
        "linux-image-generic-hwe-24.04": {"version": "6.14", "held": False},
        "linux-image-6.14.0-29-generic": {"version": "6.14", "held": False},
    },
}
NAMES = packages.wanted(SPEC, DEBIAN)
VERSIONS = {
    **dict.fromkeys(NAMES, "550.163.01-2"),
    "libnvidia-ml1": "550.163.01-2",
    "linux-headers-amd64": "6.12.48-1",
    "nvidia-persistenced": "550.163.01-1",
    "nvidia-kernel-common": "20240109+1",
}
INSTALLED: dict[str, Any] = {
    **DEBIAN,
    "packages": {
        **DEBIAN["packages"],
        **{name: {"version": version, "held": True} for name, version in VERSIONS.items()},
    },
    "held_by_us": ["libcuda1"],
}
FRESH = {"installed": VERSIONS, "lists_age": 10.0}


@pytest.mark.parametrize(
    ("spec", "observed", "names"),
    [
        (
            SPEC,
            DEBIAN,
            "nvidia-kernel-dkms libcuda1 libnvidia-nvvm4 nvidia-persistenced nvidia-smi "
            "linux-headers-amd64",
        ),
        (
            Nvidia(kernel_modules="open"),
            {**DEBIAN, "packages": {}},
            "nvidia-open-kernel-dkms libcuda1 libnvidia-nvvm4 nvidia-persistenced nvidia-smi "
            "linux-headers-6.12.48+deb13-amd64",
        ),
        (
            NVIDIAS,
            {**DEBIAN, "packages": {"proxmox-default-kernel": {"version": "1", "held": False}}},
            "nvidia-kernel-open-dkms nvidia-driver-cuda nvidia-persistenced "
            "proxmox-default-headers",
        ),
        (
            Nvidia(branch=570),
            UBUNTU,
            "nvidia-dkms-570-server libnvidia-compute-570-server nvidia-compute-utils-570-server "
            "nvidia-utils-570-server linux-headers-6.14.0-29-generic "
            "linux-headers-generic-hwe-24.04",
        ),
        (
            NVIDIAS,
            UBUNTU,
            "nvidia-dkms-580-open libnvidia-compute-580 nvidia-utils-580 nvidia-persistenced "
            "linux-headers-6.14.0-29-generic linux-headers-generic-hwe-24.04",
        ),
        (
            Nvidia(driver="nvidia", branch=595),
            UBUNTU,
            "nvidia-dkms libnvidia-compute nvidia-persistenced linux-headers-6.14.0-29-generic "
            "linux-headers-generic-hwe-24.04",
        ),
    ],
)
def test_the_packages(spec: Nvidia, observed: dict[str, Any], names: str) -> None:
    assert packages.problem(spec, observed) is None
    assert packages.wanted(spec, observed) == tuple(names.split())


@pytest.mark.parametrize(
    ("running", "kernels", "names"),
    [
        (
            "6.12.48+deb13-amd64",
            "linux-image-amd64 linux-image-6.12.48+deb13-amd64 linux-image-6.12.9+deb13-amd64 "
            "linux-image-6.12.57+deb13-amd64-unsigned linux-image-6.12.57+deb13-amd64-dbg",
            "linux-headers-6.12.48+deb13-amd64 linux-headers-6.12.57+deb13-amd64 "
            "linux-headers-amd64",
        ),
        ("5.15.0-host", "linux-image-amd64", "linux-headers-amd64"),
        (
            "6.8.12-4-pve",
            "proxmox-default-kernel proxmox-kernel-6.8 proxmox-kernel-6.8.12-4-pve-signed "
            "proxmox-kernel-6.8.12-15-pve-signed proxmox-kernel-6.8.12-2-pve-signed",
            "proxmox-default-headers proxmox-headers-6.8 proxmox-headers-6.8.12-15-pve "
            "proxmox-headers-6.8.12-4-pve",
        ),
        (
            "6.14.0-29-generic",
            "linux-image-unsigned-6.14.0-29-generic",
            "linux-headers-6.14.0-29-generic",
        ),
    ],
)
def test_the_headers_of_this_kernel_and_of_the_next(running: str, kernels: str, names: str) -> None:
    shown = "".join(f"ii \t{name}\t1\n" for name in kernels.split())
    observed = {"kernel": running, "packages": nvidia_driver.packages(shown)}
    assert " ".join(packages.headers(observed)) == names


@pytest.mark.parametrize(
    ("spec", "observed", "cause"),
    [
        (SPEC, {**DEBIAN, "os": {"ID": "alpine", "VERSION_ID": "3"}}, "of alpine 3 are not known"),
        (NVIDIAS, {**DEBIAN, "machine": "riscv64"}, "no repository for riscv64"),
        (Nvidia(branch=550), DEBIAN, "one version of the driver only"),
        (SPEC, UBUNTU, "Ubuntu has several"),
        (SPEC, {**DEBIAN, "apt_error": "E: Conflicting"}, "cannot read its sources: E: Conf"),
    ],
)
def test_a_driver_that_this_node_cannot_have(
    spec: Nvidia, observed: dict[str, Any], cause: str
) -> None:
    (refusal,) = yielded(driver.archives, observed, spec=spec)
    assert is_refusal(refusal)
    assert cause in refusal


def test_debians_non_free_comes_from_where_main_does() -> None:
    archives = [
        ["http://d.example/debian/", "trixie", "main", "/etc/apt/sources.list", "/d.gpg"],
        ["http://d.example/debian/", "trixie", "non-free-firmware", "/etc/apt/x.list", "/d.gpg"],
        ["http://d.example/debian/", "trixie", "non-free", packages.SOURCES, "/ours.gpg"],
    ]
    files = packages.apt_files(SPEC, {**DEBIAN, "archives": archives})
    assert files[packages.SOURCES].splitlines()[1:] == [
        "Types: deb",
        "URIs: http://d.example/debian/",
        "Suites: trixie",
        "Components: contrib non-free",
        "Signed-By: /d.gpg",
    ]
    # apt takes a key there and none here for two different ones.
    assert "Signed-By" not in packages.apt_files(SPEC, DEBIAN)[packages.SOURCES]
    whole = [["u", "s", part, "f", ""] for part in ("main", *packages.NON_FREE)]
    assert packages.apt_files(SPEC, {**DEBIAN, "archives": whole}) == {}
    unread = {"archives": [], "texts": {packages.SOURCES: "ours"}}
    assert packages.apt_files(SPEC, {**DEBIAN, **unread}) == {packages.SOURCES: "ours"}
    assert packages.apt_files(SPEC, {**DEBIAN, "archives": []}) == {}
    assert packages.apt_files(Nvidia(branch=570), UBUNTU) == {}


def test_nvidias_repository_gives_its_driver_of_one_branch_and_nothing_else() -> None:
    files = packages.apt_files(NVIDIAS, UBUNTU)
    lines = files[packages.SOURCES].splitlines()
    assert "Suites: /" in lines
    assert f"Signed-By: {packages.KEY}" in lines
    assert lines[2].endswith("/compute/cuda/repos/ubuntu2404/x86_64/")
    pins = files[packages.PREFERENCES].split("\n\n")
    assert "Pin: version 580.*\nPin-Priority: 1001" in pins[0]
    assert 'Package: *\nPin: origin "developer.download.nvidia.com"\nPin-Priority: -1' in pins[2]
    assert "Package: dkms\n" in pins[1]


def test_what_carries_the_drivers_version_is_held() -> None:
    assert packages.to_hold(SPEC, DEBIAN) == []
    assert packages.to_hold(SPEC, INSTALLED) == [
        "libcuda1",
        "libnvidia-ml1",
        "libnvidia-nvvm4",
        "nvidia-kernel-dkms",
        "nvidia-persistenced",
        "nvidia-smi",
    ]


@pytest.mark.parametrize(
    ("version", "upstream"),
    [
        ("550.163.01-2", "550.163.01"),
        ("570.133.20-0ubuntu0.24.04.1", "570.133.20"),
        ("1:580.65.06-1", "580.65.06"),
        ("20240109", "20240109"),
    ],
)
def test_upstream_versions(version: str, upstream: str) -> None:
    assert packages.upstream(version) == upstream


# The cards --------------------------------------------------------------------------------------

UBUNTUS = "/usr/bin/nvidia-persistenced --user x --no-persistence-mode --verbose"
THERE: dict[str, Any] = {
    "uuid": LEFT,
    "persistence": True,
    "power_w": 200.0,
    "power_min_w": 100.0,
    "power_max_w": 280.0,
    "clock_mhz": 300,
    "clock_max_mhz": 2100,
}
BARE: dict[str, Any] = {
    "cards": [{**THERE, "power_w": 250.0, "persistence": False}],
    "lost": [],
    "error": "",
    "mismatch": False,
    "versions": {"loaded": "550.163.01", "library": "550.163.01"},
    "nouveau": False,
    "files": {},
    "applied": {},
    "units": {
        PERSISTENCED: {"enabled": False, "active": False, "stale": False, "packaged": UBUNTUS}
    },
}
AS_WANTED: dict[str, Any] = {
    **BARE,
    "cards": [THERE],
    "files": as_put(settings.wanted_files(SPEC, BARE)),
    "applied": SPEC.settings,
    "units": {
        **BARE["units"],
        UNIT: {"enabled": True, "active": True, "stale": False, "packaged": ""},
    },
}
RELOAD = f"systemctl reload-or-restart {UNIT} ||"


def card(**changes: Any) -> dict[str, Any]:
    return {**AS_WANTED, "cards": [{**THERE, **changes}]}


def unit(**changes: Any) -> dict[str, Any]:
    units = copy.deepcopy(AS_WANTED["units"])
    units[UNIT].update(changes)
    return {**AS_WANTED, "units": units}


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Card(gpu=GPU, power_limit=281), "left (%s): power_limit 281 W; the card allows 100 to"),
        (Card(gpu=GPU, power_limit=99), "power_limit 99 W; the card allows 100 to 280 W"),
        (Card(gpu=GPU, locked_clocks=(300, 2101)), "300 to 2101 MHz; the card allows at most 2100"),
    ],
)
def test_what_a_card_does_not_allow_is_refused_first(asked: Card, words: str) -> None:
    (refusal,) = yielded(settings.within_limits, BARE, spec=Nvidia(cards=(asked,)))
    assert is_refusal(refusal)
    assert (words % LEFT if "%" in words else words) in refusal


@pytest.mark.parametrize(
    "observed",
    [{}, BARE, {**BARE, "cards": [{**THERE, "uuid": RIGHT, "power_max_w": 1.0}]}],
    ids=["no python", "allowed", "not there yet"],
)
def test_what_is_allowed_or_unknown_is_not_refused(observed: dict[str, Any]) -> None:
    assert yielded(settings.within_limits, observed, spec=SPEC) == []


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (
            {**BARE, "cards": [], "error": "RM has detected", "mismatch": True},
            ["driver/library version mismatch", "reboot the node"],
        ),
        (
            {**BARE, "cards": [], "error": "Driver Not Loaded"},
            ["Driver Not Loaded", "|Loading of|Lockdown"],
        ),
        (
            {
                **BARE,
                "cards": [],
                "error": "Driver Not Loaded",
                "nouveau": True,
                "versions": {"loaded": "", "library": "550.163.01"},
            },
            ["nouveau holds the GPUs", "reboot the node"],
        ),
        (
            {**BARE, "cards": [{**THERE, "uuid": RIGHT}], "lost": ["GPU 0: GPU is lost"]},
            [f"does not list left ({LEFT}); it lists: GPU 0: GPU is lost, {RIGHT}", "off the bus"],
        ),
    ],
    ids=["mismatch", "no driver", "nouveau", "vanished"],
)
def test_cards_that_cannot_be_asked_are_named(observed: dict[str, Any], words: list[str]) -> None:
    (refusal,) = yielded(settings.configured, observed, spec=SPEC)
    assert is_refusal(refusal)
    assert [one for one in words if one not in refusal] == []
    # A run that may not reboot goes on where a reboot is all that is lacking.
    waits = "nouveau" in words[0]
    found = yielded(settings.configured, observed, spec=SPEC, deferred=True)
    assert found == ([] if waits else [refusal])


def test_ubuntus_daemon_is_switched_on_and_debians_left_alone() -> None:
    lines = settings.wanted_files(SPEC, BARE)[settings.DROP_IN].splitlines()
    start = "ExecStart=/usr/bin/nvidia-persistenced --user x --verbose"
    assert lines[-2:] == ["ExecStart=", start]
    debians = copy.deepcopy(BARE)
    debians["units"][PERSISTENCED]["packaged"] = "/usr/bin/nvidia-persistenced --user nvpd"
    assert settings.DROP_IN not in settings.wanted_files(SPEC, debians)
    assert settings.DROP_IN not in settings.wanted_files(Nvidia(persistence=False), BARE)


@pytest.mark.parametrize(
    ("observed", "spec", "commands"),
    [
        (AS_WANTED, SPEC, []),
        (card(power_w=250.0), SPEC, [RELOAD]),
        (card(power_w=None), SPEC, [RELOAD]),
        (card(persistence=False), SPEC, [f"systemctl restart {PERSISTENCED}", RELOAD]),
        (card(clock_mhz=1815), SPEC, []),
        (card(clock_mhz=2100), SPEC, [RELOAD]),
        ({**AS_WANTED, "applied": {}}, SPEC, [RELOAD]),
        (unit(active=False), SPEC, [RELOAD]),
        (unit(enabled=False), SPEC, [f"systemctl enable {UNIT}"]),
        (unit(stale=True), SPEC, ["systemctl daemon-reload"]),
        (
            {**AS_WANTED, "files": {**AS_WANTED["files"], **as_put({WANTED: "{}"})}},
            SPEC,
            ["FileUpload", RELOAD],
        ),
        (
            {**AS_WANTED, "files": {**AS_WANTED["files"], **as_put({settings.UNIT_FILE: ""})}},
            SPEC,
            ["FileUpload", "systemctl daemon-reload", RELOAD],
        ),
        (
            AS_WANTED,
            Nvidia(persistence=False),
            ["FileUpload", "rm -f", "systemctl daemon-reload", "systemctl restart", RELOAD],
        ),
    ],
)
def test_what_is_done_for_a_difference(
    observed: dict[str, Any], spec: Nvidia, commands: list[str]
) -> None:
    found = yielded(settings.configured, observed, AS_WANTED, spec=spec)
    assert len(found) == len(commands), found
    for one, start in zip(found, commands, strict=True):
        assert one.startswith(start)


def test_a_daemon_that_is_masked_would_be_missed_at_the_next_boot() -> None:
    units = {**AS_WANTED["units"], PERSISTENCED: {**BARE["units"][PERSISTENCED], "masked": True}}
    masked = {**AS_WANTED, "units": units}
    (command,) = yielded(settings.configured, masked, AS_WANTED, spec=SPEC)
    assert command.startswith(f"systemctl unmask {PERSISTENCED};")
    assert said(settings.configured, masked, spec=SPEC) == [
        (f"{PERSISTENCED}: not masked", "masked")
    ]
    without = {**masked, "files": as_put(settings.wanted_files(Nvidia(persistence=False), BARE))}
    found = yielded(settings.configured, {**without, "applied": {}}, spec=Nvidia(persistence=False))
    assert found == []


def test_a_bare_node() -> None:
    found = yielded(settings.configured, BARE, AS_WANTED, spec=SPEC)
    assert [one.split(" ||")[0] for one in found if not one.startswith("FileUpload")] == [
        "systemctl daemon-reload",
        f"systemctl enable {UNIT}",
        f"systemctl restart {PERSISTENCED}",
        f"systemctl reload-or-restart {UNIT}",
    ]
    assert sum(one.startswith("FileUpload") for one in found) == 3


def test_a_persistence_mode_that_stays_off_is_named() -> None:
    *_, refusal = yielded(settings.configured, BARE, card(persistence=False), spec=SPEC)
    assert is_refusal(refusal)
    assert f"persistence mode is still off on {LEFT}" in refusal


# The other operations ---------------------------------------------------------------------------

WITH_KEY = {
    **UBUNTU,
    "files": as_put(packages.apt_files(NVIDIAS, UBUNTU)),
    "key": [packages.repository(UBUNTU)[2]],
}
OURS = {
    "files": as_put(dict.fromkeys((WANTED, settings.UNIT_FILE, settings.DROP_IN), "")),
    "key": ["F"],
    "held_by_us": ["nvidia-smi"],
}
FORGET = "rm -f /var/lib/homeport/apt-refreshed"
SMI_GONE = {
    **INSTALLED,
    "packages": {k: v for k, v in INSTALLED["packages"].items() if k != "nvidia-smi"},
}
OF_580 = dict.fromkeys(packages.wanted(NVIDIAS, DEBIAN), "580.65.06-1")
NVIDIAS_580 = {
    **INSTALLED,
    "packages": {
        **DEBIAN["packages"],
        **{name: {"version": version, "held": True} for name, version in OF_580.items()},
    },
}
FRESH_580 = {"installed": OF_580, "lists_age": 10.0}
NO_SMI = {**FRESH, "installed": {k: v for k, v in VERSIONS.items() if k != "nvidia-smi"}}


@pytest.mark.parametrize(
    ("operation", "observed", "arguments", "commands"),
    [
        (driver.archives, [DEBIAN], {"spec": SPEC}, ["FileUpload", FORGET]),
        (
            driver.archives,
            [{**DEBIAN, "files": as_put(packages.apt_files(SPEC, DEBIAN))}],
            {"spec": SPEC},
            [],
        ),
        (driver.archives, [WITH_KEY], {"spec": NVIDIAS}, []),
        (
            driver.archives,
            [{**WITH_KEY, "key": ["F"]}],
            {"spec": NVIDIAS},
            ["python3 - <<"],
        ),
        (driver.archives, [WITH_KEY], {"spec": Nvidia(branch=570)}, ["rm -f /etc/apt", FORGET]),
        (driver.installed, [INSTALLED, FRESH], {"spec": SPEC}, []),
        (driver.installed, [SMI_GONE, NO_SMI], {"spec": SPEC}, ["python3 - <<", "export DEBIAN"]),
        (
            driver.installed,
            [{**SMI_GONE, "held_by_us": []}, NO_SMI],
            {"spec": SPEC},
            ["export DEBIAN"],
        ),
        (driver.installed, [NVIDIAS_580, FRESH_580], {"spec": NVIDIAS}, []),
        (
            driver.installed,
            [NVIDIAS_580, FRESH_580],
            {"spec": dataclasses.replace(NVIDIAS, branch=570)},
            ["python3 - <<", "export DEBIAN"],
        ),
        (driver.held, [INSTALLED], {"spec": SPEC}, []),
        (driver.held, [DEBIAN], {"spec": SPEC}, []),
        (settings.removed, [{}], {}, []),
        (settings.removed, [{"files": {}, "key": [], "held_by_us": []}], {}, []),
        (
            settings.removed,
            [OURS],
            {},
            [
                f"systemctl disable --now {UNIT}",
                "rm -f /etc/homeport/nvidia.json",
                "systemctl daemon-reload",
                f"systemctl try-restart {PERSISTENCED}",
                "python3 - <<",
            ],
        ),
        (
            settings.removed,
            [{"files": {}, "key": [], "held_by_us": ["a"]}],
            {},
            ["python3 - <<"],
        ),
    ],
)
def test_operations(
    operation: Any, observed: list[Any], arguments: dict[str, Any], commands: list[str]
) -> None:
    found = yielded(operation, *observed, **arguments)
    assert len(found) == len(commands), found
    for one, start in zip(found, commands, strict=True):
        assert one.startswith(start)


def test_another_branch_is_installed_though_older() -> None:
    spec = dataclasses.replace(NVIDIAS, branch=570)
    *_, install = yielded(driver.installed, NVIDIAS_580, FRESH_580, spec=spec)
    names = "'nvidia-driver-cuda=570.*' 'nvidia-kernel-open-dkms=570.*' 'nvidia-persistenced=570.*'"
    assert f"get install --allow-downgrades --allow-change-held-packages {names}" in install
    assert "linux-headers" not in install


def test_another_list_of_nvidias_repository_is_refused() -> None:
    others = {"other_lists": ["/etc/apt/sources.list.d/cuda.list"]}
    (said,) = yielded(driver.archives, UBUNTU, others, spec=NVIDIAS)
    assert is_refusal(said)
    assert "rm /etc/apt/sources.list.d/cuda.list" in said


def test_a_package_that_is_no_longer_held_is_held_again() -> None:
    loose = copy.deepcopy(INSTALLED)
    loose["packages"]["nvidia-smi"]["held"] = False
    (command,) = yielded(driver.held, loose, spec=SPEC)
    assert "_module.hold(" in command
    assert '"packages": ["nvidia-smi"]' in command


# What drift says --------------------------------------------------------------------------------

LOOSE = copy.deepcopy(INSTALLED)
LOOSE["packages"]["nvidia-smi"]["held"] = False
NAME = f"left ({LEFT})"


def told(path: str, wanted: str, there: str | None = None) -> tuple[str, str]:
    """The words for a file of ours that is `there` instead of `wanted`."""
    (pair,) = own_files.otherwise({path: wanted}, {} if there is None else as_put({path: there}))
    return pair


WORDS: list[Words] = [
    (settings.configured, [unit(dropins=[THEIRS])], {"spec": SPEC}, [not_ours(UNIT)]),
    (
        driver.archives,
        [{**WITH_KEY, "files": as_put({packages.SOURCES: "x"}), "key": []}],
        {"spec": NVIDIAS},
        [
            told(packages.SOURCES, packages.apt_files(NVIDIAS, WITH_KEY)[packages.SOURCES], "x"),
            told(packages.PREFERENCES, packages.apt_files(NVIDIAS, WITH_KEY)[packages.PREFERENCES]),
            (f"{packages.KEY}: {WITH_KEY['key'][0]}", "no key"),
        ],
    ),
    (
        driver.archives,
        [WITH_KEY],
        {"spec": Nvidia(branch=570)},
        [
            (f"{packages.PREFERENCES}: no such file", "a file of ours"),
            (f"{packages.SOURCES}: no such file", "a file of ours"),
        ],
    ),
    (
        driver.installed,
        [{**SMI_GONE, "held_by_us": []}, NO_SMI],
        {"spec": SPEC},
        [("packages: nvidia-smi", "not installed")],
    ),
    (
        driver.held,
        [LOOSE],
        {"spec": SPEC},
        [("packages held at their version: nvidia-smi", "not held")],
    ),
    (
        settings.known,
        [BARE],
        {"handles": ("left", "right"), "fill": "bin/homeport probe"},
        [
            (
                "every GPU of the inventory has a UUID in the targets file",
                "gpus: left, right: no UUID in the targets file, and the driver knows " + LEFT,
            )
        ],
    ),
    (
        settings.within_limits,
        [BARE],
        {"spec": Nvidia(cards=(Card(gpu=GPU, power_limit=300),))},
        [("its name", f"nvidia.cards: {NAME}: power_limit 300 W; the card allows 100 to 280 W")],
    ),
    (
        settings.configured,
        [{**BARE, "error": "Driver Not Loaded"}],
        {"spec": SPEC},
        [
            (
                f"the driver answers for the GPUs: {NAME}",
                "the driver does not answer: Driver Not Loaded",
            )
        ],
    ),
    (
        settings.configured,
        [
            {
                **unit(active=False, stale=True),
                "cards": [{**THERE, "power_w": 250.0, "persistence": False}],
            }
        ],
        {"spec": SPEC},
        [
            (f"{UNIT}: as its files say", "as they said before"),
            (f"{UNIT}: enabled, active", "enabled"),
            (f"{LEFT}: persistence mode on", "off"),
            (f"{NAME}: power limit 200 W", "250 W"),
        ],
    ),
    (
        settings.configured,
        [{**card(clock_mhz=2100), "files": {**AS_WANTED["files"], **as_put({WANTED: "x"})}}],
        {"spec": SPEC},
        [
            told(WANTED, SPEC.settings_text, "x"),
            (f"{NAME}: clocks locked to 300 to 1800 MHz", "runs at 2100 MHz"),
        ],
    ),
    (
        settings.configured,
        [{**card(power_w=None), "applied": {}}],
        {"spec": SPEC},
        [
            (f"{NAME}: power limit 200 W", "not known"),
            (f"{NAME}: clocks locked to 300 to 1800 MHz", "not since boot"),
        ],
    ),
    (
        settings.configured,
        [{**AS_WANTED, "files": as_put(settings.wanted_files(Nvidia(), BARE))}],
        {"spec": Nvidia()},
        [
            (f"{NAME}: power_limit: the card's own", "set by Homeport"),
            (f"{NAME}: locked_clocks: the card's own", "set by Homeport"),
        ],
    ),
    (
        settings.removed,
        [{"files": as_put({WANTED: ""}), "key": [], "held_by_us": ["nvidia-smi"]}],
        {},
        [
            (f"{WANTED}: no such file", "a file of ours"),
            ("packages not held by Homeport: nvidia-smi", "held"),
        ],
    ),
]
