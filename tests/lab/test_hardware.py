"""The simulated GPUs: what nvidia-smi answers, and which ones a container is granted."""

import dataclasses
import os
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from homeport.lab.gpus import gpu_table, simulated_gpus
from homeport.lab.machine import HARDWARE

GPUS = simulated_gpus("iona", ("left", "right"))
TABLE = gpu_table(GPUS).decode().splitlines()


def loaded(program: str) -> ModuleType:
    """A simulated program as a module."""
    spec = spec_from_loader("program", SourceFileLoader("program", str(HARDWARE / program)))
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    return loaded("nvidia-container-runtime-hook")


def smi(tmp_path: Path, table: bytes, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the simulated nvidia-smi with `table` in the place of the machine's."""
    folder = tmp_path / "usr/lib/simulated-gpu"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpus").write_bytes(table)
    return subprocess.run(
        ["sh", str(HARDWARE / "nvidia-smi"), *arguments],
        env={**os.environ, "SIMULATED_GPU_ROOT": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_uuids_are_stable_and_distinct() -> None:
    assert simulated_gpus("iona", ("left", "right")) == GPUS
    assert len({gpu.uuid for gpu in (*GPUS, *simulated_gpus("other", ("left",)))}) == 3


def test_list(tmp_path: Path) -> None:
    done = smi(tmp_path, gpu_table(GPUS), "-L")
    assert done.stdout.splitlines() == [
        f"GPU 0: NVIDIA GeForce RTX 2080 Ti (UUID: {GPUS[0].uuid})",
        f"GPU 1: NVIDIA GeForce RTX 2080 Ti (UUID: {GPUS[1].uuid})",
    ]


def test_query(tmp_path: Path) -> None:
    wanted = "--query-gpu=index,uuid,memory.total"
    done = smi(tmp_path, gpu_table(GPUS[1:]), wanted, "--format=csv,noheader,nounits")
    assert done.stdout.strip() == f"0, {GPUS[1].uuid}, 11264"
    assert smi(tmp_path, gpu_table(GPUS), wanted, "--format=csv").stdout.splitlines()[0] == (
        "index, uuid, memory.total"
    )


def test_limits(tmp_path: Path) -> None:
    fields = "power.min_limit,power.max_limit,power.default_limit,clocks.max.gr"
    done = smi(tmp_path, gpu_table(GPUS[:1]), f"--query-gpu={fields}", "--format=csv,noheader")
    assert done.stdout.strip() == "100.00 W, 280.00 W, 250.00 W, 2100 MHz"


def test_a_gpu_that_was_given_away_is_not_listed(tmp_path: Path) -> None:
    left, right = GPUS
    device = tmp_path / "sys/bus/pci/devices/0000:0a:00.0"
    device.mkdir(parents=True)
    (device / "driver").symlink_to("../../drivers/vfio-pci")
    table = gpu_table((dataclasses.replace(left, pci="00000000:0A:00.0"), right))
    assert smi(tmp_path, table, "-L").stdout == f"GPU 0: {right.name} (UUID: {right.uuid})\n"
    (device / "driver").unlink()
    (device / "driver").symlink_to("../../drivers/bochs")
    assert len(smi(tmp_path, table, "-L").stdout.splitlines()) == 2


@pytest.mark.parametrize("arguments", [("--query-gpu=colour", "--format=csv"), ("--reset",)])
def test_what_is_not_simulated_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert smi(tmp_path, gpu_table(GPUS), *arguments).returncode == 2


def test_no_gpu(tmp_path: Path) -> None:
    done = smi(tmp_path, b"", "-L")
    assert done.returncode == 6
    assert "No devices" in done.stdout


@pytest.mark.parametrize(
    ("asked", "lines"),
    [
        ("", []),
        ("void", []),
        ("none", []),
        ("all", TABLE),
        ("1", TABLE[1:]),
        (GPUS[0].uuid, TABLE[:1]),
        (f"{GPUS[1].uuid},{GPUS[0].uuid}", [TABLE[1], TABLE[0]]),
    ],
)
def test_granted(hook: ModuleType, asked: str, lines: list[str]) -> None:
    assert hook.granted(asked, TABLE) == lines


def test_unknown_gpu_stops_the_container(
    hook: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        hook.granted("GPU-does-not-exist", TABLE)
    assert "GPU-does-not-exist: unknown device" in capsys.readouterr().err


def test_links_of_the_container_stay_in_it(hook: ModuleType, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "real").mkdir(parents=True)
    (root / "usr").symlink_to("/real")
    (root / "opt").symlink_to("../..")
    assert hook.inside(str(root), "/usr/bin") == str(root / "real" / "bin")
    with pytest.raises(SystemExit):
        hook.inside(str(root), "/opt/bin")


def test_cdis_description_has_the_control_device_once_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ctk = loaded("nvidia-ctk")
    made: dict[str, int] = {}

    def mknod(path: str, mode: int, device: int) -> None:
        Path(path).touch()
        made[Path(path).name] = os.minor(device)

    for name in ("DEV", "HOME"):
        monkeypatch.setattr(ctk, name, str(tmp_path))
    monkeypatch.setattr(ctk, "LINES", tmp_path / "lines")
    monkeypatch.setattr(ctk.os, "mknod", mknod)
    with pytest.raises(SystemExit):
        ctk.control_devices()
    assert made == {}
    (tmp_path / "gpus").write_bytes(gpu_table(GPUS))
    assert "nvidia-uvm" not in ctk.description()
    ctk.control_devices()
    edits = ctk.description().partition("\ncontainerEdits:")[2]
    assert "  deviceNodes:\n  - path: /dev/nvidia-uvm\n" in edits
    assert made == {"nvidia0": 200, "nvidia1": 201, "nvidia-uvm": 209}
    assert (tmp_path / "nvidia-uvm").stat().st_mode & 0o777 == 0o666
    ctk.link()
    assert (tmp_path / "char/1:209").resolve() == tmp_path / "nvidia-uvm"
