"""The lab's package repository and the stand-in of NVIDIA's toolkit, without a lab."""

import hashlib
import json
import os
import subprocess
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from deploys.nvidia_containers import NvidiaContainers
from deploys.nvidia_containers.spec import REPOSITORY
from homeport.lab import LabError
from homeport.lab.content import apt_repository
from homeport.lab.gpus import gpu_table, simulated_gpus
from homeport.lab.machine import HARDWARE
from homeport_node.nvidia_containers import HOST_PATH

GPUS = simulated_gpus("iona", ("left", "right"))
PINS = NvidiaContainers().pins


def test_every_package_that_an_inventory_pins_is_there(tmp_path: Path) -> None:
    apt_repository.write_repository(tmp_path / "x", PINS, "amd64")
    folder = tmp_path / "x/stable/deb/amd64"
    index = (folder / "Packages").read_text()
    digest = hashlib.sha256(index.encode()).hexdigest()
    assert f" {digest} {len(index)} Packages\n" in (folder / "Release").read_text()
    found = set()
    for paragraph in index.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines())
        data = (folder / fields["Filename"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == fields["SHA256"]
        assert len(data) == int(fields["Size"])
        found.add(f"{fields['Package']}={fields['Version']}")
    assert found == set(PINS)
    assert apt_repository.PUBLIC == REPOSITORY
    listed = subprocess.run(
        ["dpkg-deb", "--contents", *folder.glob("nvidia-container-toolkit-base_*")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-rwxr-xr-x root/root" in listed
    assert "./usr/bin/nvidia-container-runtime\n" in listed


def test_a_package_that_the_lab_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no-such-package"):
        apt_repository.write_repository(tmp_path / "x", ("no-such-package=1",), "amd64")


@pytest.fixture
def toolkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The stand-in, on a machine with two simulated GPUs."""
    loader = SourceFileLoader("toolkit", str(HARDWARE / "nvidia-ctk"))
    spec = spec_from_loader("toolkit", loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    (tmp_path / "gpus").write_bytes(gpu_table(GPUS))
    monkeypatch.setattr(module, "HOME", str(tmp_path))
    monkeypatch.setattr(module, "LINES", tmp_path / "lines")
    monkeypatch.setattr(os, "mknod", lambda *_: None)
    monkeypatch.setattr(os, "chmod", lambda *_: None)
    return module


def test_the_description_names_each_gpu(toolkit: ModuleType, tmp_path: Path) -> None:
    toolkit.generate([f"--output={tmp_path}/cdi/nvidia.yaml"])
    text = (tmp_path / "cdi/nvidia.yaml").read_text()
    for name in ("0", "1", *(gpu.uuid for gpu in GPUS), "all"):
        assert f'- name: "{name}"\n' in text
    assert set(HOST_PATH.findall(text)) == {
        "/usr/bin/nvidia-smi",
        *(f"{tmp_path}/lines/{gpu.uuid}" for gpu in GPUS),
    }
    assert (tmp_path / "lines" / GPUS[1].uuid).read_text().startswith(f"1|{GPUS[1].uuid}|")


def test_no_gpu_is_no_description(toolkit: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "gpus").unlink()
    with pytest.raises(SystemExit):
        toolkit.generate([f"--output={tmp_path}/nvidia.yaml"])
    assert not (tmp_path / "nvidia.yaml").exists()


@pytest.mark.parametrize(("asked", "count"), [(GPUS[1].uuid, 1), ("all", 2), ("void", 0), ("", 0)])
def test_the_runtime_hands_over_what_is_asked_for(
    toolkit: ModuleType, tmp_path: Path, asked: str, count: int
) -> None:
    config = {"process": {"env": [f"NVIDIA_VISIBLE_DEVICES={asked}"]}, "mounts": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    toolkit.hand_over(str(tmp_path))
    made = json.loads((tmp_path / "config.json").read_text())
    linux = made.get("linux", {})
    assert len(linux.get("devices", [])) == count
    allowed = linux.get("resources", {}).get("devices", [])
    assert [one["minor"] for one in allowed] == [one["minor"] for one in linux.get("devices", [])]
    assert len(made["mounts"]) == (count + 1 if count else 0)


def test_the_runtime_refuses_a_gpu_that_is_not_there(toolkit: ModuleType, tmp_path: Path) -> None:
    config = {"process": {"env": ["NVIDIA_VISIBLE_DEVICES=GPU-no"]}, "mounts": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        toolkit.hand_over(str(tmp_path))
