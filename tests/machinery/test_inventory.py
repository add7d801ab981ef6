"""An inventory, its targets and its lock are validated whole, before any connection."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from homeport.inventory import host_data, without_lacking
from homeport.lock import Lock, LockedFile, LockedRepo, read_lock
from homeport.pins import Gpu, HubRepo, Image, bind, find, gpu, image
from homeport.spec import Spec, SpecError
from homeport.targets import Sources, Target, read_targets

SHA = "sha256:" + "0" * 64
MAC = "02:00:00:00:00:01"
UUID = "GPU-00000000-0000-0000-0000-000000000001"


@dataclass(frozen=True, kw_only=True, slots=True)
class Engine(Spec):
    CHECKS_NEED: ClassVar[dict[str, str]] = {"cuda": "that it computes"}

    image: Image
    gpus: tuple[Gpu, ...] = ()
    repo: HubRepo | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Radio(Spec):
    NEEDS = frozenset({"radio"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Driver(Spec):
    brings_driver = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine(Spec):
    engine: Engine
    driver: Driver | None = None
    radio: Radio | None = None


def target(**fields: object) -> Target:
    defaults: dict[str, object] = {"name": "n", "address": "192.0.2.1", "host_key": "ssh-ed25519 A"}
    return Target(**{**defaults, **fields})  # type: ignore[arg-type]


ENGINE = Engine(image=image("ghcr.io/a/b:tag"), gpus=(gpu("left"),))


def test_bind_fills_in_every_pin() -> None:
    lock = Lock(images={"ghcr.io/a/b:tag": SHA})
    bound = bind(Machine(engine=ENGINE), target(gpus={"left": UUID}), lock)
    assert bound.engine.gpus[0].uuid == UUID
    assert bound.engine.image.reference == f"ghcr.io/a/b@{SHA}"


def test_a_mirror_replaces_the_registry_alone() -> None:
    sources = Sources(registries={"ghcr.io": "mirror.example:5000"})
    bound = bind(ENGINE, target(gpus={"left": UUID}, sources=sources), Lock())
    assert bound.image.reference == "mirror.example:5000/a/b:tag"


def test_a_handle_without_a_target_is_refused() -> None:
    with pytest.raises(SpecError, match=r"gpus\.left: 'left' is a handle that the targets file"):
        bind(ENGINE, target(), Lock())


def test_a_gpu_without_a_uuid_is_refused_unless_a_driver_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    there = target(gpus={"left": ""})
    with pytest.raises(SpecError, match=r"gpus\.left: .*; while it has no driver, nvidia=Nvidia"):
        host_data(Machine(engine=ENGINE), there, Lock())
    node = host_data(Machine(engine=ENGINE, driver=Driver()), there, Lock())["node"]
    assert node.engine.gpus == (Gpu(handle="left"),)
    # Not in the file at all; and beside one that a driver has told already.
    for gpus in ({}, {"left": "", "right": UUID}):
        with pytest.raises(SpecError, match=r"gpus\.left: 'left' is a handle"):
            host_data(Machine(engine=ENGINE, driver=Driver()), target(gpus=gpus), Lock())


def test_a_lock_of_other_patterns_is_refused() -> None:
    file = LockedFile(path="x.gguf", size=1, sha256="0" * 64)
    locked = LockedRepo(commit="0" * 40, patterns=("*.gguf",), files=(file,))
    lock = Lock(repos={"a/b@main": locked})
    assert bind(HubRepo(repo="a/b", patterns=("*.gguf",)), target(), lock).files == (file,)
    with pytest.raises(SpecError, match="make the lock anew"):
        bind(HubRepo(repo="a/b", patterns=("*.bin",)), target(), lock)


def test_find_finds_what_is_nested() -> None:
    assert [pin.handle for pin in find(Machine(engine=ENGINE), Gpu)] == ["left"]


@pytest.mark.parametrize("name", ["b:tag", "ghcr.io/a/b", "ghcr.io/a/b:", "ghcr.io/a b:tag"])
def test_an_image_is_written_out(name: str) -> None:
    with pytest.raises(SpecError, match="must be registry/path:tag"):
        image(name)


def test_what_the_machine_lacks_is_reported_and_left_out() -> None:
    machine = Machine(engine=ENGINE, radio=Radio())
    kept, missing = without_lacking(machine, target(lacks={"radio": "a container"}))
    assert kept.radio is None
    assert [(m.capability, m.reason) for m in missing] == [("radio", "no radio: a container")]
    assert without_lacking(machine, target()) == (machine, ())


def test_what_cannot_be_shown_is_reported_and_stays() -> None:
    machine = Machine(engine=ENGINE)
    kept, missing = without_lacking(machine, target(lacks={"cuda": "a container"}))
    assert kept == machine
    assert [(m.capability, m.reason) for m in missing] == [
        ("engine", "that it computes: no cuda: a container")
    ]


def test_a_host_is_reached_by_its_key_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    machine = target(port=2222, user="me", gpus={"left": UUID})
    data = host_data(Machine(engine=ENGINE), machine, Lock())
    assert Path(data["ssh_known_hosts_file"]).read_text() == "[192.0.2.1]:2222 ssh-ed25519 A\n"
    assert data["ssh_strict_host_key_checking"] == "yes"
    assert data["_sudo"] is True


PEM = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"

TARGETS = """
[hosts.iona]
address = "192.0.2.1"
host_key = "ssh-ed25519 A"
gpus = { left = "GPU-00000000-0000-0000-0000-000000000001" }
[sources]
registries = { "ghcr.io" = "mirror:5000" }
ca_certificates = ["ca.crt"]
"""


def test_targets_are_read(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text(PEM)
    (tmp_path / "t.toml").write_text(TARGETS)
    iona = read_targets(tmp_path / "t.toml")["iona"]
    assert iona.gpu("left") == UUID
    assert iona.sources.ca_certificates == (PEM,)


HOST = "[hosts.iona]\naddress = 'a'\nhost_key = 'ssh-ed25519 A'\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "[hosts.iona]\naddress = ''\nhost_key = ''\n",
            "hosts.iona: is not filled in: it has no address",
        ),
        (
            "[hosts.iona]\naddress = 'a'\nhost_key = ''\n",
            "hosts.iona: is not filled in: it has no host_key",
        ),
        (
            f"{HOST}prt = 1\n",
            ": hosts.iona.prt: 1 is given for an",
        ),
        ("[sources]\nhubb = 'x'\n", "sources.hubb: 'x' is given for an unknown field"),
        ("[sources]\nca_certificates = ['no.crt']\n", "sources.ca_certificates: "),
        ("[hosts]\niona = 1\n", "hosts.iona: 1 must be a table"),
        ("hosts = 1\n", "hosts: 1 must be a table"),
        ("[sources]\nca_certificates = 1\n", "sources.ca_certificates: 1 must be a list"),
        ("[sources]\nca_certificates = ['t.toml']\n", "must be files that hold certificates"),
        ("[sources]\nhub = 'x'\n", "sources.hub: 'x' must be an address"),
        ("[sources]\npypi = 'x'\n", "sources.pypi: 'x' must be an address"),
        ("[sources]\nregistries = {'ghcr.io' = 'https://r'}\n", "without a scheme: 'https://r'"),
        (f"{HOST}port = 70000\n", ": hosts.iona.port: 70000 must be a TCP port"),
        (f"{HOST}gpus = {{ left = '0' }}\n", "must hold UUIDs as `nvidia-smi -L` prints them"),
        (f"{HOST}radios = {{ h = 'wlan0' }}\n", "must hold MAC addresses"),
        (
            "[hosts.iona]\naddress = 'a'\nhost_key = 'nonsense'\n",
            ": hosts.iona.host_key: 'nonsense' must",
        ),
        (f"{HOST}pci = {{ left = {{ id = 'x' }} }}\n", ": hosts.iona.pci.left.subsystem: "),
        (f"{HOST}gpus = {{ a = '{UUID}', b = '{UUID}' }}\n", "must name each UUID once"),
        (f"{HOST}radios = {{ a = '{MAC}', b = '{MAC}' }}\n", "must name each MAC address once"),
        (HOST.replace("'a'", "'root@a'"), ": hosts.iona.address: 'root@a' must be a name or an IP"),
        (HOST.replace("'a'", "'a:22'"), ": hosts.iona.address: 'a:22' must be a name or an IP"),
        (HOST.replace("'a'", "'a..b'"), ": hosts.iona.address: 'a..b' must be a name or an IP"),
        ("[host]\n", "host: is not a known table; known: hosts, sources"),
        ("[hosts", "is not TOML"),
    ],
)
def test_wrong_targets_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "t.toml"
    path.write_text(text)
    with pytest.raises(SpecError) as caught:
        read_targets(path)
    assert words in str(caught.value)
    assert str(path) in str(caught.value)


def test_what_is_no_text_is_no_targets_file(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_bytes(b"\xff")
    with pytest.raises(SpecError, match=r"t\.toml: is not TOML: "):
        read_targets(tmp_path / "t.toml")
    with pytest.raises(SpecError, match="Is a directory"):
        read_targets(tmp_path)


@pytest.mark.parametrize(
    ("file", "host", "words"),
    [
        ("iona.targets.toml", "iona", "{0}/iona.py --write"),
        ("iona.targets.toml", "kea", "{0}/iona.py --name kea --write"),
        ("other.toml", "kea", "INVENTORY --name kea --write"),
    ],
)
def test_what_is_not_filled_in_names_the_command(
    tmp_path: Path, file: str, host: str, words: str
) -> None:
    (tmp_path / "iona.py").touch()
    path = tmp_path / file
    path.write_text(f"[hosts.{host}]\naddress = ''\n")
    command = f"`bin/homeport probe HOST --inventory {words.format(tmp_path)}`"
    with pytest.raises(SpecError, match=command):
        read_targets(path)


def test_a_missing_targets_file_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iona.py").touch()
    with pytest.raises(SpecError, match="`bin/homeport probe HOST --inventory iona.py --write`"):
        read_targets(tmp_path / "iona.targets.toml")


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = LockedFile(path="x.gguf", size=1, sha256="0" * 64)
    repo = LockedRepo(commit="0" * 40, patterns=("*.gguf",), files=(file,))
    lock = Lock(images={"ghcr.io/a/b:tag": SHA}, repos={"a/b@main": repo})
    path = tmp_path / "iona.lock"
    path.write_text(lock.to_json())
    read = read_lock(path)
    assert (read.images, read.repos) == (lock.images, lock.repos)
    assert read.to_json() == lock.to_json()


@pytest.mark.parametrize("text", ["", "[]", '{"version": 2}', json.dumps({"version": 1})])
def test_what_is_no_lock_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "iona.lock"
    path.write_text(text)
    with pytest.raises(SpecError, match="make it anew with `bin/homeport lock mine/iona.py`"):
        read_lock(path, Path("mine/iona.py"))


def test_no_lock_is_an_empty_one(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "iona.lock") == Lock()
