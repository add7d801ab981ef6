"""Cases: what is refused at the desk, the key, what differs, and what is done about it."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from deploys.nvidia_containers import NvidiaContainers, daemon_values, deploy
from deploys.nvidia_containers.deploy import LIST_FILE, list_text, unit_text
from deploys.nvidia_containers.spec import FINGERPRINT, PACKAGES, REPOSITORY, repository
from homeport import waiting
from homeport.pins import Gpu
from homeport.spec import SpecError
from homeport.targets import Sources
from homeport_node import apt_key, docker_engine
from homeport_node import nvidia_containers as aboard
from homeport_node.common import CDI_UNIT_FILE as UNIT_FILE
from homeport_node.common import Ran
from tests.apt.test_apt_key import OURS
from tests.operations import THEIRS, Words, as_put, is_refusal, not_ours, yielded

SPEC = NvidiaContainers()
LEFT, RIGHT = Gpu(handle="left", uuid="GPU-1"), Gpu(handle="right", uuid="GPU-2")
MIRROR = "https://mirror.example/nvidia"


@pytest.mark.parametrize("version", ["1.17.8-1", "1.20.1", "1.20.1-1;reboot", "", "latest"])
def test_wrong_input_names_its_field(version: str) -> None:
    with pytest.raises(SpecError, match=r"nvidia_containers\.version: .*must be"):
        NvidiaContainers(version=version)


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("apt", {"apt": {REPOSITORY: "mirror.example"}}),
        ("apt", {"apt": {"nvidia": MIRROR}}),
        ("apt_keys", {"apt_keys": {REPOSITORY: OURS}}),
        ("apt_keys", {"apt": {REPOSITORY: MIRROR}, "apt_keys": {REPOSITORY: OURS[:16]}}),
        ("apt_keys", {"apt": {REPOSITORY: MIRROR}, "apt_keys": {REPOSITORY: OURS.lower()}}),
    ],
)
def test_wrong_sources_name_their_field(field: str, values: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=f"sources.{field}: .*must hold"):
        Sources(**values)


def test_a_mirror_keeps_nvidias_key_unless_it_has_its_own() -> None:
    assert repository(Sources()) == (REPOSITORY, FINGERPRINT)
    assert repository(Sources(apt={REPOSITORY: f"{MIRROR}/"})) == (MIRROR, FINGERPRINT)
    own = Sources(apt={REPOSITORY: MIRROR}, apt_keys={REPOSITORY: OURS})
    assert repository(own) == (MIRROR, OURS)


def test_docker_is_given_the_runtime() -> None:
    assert daemon_values(SPEC).keys() == {"runtimes/nvidia"}
    assert daemon_values(None) == {}


# What is there ----------------------------------------------------------------------------------


def test_other_lists_of_the_repository_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt_key, "LISTS", tmp_path)
    own = tmp_path / "homeport.list"
    own.write_text(list_text(REPOSITORY))
    (tmp_path / "debian.sources").write_text("URIs: https://deb.example/debian\n")
    (tmp_path / "off.list").write_text(f"# deb {REPOSITORY}/stable/deb/amd64 /\n")
    assert apt_key.other_lists(REPOSITORY, str(own)) == []
    assert apt_key.other_lists("", str(own)) == []
    (tmp_path / "theirs.sources").write_text(f"URIs: {REPOSITORY}/stable/deb/amd64/\n")
    assert apt_key.other_lists(REPOSITORY, str(own)) == [str(tmp_path / "theirs.sources")]


YAML = """cdiVersion: 0.5.0
kind: nvidia.com/gpu
containerEdits:
  mounts:
  - containerPath: /usr/bin/nvidia-smi
    hostPath: {there}
  - hostPath: /no/such/file
    containerPath: /x
  deviceNodes:
  - path: /dev/nvidia-no-such
    hostPath: /dev/null
"""


def test_a_description_of_files_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aboard, "DESCRIPTIONS", (tmp_path, tmp_path / "absent"))
    (tmp_path / "other.yaml").write_text("kind: x.example/y\nhostPath: /nor/this\n")
    assert aboard.gone() == []
    (tmp_path / "nvidia.yaml").write_text(YAML.format(there=tmp_path))
    assert aboard.gone() == ["/dev/nvidia-no-such", "/no/such/file"]


def test_what_counts_is_the_later_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, made = tmp_path / "etc", tmp_path / "run"
    monkeypatch.setattr(aboard, "DESCRIPTIONS", (kept, made))
    assert not aboard.uvm()
    with_uvm = "kind: nvidia.com/gpu\n  - path: /dev/nvidia-uvm\n"
    for folder, text in ((kept, with_uvm), (made, with_uvm.replace("uvm", "uvm-tools"))):
        folder.mkdir()
        (folder / "nvidia.yaml").write_text(text)
    assert not aboard.uvm()
    (made / "nvidia.yaml").write_text(with_uvm)
    assert aboard.uvm()


def test_a_device_is_known_by_its_number() -> None:
    assert aboard.link_of("/dev/null") == "/dev/char/1:3"
    assert aboard.DEVICE.findall('- path: "/dev/nvidia0"\n  hostPath: /dev/x\n') == ["/dev/nvidia0"]


@pytest.mark.parametrize(
    ("restart", "devices", "missing", "words"),
    [
        (Ran(0, "", ""), ["GPU-1", "all"], [], None),
        (Ran(0, "", ""), ["GPU-2"], [], "describes no GPU-1"),
        (Ran(0, "", ""), ["GPU-1"], ["/x.so"], "not there: /x.so"),
        (Ran(0, "", ""), ["GPU-1", "GPU-3"], [], "describes no /dev/nvidia-uvm"),
        (Ran(1, "", "no unit"), ["GPU-1"], [], "cannot describe the GPUs: the driver says no"),
    ],
)
def test_describing(
    monkeypatch: pytest.MonkeyPatch,
    restart: Ran,
    devices: list[str],
    missing: list[str],
    words: str | None,
) -> None:
    journal = Ran(0, "the driver says no\n", "")
    monkeypatch.setattr(
        aboard, "run", lambda *command, **_: restart if command[0] == "systemctl" else journal
    )
    monkeypatch.setattr(docker_engine, "cdi_devices", lambda: devices)
    monkeypatch.setattr(aboard, "gone", lambda: missing)
    monkeypatch.setattr(aboard, "uvm", lambda: "GPU-3" not in devices)
    problem = aboard.describe(["GPU-1"])
    assert problem is None if words is None else words in (problem or "")


# The difference ---------------------------------------------------------------------------------


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


AS_WANTED: dict[str, Any] = {
    "key": [FINGERPRINT],
    "keyring": True,
    "files": as_put({LIST_FILE: list_text(REPOSITORY), UNIT_FILE: unit_text()}),
    "other_lists": [],
    "held": [*PACKAGES],
    "unit": {"enabled": True, "active": True, "stale": False},
    "devices": ["0", "1", "GPU-1", "GPU-2", "all"],
    "uvm": True,
    "gone": [],
}
BARE: dict[str, Any] = {
    **AS_WANTED,
    "uvm": False,
    "key": [],
    "keyring": False,
    "files": {},
    "held": [],
    "unit": {"enabled": False, "active": False, "stale": False},
    "devices": [],
}
INSTALLED = {"installed": dict.fromkeys(PACKAGES, SPEC.version), "lists_age": 60.0}
OLD = {"installed": dict.fromkeys(PACKAGES, "1.17.8-1"), "lists_age": 60.0}
NOTHING: dict[str, Any] = {"installed": {}, "lists_age": None}

KNOWN = {"address": REPOSITORY, "fingerprint": FINGERPRINT}
PINNED = {"spec": SPEC, "address": REPOSITORY}
GPUS = {"gpus": (LEFT, RIGHT), "address": REPOSITORY}
ALL = " ".join(sorted(SPEC.pins))


def _but(**changes: Any) -> dict[str, Any]:
    return {**AS_WANTED, **changes}


@pytest.mark.parametrize(
    ("operation", "observed", "arguments", "commands"),
    [
        (deploy.repository_known, [AS_WANTED], KNOWN, []),
        (deploy.repository_known, [BARE], KNOWN, ["_module.fetch(", "FileUpload"]),
        (deploy.repository_known, [_but(key=[OURS])], KNOWN, ["_module.fetch("]),
        (deploy.repository_known, [_but(key=[FINGERPRINT, OURS])], KNOWN, ["_module.fetch("]),
        (deploy.repository_known, [_but(files=as_put({LIST_FILE: "0"}))], KNOWN, ["FileUpload"]),
        (deploy.packages, [INSTALLED, AS_WANTED], PINNED, []),
        (deploy.packages, [NOTHING, BARE], PINNED, [ALL, f"apt-mark hold {' '.join(PACKAGES)}"]),
        (deploy.packages, [OLD, AS_WANTED], PINNED, ["--allow-downgrades"]),
        (deploy.packages, [INSTALLED, _but(held=PACKAGES[1:])], PINNED, [f"hold {PACKAGES[0]}"]),
        (deploy.described, [AS_WANTED], GPUS, []),
        (
            deploy.described,
            [BARE],
            GPUS,
            ["FileUpload", "systemctl daemon-reload", "systemctl enable", "_module.describe("],
        ),
        (deploy.described, [_but(devices=["GPU-1", "all"])], GPUS, ["_module.describe("]),
        (deploy.described, [_but(gone=["/x.so"])], GPUS, ["_module.describe("]),
        (deploy.described, [_but(uvm=False)], GPUS, ["_module.describe("]),
        (
            deploy.described,
            [_but(files=as_put({UNIT_FILE: "an older one"}))],
            GPUS,
            ["FileUpload", "systemctl daemon-reload", "_module.describe("],
        ),
        (
            deploy.described,
            [_but(unit={"enabled": True, "active": False, "stale": True})],
            GPUS,
            ["systemctl daemon-reload", "_module.describe("],
        ),
        (deploy.removed, [_but(files={}, keyring=False)], {}, []),
        (
            deploy.removed,
            [AS_WANTED],
            {},
            ["apt-mark unhold", "systemctl disable --now", "rm -f", "systemctl daemon-reload"],
        ),
        # Interrupted before the files went; or a hold that is somebody else's.
        (deploy.removed, [_but(held=[], files={})], {}, [f"rm -f {aboard.KEYRING}"]),
        (deploy.removed, [_but(files={}, keyring=False, held=[*PACKAGES])], {}, []),
    ],
)
def test_operations(
    operation: Any, observed: list[dict[str, Any]], arguments: dict[str, Any], commands: list[str]
) -> None:
    found = yielded(operation, *observed, **arguments)
    assert len(found) == len(commands), found
    for command, words in zip(found, commands, strict=True):
        assert words in command


def test_another_list_of_the_repository_is_refused() -> None:
    (said,) = yielded(deploy.repository_known, _but(other_lists=["/etc/apt/x.list"]), **KNOWN)
    assert is_refusal(said)
    assert "rm /etc/apt/x.list" in said


MISMATCH = {"versions": {"loaded": "535.1", "library": "550.1"}, "nouveau": False}
AGREES = {"versions": {"loaded": "550.1", "library": "550.1"}, "nouveau": False}


@pytest.mark.parametrize(
    ("observed", "driver", "commands"),
    [
        (AS_WANTED, MISMATCH, []),
        (_but(uvm=False, gone=["/x.so"]), MISMATCH, []),
        (BARE, MISMATCH, ["FileUpload", "systemctl daemon-reload", "systemctl enable"]),
        (_but(uvm=False), AGREES, ["_module.describe("]),
    ],
    ids=["as wanted", "lacking", "bare", "nothing waits"],
)
def test_a_run_that_may_not_reboot_leaves_the_description_to_the_boot(
    observed: dict[str, Any], driver: dict[str, Any], commands: list[str]
) -> None:
    waiting.begin()
    found = yielded(deploy.described, observed, driver, **GPUS, deferred=True)
    assert len(found) == len(commands), found
    assert all(words in command for command, words in zip(found, commands, strict=True))
    named = [] if observed is AS_WANTED or driver is AGREES else ["nvidia_containers"]
    assert [one.capability for one in waiting.waiting("a node")] == named
    # And one that may reboot has done so before it comes here: what is still wrong is a fault.
    if named:
        assert "_module.describe(" in yielded(deploy.described, observed, driver, **GPUS)[-1]


def test_the_list_and_the_unit() -> None:
    text = list_text(MIRROR)
    assert f"deb [signed-by={aboard.KEYRING}] {MIRROR}/stable/deb/$(ARCH) /\n" in text
    for owned in (text, unit_text()):
        assert owned.startswith("# Managed by Homeport (nvidia_containers).")
    assert "Before=docker.service" in unit_text()
    # /dev/nvidia-uvm is made before the GPUs are described: what is not there is left out.
    before, _, _ = unit_text().partition("\nExecStart=/usr/bin/nvidia-ctk cdi generate")
    made = "nvidia-ctk system create-device-nodes --control-devices --load-kernel-modules"
    assert before.endswith(f"\nExecStartPre=-/usr/bin/{made}")


def test_a_machine_without_the_toolkit() -> None:
    """What the program aboard says where nothing of it is there, as on the desk."""
    state = aboard.observe("", [], ["/no/such/file"], "")
    assert state.keys() == AS_WANTED.keys()
    assert state["files"] == {}


# What drift says --------------------------------------------------------------------------------

NO_LIST = (f"{LIST_FILE}: sha256 {_digest(list_text(REPOSITORY))[:12]}", "no such file")
NO_UNIT = (f"{UNIT_FILE}: sha256 {_digest(unit_text())[:12]}", "no such file")
THE_KEY = f"{aboard.KEYRING}: the key {FINGERPRINT} alone"
UNLOADED = "an older one is loaded, or none"
WORDS: list[Words] = [
    (deploy.repository_known, [BARE], KNOWN, [(THE_KEY, "no such file"), NO_LIST]),
    (deploy.repository_known, [_but(key=[OURS])], KNOWN, [(THE_KEY, OURS)]),
    (deploy.repository_known, [_but(key=[])], KNOWN, [(THE_KEY, "nothing that is a key")]),
    (
        deploy.repository_known,
        [_but(other_lists=["/etc/apt/x.list"])],
        KNOWN,
        [
            (
                f"{REPOSITORY} in {LIST_FILE} alone",
                f"/etc/apt/x.list names the repository {REPOSITORY} too, and apt does nothing any "
                "more when two files give one repository different keys",
            )
        ],
    ),
    (
        deploy.packages,
        [{**INSTALLED, "installed": {**INSTALLED["installed"], PACKAGES[0]: "1.17.8-1"}}, BARE],  # type: ignore[dict-item]
        PINNED,
        [
            (f"package {PACKAGES[0]} {SPEC.version}", "1.17.8-1"),
            *((f"package {name}: held", "not held") for name in PACKAGES),
        ],
    ),
    (
        deploy.described,
        [BARE],
        {"gpus": (LEFT,), "address": REPOSITORY},
        [
            NO_UNIT,
            ("homeport-nvidia-cdi.service: loaded as on the disk", UNLOADED),
            ("homeport-nvidia-cdi.service: enabled", "not enabled"),
            ("CDI: the GPU left (GPU-1)", "not described"),
        ],
    ),
    (
        deploy.described,
        [_but(gone=["/x.so"], unit={"enabled": True, "active": False, "stale": False})],
        GPUS,
        [("CDI: only what is there", "no /x.so")],
    ),
    (
        deploy.described,
        [_but(unit={**AS_WANTED["unit"], "dropins": [THEIRS]})],
        GPUS,
        [not_ours("homeport-nvidia-cdi.service")],
    ),
    (
        deploy.described,
        [_but(uvm=False)],
        GPUS,
        [("CDI: /dev/nvidia-uvm, which CUDA needs", "not described")],
    ),
    (
        deploy.described,
        [_but(unit={"enabled": True, "active": False, "stale": False})],
        GPUS,
        [("homeport-nvidia-cdi.service: active", "not active")],
    ),
    (
        deploy.removed,
        [_but(files=as_put({LIST_FILE: "0"}), held=["libnvidia-container1"])],
        {},
        [
            (f"{LIST_FILE}: no such file", "a file of ours"),
            (f"{aboard.KEYRING}: no such file", "a file of ours"),
            ("package libnvidia-container1: not held", "held"),
        ],
    ),
]
