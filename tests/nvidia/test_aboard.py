"""The programs aboard: what they read through NVML, set, and take back; the driver's versions."""

import inspect
import json
import re
from pathlib import Path
from typing import Any

import pynvml
import pytest

from homeport.lab.nvml import HERE, SOURCE
from homeport_node import kernel_cmdline_grub as grub
from homeport_node import nvidia, nvidia_driver, nvidia_settings
from homeport_node.common import Ran
from tests.nvidia.fake_nvml import LEFT, RIGHT, FakeCard, FakeNvml

RECORDED = Path(__file__).with_name("recorded.json")
SET: dict[str, Any] = {"handle": "left", "power_limit": 200, "locked_clocks": [300, 1800]}
LOST = {"nvmlDeviceGetHandleByIndex": pynvml.NVML_ERROR_GPU_IS_LOST}

# Reading ----------------------------------------------------------------------------------------


def test_what_is_read_of_a_card() -> None:
    nvml = FakeNvml(FakeCard(LEFT, busy=True))
    found = nvidia.through_nvml(nvml)
    assert nvml.open == 0
    assert (found["error"], found["lost"], found["driver"]) == ("", [], "550.163.01")
    assert found["cards"] == [
        {
            "uuid": LEFT,
            "name": "NVIDIA GeForce RTX 2080 Ti",
            "pci": "00000000:0a:00.0",
            "persistence": True,
            "power_w": 250.0,
            "power_default_w": 250.0,
            "power_min_w": 100.0,
            "power_max_w": 280.0,
            "clock_mhz": 2100,
            "clock_max_mhz": 2100,
            "temperature_c": 41,
            "memory_mib": 11264,
            "memory_used_mib": 512,
            "clock_reasons": ["software power cap", "hardware power brake"],
            "processes": [{"pid": 42, "memory_mib": 256}],
        }
    ]


def test_what_a_card_does_not_support_is_none() -> None:
    absent = {
        "nvmlDeviceGetPowerManagementLimit": pynvml.NVML_ERROR_NOT_SUPPORTED,
        "nvmlDeviceGetCurrentClocksEventReasons": pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        "nvmlDeviceGetTemperature": pynvml.NVML_ERROR_UNKNOWN,
    }
    (card,) = nvidia.through_nvml(FakeNvml(FakeCard(LEFT, fails=absent)))["cards"]
    assert (card["power_w"], card["clock_reasons"], card["temperature_c"]) == (None, [], None)


def test_a_lost_card_is_named_and_the_others_are_read() -> None:
    half = {"nvmlDeviceGetClockInfo": pynvml.NVML_ERROR_GPU_IS_LOST}
    found = nvidia.through_nvml(
        FakeNvml(FakeCard("x", fails=LOST), FakeCard(LEFT), FakeCard(RIGHT, fails=half))
    )
    assert [card["uuid"] for card in found["cards"]] == [LEFT]
    assert found["lost"] == ["GPU 0: GPU is lost", f"{RIGHT}: GPU is lost"]


@pytest.mark.parametrize(
    ("code", "mismatch"),
    [
        (pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH, True),
        (pynvml.NVML_ERROR_DRIVER_NOT_LOADED, False),
    ],
)
def test_a_library_that_does_not_come_up(code: int, mismatch: bool) -> None:
    found = nvidia.through_nvml(FakeNvml(init=code))
    assert (found["cards"], found["mismatch"], bool(found["error"])) == ([], mismatch, True)


@pytest.mark.parametrize(
    ("ran", "limits", "mismatch"),
    [
        (Ran(0, f"{LEFT}, X, 00000000:01:00.0, 100.00, 280.00, 2100\n", ""), (100, 280), False),
        (Ran(0, f"{LEFT}, X, 00000000:01:00.0, [N/A], [N/A], 2100\n", ""), (None, None), False),
        (Ran(18, "Failed to initialize NVML: Driver/library version mismatch\n", ""), None, True),
        (Ran(127, "", "no such file"), None, False),
    ],
)
def test_without_the_bindings_nvidia_smi_is_asked(
    monkeypatch: pytest.MonkeyPatch, ran: Ran, limits: Any, mismatch: bool
) -> None:
    monkeypatch.setattr(nvidia, "run", lambda *_: ran)
    found = nvidia.through_smi()
    assert [(one["power_min_w"], one["power_max_w"]) for one in found["cards"]] == (
        [limits] if limits else []
    )
    assert (bool(found["error"]), found["mismatch"]) == (limits is None, mismatch)


# Setting ----------------------------------------------------------------------------------------


@pytest.fixture
def applied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(nvidia, "APPLIED", str(tmp_path / "applied.json"))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(nvidia_settings, "SETTLE_S", 0)
    return tmp_path / "applied.json"


def bring(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml, wanted: dict[str, Any]) -> str:
    """What `apply` complains of, "" for nothing."""
    monkeypatch.setattr(nvidia, "bindings", lambda: nvml)
    try:
        nvidia_settings.apply(wanted)
    except SystemExit as why:
        return str(why)
    finally:
        assert nvml.open == 0
    return ""


def test_settings_are_set_and_taken_back(applied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = FakeCard(LEFT), FakeCard(RIGHT)
    nvml = FakeNvml(left, right)
    assert bring(monkeypatch, nvml, {LEFT: SET}) == ""
    assert (left.power, left.lock) == (200_000, (300, 1800))
    assert (right.power, right.lock) == (250_000, None)
    assert json.loads(applied.read_text()) == {LEFT: SET}
    assert bring(monkeypatch, nvml, {LEFT: {**SET, "power_limit": None}}) == ""
    assert (left.power, left.lock) == (250_000, (300, 1800))
    assert bring(monkeypatch, nvml, {}) == ""
    assert (left.power, left.lock) == (250_000, None)
    assert not applied.exists()


def test_what_is_not_ours_is_left_alone(applied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = FakeCard(LEFT, power=120_000, lock=(1, 2))
    assert bring(monkeypatch, FakeNvml(left), {}) == ""
    assert bring(monkeypatch, FakeNvml(left), {LEFT: {"handle": "left", "power_limit": 150}}) == ""
    assert (left.power, left.lock) == (150_000, (1, 2))


def test_a_setter_that_does_nothing_is_named(
    applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = FakeCard(LEFT, silent=True, busy=True)
    words = bring(monkeypatch, FakeNvml(left), {LEFT: SET})
    assert f"left ({LEFT}): power limit: the driver accepted 200 W, and reads 250 W" in words
    assert f"left ({LEFT}): locked clocks: the driver accepted 1800 MHz" in words
    assert words.endswith("runs at 2100 MHz")


@pytest.mark.parametrize(
    ("nvml", "wanted", "words"),
    [
        (FakeNvml(FakeCard(LEFT)), {"power_limit": 300}, "power_limit 300 W; the card allows 100"),
        (FakeNvml(FakeCard(LEFT)), {"power_limit": 99}, "allows 100 to 280 W"),
        (FakeNvml(FakeCard(LEFT)), {"locked_clocks": [300, 2500]}, "allows at most 2100 MHz"),
        (FakeNvml(FakeCard(RIGHT)), {"power_limit": 200}, "the driver lists no such GPU"),
        (FakeNvml(FakeCard(LEFT, fails=LOST)), {"power_limit": 200}, "GPU 0: GPU is lost"),
        (
            FakeNvml(
                FakeCard(
                    LEFT,
                    fails={"nvmlDeviceSetGpuLockedClocks": pynvml.NVML_ERROR_NOT_SUPPORTED},
                )
            ),
            {"locked_clocks": [300, 1800]},
            "Not Supported",
        ),
        (
            FakeNvml(init=pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH),
            {"power_limit": 200},
            "version mismatch.: reboot the node",
        ),
    ],
)
def test_what_cannot_be_set_is_named(
    applied: Path,
    monkeypatch: pytest.MonkeyPatch,
    nvml: FakeNvml,
    wanted: dict[str, Any],
    words: str,
) -> None:
    assert words in bring(monkeypatch, nvml, {LEFT: {"handle": "left", **wanted}})
    for card in nvml.cards:
        assert (card.power, card.lock) == (250_000, None)


def test_one_card_that_fails_does_not_keep_the_others(
    applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = FakeCard(RIGHT)
    wanted = {LEFT: SET, RIGHT: {"handle": "right", "power_limit": 150}}
    assert "no such GPU" in bring(monkeypatch, FakeNvml(right), wanted)
    assert right.power == 150_000
    assert json.loads(applied.read_text()) == {RIGHT: wanted[RIGHT]}


def test_without_a_driver_there_is_nothing_to_take_back(
    applied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.write_text(json.dumps({LEFT: SET}))
    assert bring(monkeypatch, FakeNvml(init=pynvml.NVML_ERROR_DRIVER_NOT_LOADED), {}) == ""
    assert not applied.exists()


def test_only_root_sets_anything(applied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "only root" in bring(monkeypatch, FakeNvml(FakeCard(LEFT)), {LEFT: SET})


def test_the_verbs(applied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    left = FakeCard(LEFT)
    (tmp_path / "wanted.json").write_text(json.dumps({LEFT: SET}))
    monkeypatch.setattr(nvidia, "WANTED", str(tmp_path / "wanted.json"))
    monkeypatch.setattr(nvidia, "bindings", lambda: FakeNvml(left))
    assert nvidia.VERBS["apply"]([]) == 0
    assert left.power == 200_000
    assert nvidia.VERBS["reset"]([]) == 0
    assert left.power == 250_000


# The simulation -------------------------------------------------------------------------------


def symbols(function: str) -> set[str]:
    """The symbols that the binding `function` looks up in the library."""
    text = inspect.getsource(getattr(pynvml, function))
    found = set(re.findall(r'_nvmlGetFunctionPointer\("(\w+)"\)', text))
    if function == "nvmlDeviceGetMemoryInfo":  # the other one is for a version that is not asked
        found.discard("nvmlDeviceGetMemoryInfo_v2")
    called = set(re.findall(r"\b(nvml[A-Z]\w+)\(", text)) - {function}
    return found or {one for name in called for one in symbols(name)}


def test_the_simulation_has_what_is_called_and_nothing_else() -> None:
    texts = inspect.getsource(nvidia) + inspect.getsource(nvidia_settings)
    called = set(re.findall(r"\b(nvml(?:Init|Shutdown|System|Device)\w*)\b", texts))
    assert len(called) > 15
    wanted = {symbol for name in called for symbol in symbols(name)}
    daemon = (HERE / "nvidia-persistenced").read_text()
    wanted |= set(re.findall(r"nvml\.(nvml\w+)\(", daemon)) | {"nvmlErrorString"}
    defined = re.findall(r"^(?:int|const char \*)\s*(nvml\w+)\(", SOURCE.read_text(), re.M)
    assert set(defined) == wanted
    assert len(defined) == len(wanted)
    real: list[str] = json.loads(RECORDED.read_text())["symbols"]
    assert wanted <= set(real)


# The driver -------------------------------------------------------------------------------------

AGREES: dict[str, Any] = {
    "nouveau": False,
    "next_kernel": "6.12.48+deb13-amd64",
    "versions": {"loaded": "550.163.01", "library": "550.163.01", "next": "550.163.01"},
}


def versions(**changes: str) -> dict[str, Any]:
    return {**AGREES, "versions": {**AGREES["versions"], **changes}}


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (AGREES, ""),
        (versions(library="", loaded="", next=""), ""),
        (versions(loaded=""), ""),
        ({**versions(loaded=""), "nouveau": True}, "nouveau holds the GPUs"),
        (versions(loaded="535.261.03"), "the loaded nvidia module is 535.261.03"),
    ],
    ids=["agrees", "no driver", "not loaded yet", "nouveau", "an older module is loaded"],
)
def test_reasons_for_a_reboot(observed: dict[str, Any], reason: str) -> None:
    found = nvidia.reboot_reasons(observed)
    assert len(found) == bool(reason)
    assert all(one.startswith(reason) for one in found)


@pytest.mark.parametrize(
    ("observed", "refusal"),
    [
        (AGREES, ""),
        (versions(loaded="535.261.03"), ""),
        (versions(library="", next=""), ""),
        ({**versions(next=""), "next_kernel": ""}, ""),
        (versions(next=""), "6.12.48+deb13-amd64, is missing"),
        (versions(next="535.261.03"), "is 535.261.03, and the installed driver is 550.163.01"),
    ],
    ids=["agrees", "the reboot heals it", "no driver", "a container", "not built", "another"],
)
def test_what_forbids_a_reboot(observed: dict[str, Any], refusal: str) -> None:
    found = nvidia.reboot_refusals(observed)
    assert len(found) == bool(refusal)
    assert all(refusal in one and "dkms autoinstall -k" in one for one in found)


def test_a_driver_that_is_not_ours_asks_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torn = versions(loaded="535.261.03", next="")
    monkeypatch.setattr(nvidia, "agreement", lambda: torn)
    monkeypatch.setattr(nvidia, "MANAGED", (tmp_path / "held",))
    assert (nvidia.reboot_reason(), nvidia.reboot_fault()) == ("", "")
    (tmp_path / "held").touch()
    assert "535.261.03" in nvidia.reboot_reason()
    assert "is missing" in nvidia.reboot_fault()


MENU = """\
set default="${{saved_entry}}"
menuentry 'Newest' {{
	linux	/vmlinuz-6.12.48-amd64 root=/dev/vda1
}}
menuentry 'Older' --id old {{
	linux	/boot/vmlinuz-{older} root=/dev/vda1
}}
"""


def test_the_kernel_that_boots_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins, menu = (tmp_path / "next-boot-pin", tmp_path / "boot-pin"), tmp_path / "grub.cfg"
    saved: dict[str, str] = {}
    monkeypatch.setattr(nvidia, "BOOT", tmp_path)
    monkeypatch.setattr(nvidia, "PINS", pins)
    monkeypatch.setattr(grub, "CFG", menu)
    monkeypatch.setattr(grub, "environment", lambda: saved)
    assert nvidia.next_kernel() == ""
    for release in ("6.12.9-amd64", "6.12.48-amd64", "6.1.0-9-amd64"):
        (tmp_path / f"vmlinuz-{release}").touch()
    assert nvidia.next_kernel() == "6.12.48-amd64"
    menu.write_text(MENU.format(older="6.12.9-amd64"))
    assert nvidia.next_kernel() == "6.12.48-amd64"
    saved["saved_entry"] = "old"
    assert nvidia.next_kernel() == "6.12.9-amd64"
    monkeypatch.setattr(nvidia, "PROXMOX", tmp_path)
    assert nvidia.next_kernel() == "6.12.48-amd64"
    monkeypatch.setattr(nvidia, "PROXMOX", tmp_path / "none")
    pins[1].write_text("6.1.0-9-amd64\n")
    assert nvidia.next_kernel() == "6.1.0-9-amd64"
    pins[0].write_text("6.12.48-amd64\n")
    assert nvidia.next_kernel() == "6.12.48-amd64"
    pins[0].write_text("6.8.0-gone\n")
    pins[1].unlink()
    menu.write_text(MENU.format(older="6.8.0-gone"))
    assert nvidia.next_kernel() == "6.12.48-amd64"


def test_the_versions_of_the_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "libnvidia-ml.so.550.163.01").touch()
    (tmp_path / "libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.550.163.01")
    assert nvidia.library_version([tmp_path / "libnvidia-ml.so.1"]) == "550.163.01"
    assert nvidia.library_version([]) == ""
    monkeypatch.setattr(nvidia, "MODULES", tmp_path)
    folder = tmp_path / "6.12.48-amd64/updates/dkms"
    folder.mkdir(parents=True)
    (folder / "nvidia-current-modeset.ko.xz").touch()
    monkeypatch.setattr(nvidia, "run", lambda *words: Ran(0, f"of {words[-1]}\n", ""))
    assert nvidia.module_file("6.12.48-amd64") == ""
    (folder / "nvidia-current.ko.xz").touch()
    module = nvidia.module_file("6.12.48-amd64")
    assert module == f"{folder}/nvidia-current.ko.xz"
    assert (nvidia.modinfo(module, "version"), nvidia.modinfo("", "version")) == (
        f"of {module}",
        "",
    )


@pytest.mark.parametrize(
    ("state", "signed", "key", "known", "refused"),
    [
        ("SecureBoot enabled", "0A:FF:31", b"\x02\x03\x0a\xff\x31", "is not enrolled", True),
        ("SecureBoot enabled", "0A:FF:31", b"\x0a\xff\x31", "is already enrolled", False),
        ("SecureBoot enabled", "0A:FF:31", b"another", "is not enrolled", False),
        ("SecureBoot enabled", "", b"any", "is not enrolled", False),
        ("SecureBoot disabled", "0A:FF:31", b"\x0a\xff\x31", "is not enrolled", False),
        (
            "SecureBoot enabled\nSecureBoot validation is disabled in shim",
            "0A:FF:31",
            b"\x0a\xff\x31",
            "is not enrolled",
            False,
        ),
        ("", "0A:FF:31", b"\x0a\xff\x31", "", False),
    ],
    ids=["unknown", "enrolled", "somebody else's", "nobody's", "off", "not checked", "no mokutil"],
)
def test_a_module_that_secure_boot_will_not_let_in(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
    signed: str,
    key: bytes,
    known: str,
    refused: bool,
) -> None:
    said = {"--sb-state": state, "sig_key": signed, "--test-key": f"x {known}"}

    def run(*words: str) -> Ran:
        return Ran(0, next((out for word, out in said.items() if word in words), "") + "\n", "")

    path = tmp_path / "mok.pub"
    path.write_bytes(key)
    monkeypatch.setattr(nvidia, "SIGNERS", (tmp_path / "absent", path))
    monkeypatch.setattr(nvidia, "run", run)
    found = nvidia.unknown_signer("/lib/nvidia.ko")
    assert found == (str(path) if refused else "")
    refusals = nvidia.reboot_refusals({**AGREES, "unknown_signer": found})
    assert [f"`mokutil --import {path}`" in one for one in refusals] == [True] * refused


def test_what_dpkg_and_apt_say() -> None:
    shown = (
        "hi \tnvidia-smi\t550.163.01-2\nii \tlibcuda1\t550.163.01-2\nrc \tnvidia-old\t1\n"
        "iU \tnvidia-half\t1\nii \tcurl\t8.14\nii \tlinux-image-amd64\t6.12.48-1\n"
    )
    assert nvidia_driver.packages(shown) == {
        "nvidia-smi": {"version": "550.163.01-2", "held": True},
        "libcuda1": {"version": "550.163.01-2", "held": False},
        "linux-image-amd64": {"version": "6.12.48-1", "held": False},
    }
    sites = (
        "http://d.example/debian/ trixie main /etc/apt/sources.list:1 Debian\n"
        "http://x.example/ trixie main /etc/apt/sources.list.d/x.list:2 Other Project\n"
    )
    assert nvidia_driver.archives(sites) == [
        ["http://d.example/debian/", "trixie", "main", "/etc/apt/sources.list", ""]
    ]


STANZAS = """\
# a header

# Signed-By: /no.gpg
Types: deb
Enabled: no

Types: deb
signed-by: /a.gpg
URIs: http://a.example/debian

Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQ
Types: deb
"""
LINES = (
    "# a header\n\ndeb [arch=amd64 signed-by=/b.gpg] http://b.example/ s main\ndeb http://c/ s main"
)


@pytest.mark.parametrize(
    ("name", "number", "value"),
    [
        ("x.sources", 1, ""),
        ("x.sources", 2, "/a.gpg"),
        ("x.sources", 3, "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQ"),
        ("x.sources", 4, ""),
        ("x.list", 3, "/b.gpg"),
        ("x.list", 4, ""),
        ("x.list", 5, ""),
    ],
)
def test_the_key_of_an_entry(tmp_path: Path, name: str, number: int, value: str) -> None:
    (tmp_path / "x.sources").write_text(STANZAS)
    (tmp_path / "x.list").write_text(LINES)
    assert nvidia_driver.signed_by(f"{tmp_path / name}:{number}") == value


def test_an_apt_that_cannot_read_its_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Ran(100, "", "E: Conflicting values set for option Signed-By\n")
    monkeypatch.setattr(nvidia_driver, "run", lambda *_: said)
    assert "Conflicting" in nvidia_driver.observe([], "/no/such/key")["apt_error"]


def test_what_we_hold_is_remembered_and_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, ...]] = []

    def run(*words: str) -> Ran:
        ran.append(words)
        # Of the third, "gone", it knows nothing any more, and says so by its exit status.
        return Ran(words[0] == "dpkg-query", "hold a\ninstall b\n", "")

    monkeypatch.setattr(nvidia_driver, "HELD", tmp_path / "lib/held")
    monkeypatch.setattr(nvidia_driver, "run", run)
    assert nvidia_driver.hold(["b"]) is None
    assert nvidia_driver.hold(["a", "gone"]) is None
    assert (tmp_path / "lib/held").read_text() == "a\nb\ngone\n"
    assert nvidia_driver.release() is None
    assert ran[-1] == ("apt-mark", "unhold", "a")
    assert not (tmp_path / "lib/held").exists()
    assert nvidia_driver.release() is None
    assert len(ran) == 4
