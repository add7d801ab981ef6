"""The sources' small parts: names, links of saved images, the package index's pages."""

import tarfile
from pathlib import Path
from typing import cast

import pytest

from homeport.lab import index, registry, sources
from homeport.lab.authority import Authority
from homeport.lab.engine import Engine
from homeport.lab.gpus import simulated_gpus
from homeport.lab.machine import Machine
from homeport.lab.targets import write_targets
from homeport.targets import read_targets


def test_image_names_lose_their_registry() -> None:
    assert sources._split("ghcr.io/ggml-org/llama.cpp:server-cuda") == (
        "ggml-org/llama.cpp",
        "server-cuda",
    )


@pytest.mark.parametrize(
    ("kind", "name", "to", "meant"),
    [
        (tarfile.SYMTYPE, "b/layer.tar", "../a/layer.tar", "a/layer.tar"),
        (tarfile.LNKTYPE, "b/layer.tar", "a/layer.tar", "a/layer.tar"),
    ],
)
def test_a_layer_saved_once_is_found(kind: bytes, name: str, to: str, meant: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    assert registry._beside(member) == meant


@pytest.mark.parametrize(
    ("file", "project"),
    [
        ("huggingface_hub-2.4.0-py3-none-any.whl", "huggingface-hub"),
        ("PyYAML-6.0.3-cp311-cp311-manylinux_2_28_x86_64.whl", "pyyaml"),
        ("zope.event-5.0.tar.gz", "zope-event"),
    ],
)
def test_project_of_a_file(file: str, project: str) -> None:
    assert index.project_of(file) == project


def test_hash_follows_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.whl"
    file.write_bytes(b"one")
    first = index.sha256_of(file, 3, file.stat().st_mtime_ns)
    file.write_bytes(b"two")
    assert index.sha256_of(file, 3, file.stat().st_mtime_ns + 1) != first


def test_targets_are_read_back(tmp_path: Path) -> None:
    gpus = simulated_gpus("iona", ("left", "right"))
    engine = cast(Engine, None)  # writing targets asks no daemon
    made = sources.Sources(
        engine=engine,
        container="x",
        address="10.214.1.11",
        authority=Authority(),
        registries={"ghcr.io": "registry.lab.internal:5000"},
        commands={"hub": ("", 443)},
    )
    machine = Machine(
        engine=engine,
        name="iona",
        container="y",
        address="10.214.1.12",
        host_key="ssh-ed25519 AAAA",
        ssh_key=tmp_path / 'a "quoted" key',
        gpus=gpus,
    )
    target = read_targets(write_targets(tmp_path, {"iona": machine}, made))["iona"]
    assert target.address == machine.address
    assert target.gpu("right") == gpus[1].uuid
    assert target.ssh_key == str(machine.ssh_key)
    assert "radio" in target.lacks
    assert target.sources.registries == made.registries
    assert (target.sources.hub, target.sources.pypi) == ("https://10.214.1.11", "")
    assert target.sources.ca_certificates == (made.authority.certificate,)
