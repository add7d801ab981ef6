"""The probe: parsers on recorded output, and targets files that `read_targets` accepts."""

import re
import socket
from pathlib import Path
from typing import Any

import pytest

from homeport.describe import Reached, Seen, assign, lacks, render
from homeport.probe import probe
from homeport.spec import SpecError
from homeport.targets import Target, read_targets
from homeport.targets_text import known, put
from homeport_node.probe import has_access_point, parse_gpus, pci_address

# A key made for this test alone, and what `ssh-keygen -l` printed for it.
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHWEaRnHbCTZTGT1qsO99kdfVCgWLbdnT075joy4qFFZ"
FINGERPRINT = "SHA256:40badujkIH3TcrV1fVUww8uYj+DXE/cIDDmziSS1BsY"

# In the format that `nvidia-smi --help-query-gpu` documents, with csv,noheader,nounits.
SMI_TWO = """\
0, NVIDIA GeForce RTX 2080 Ti, GPU-11111111-2222-3333-4444-555555555555, 00000000:01:00.0, 11264, 100.00, 280.00
1, NVIDIA GeForce RTX 2080 Ti, GPU-66666666-7777-8888-9999-aaaaaaaaaaaa, 00000000:02:00.0, 11264, 100.00, [N/A]
"""  # noqa: E501
SMI_NONE = "No devices were found\n"

IW_AP = """\
Wiphy phy0
\tSupported interface modes:
\t\t * IBSS
\t\t * managed
\t\t * AP
\t\t * AP/VLAN
\t\t * monitor
\tBand 1:
\t\tCapabilities: 0x1ff
"""
IW_NO_AP = IW_AP.replace("\t\t * AP\n", "").replace("\tBand 1:\n", "\tBand 1:\n\t\t * AP\n")

FUNCTIONS = [
    {
        "address": address,
        "device": device,
        "class": kind,
        "driver": driver,
        "iommu_group": group,
    }
    for address, device, kind, driver, group in (
        ("0000:01:00.0", "1e07", "030000", "nvidia", "1"),
        ("0000:01:00.1", "10f7", "040300", "snd_hda_intel", "1"),
        ("0000:02:00.0", "1e07", "030000", "nvidia", "2"),
    )
]
MACHINE: dict[str, Any] = {
    "os": {"id": "debian", "version": "13", "name": "Debian GNU/Linux 13 (trixie)"},
    "kernel": "6.12.48+deb13-amd64",
    "python": "3.13.5",
    "arch": "x86_64",
    "processors": 16,
    "memory_mib": 64214,
    "virtualization": "none",
    "container": "",
    "gpus": parse_gpus(SMI_TWO),
    "gpus_words": "",
    "nvidia_functions": FUNCTIONS,
    "displays": [
        {
            "address": f"0000:0{bus}:00.0",
            "id": "10de:1e07",
            "subsystem": "1462:3711",
            "place": f"pci0000:00/0{bus}.0/00.0",
            "driver": "nvidia",
            "iommu_group": str(bus),
            "boot_vga": bus == 1,
        }
        for bus in (2, 1)
    ],
    "iommu_groups": {"0": ["0000:00:00.0"], "1": ["0000:01:00.0", "0000:01:00.1"], "2": []},
    "radios": [
        {
            "phy": "phy0",
            "interface": "wlp5s0",
            "mac": "02:00:00:00:00:01",
            "driver": "x",
            "ap": False,
        },
        {"phy": "phy1", "interface": "", "mac": "02:00:00:00:00:02", "driver": "ath9k", "ap": True},
    ],
    "disks": [{"name": "/dev/nvme0n1", "model": 'A "model"', "bytes": 2000398934016}],
    "filesystems": [{"mount": "/", "type": "ext4", "bytes": 100, "free_bytes": 1610612736}],
    "boot_loader": "grub",
}
CONTAINER = {
    **MACHINE,
    "container": "lxc",
    "virtualization": "lxc",
    "gpus": [],
    "gpus_words": "there is no nvidia-smi: the driver is not installed",
    "nvidia_functions": [],
    "displays": [],
    "iommu_groups": {},
    "radios": [],
    "boot_loader": "none",
}
WAY = Reached(address="192.0.2.10")
SEEN = Seen(host_key=HOST_KEY, known=False)
ASKED = {"gpus": ["left", "right"], "radios": ["hotspot"]}


def read_back(tmp_path: Path, text: str) -> dict[str, Target]:
    path = tmp_path / "iona.targets.toml"
    path.write_text(text)
    return read_targets(path)


def test_a_machine_with_two_gpus_reads_back(tmp_path: Path) -> None:
    text = render(WAY, SEEN, MACHINE, "iona", ASKED)
    target = read_back(tmp_path, text)["iona"]
    assert target.address == "192.0.2.10"
    assert target.host_key == HOST_KEY
    assert (target.user, target.port, target.ssh_key) == ("root", 22, "")
    assert target.gpus == {
        "left": "GPU-11111111-2222-3333-4444-555555555555",
        "right": "GPU-66666666-7777-8888-9999-aaaaaaaaaaaa",
    }
    # By the address, the handles are those of the UUIDs; the one to boot with comes last.
    assert {name: one.place for name, one in target.pci.items()} == {
        "left": "pci0000:00/01.0/00.0",
        "right": "pci0000:00/02.0/00.0",
    }
    assert target.card("right").address == "0000:02:00.0"
    assert "driver nvidia, IOMMU group 1, the machine boots with this one" in text
    # The radio that can be an access point, not the first.
    assert target.radio("hotspot") == "02:00:00:00:00:02"
    assert target.lacks == {}
    assert f"# Host key: ssh-ed25519 {FINGERPRINT}" in text
    assert "was trusted as it came" in text
    assert "11264 MiB, PCI 0000:01:00.0, power limit 100 to 280 W, IOMMU group 1" in text
    assert "0000:01:00.1: class 040300, 10de:10f7, driver snd_hda_intel, IOMMU group 1 with" in text
    assert "/dev/nvme0n1: 1863.0 GiB (2000398934016 bytes)" in text


@pytest.mark.parametrize("driver", [True, False])
def test_what_a_person_swapped_stays_swapped(tmp_path: Path, driver: bool) -> None:
    """Read again into the file that was put right, with or without the driver that came since."""
    asked = {"gpus": ["left", "right"], "cards": ["left", "right"], "radios": ["a", "b"]}
    before = {**MACHINE, "gpus": MACHINE["gpus"] if driver else []}
    path = tmp_path / "iona.targets.toml"
    text = render(WAY, SEEN, before, "iona", asked)
    other = {"left": "right", "right": "left", "a": "b", "b": "a"}
    names = rf"\b({'|'.join(other)})(?= =|])"
    path.write_text(re.sub(names, lambda match: other[match[0]], text))
    swapped = read_targets(path)["iona"]
    put(path, "iona", render(WAY, SEEN, MACHINE, "iona", asked, known(path, "iona")))
    target = read_targets(path)["iona"]
    assert (target.pci, target.radios) == (swapped.pci, swapped.radios)
    assert target.card("left").address == ("0000:02:00.0" if driver else "0000:01:00.0")
    assert target.gpu("left").startswith("GPU-6666" if driver else "GPU-1111")
    assert swapped.gpus == (target.gpus if driver else {"left": "", "right": ""})


def test_two_gpus_never_get_one_handle(tmp_path: Path) -> None:
    """Whatever was left empty, and whatever tables of the file contradict each other."""
    asked = {"gpus": ["left", "right"], "cards": ["left", "right"]}
    path = tmp_path / "iona.targets.toml"
    blind = {**MACHINE, "displays": []}
    path.write_text(render(WAY, SEEN, {**blind, "gpus": []}, "iona", asked))
    text = render(WAY, SEEN, blind, "iona", asked, known(path, "iona"))
    assert len({*read_back(tmp_path, text)["iona"].gpus.values()}) == 2
    # Left by its UUID is the second, by its place the first, which is a new one.
    text = render(WAY, SEEN, MACHINE, "iona", asked)
    one, two = (gpu["uuid"] for gpu in MACHINE["gpus"])
    path.write_text(text.replace(one, "~").replace(two, one).replace("~", two))
    path.write_text(path.read_text().replace(one, "GPU-99999999" + one[12:]))
    target = read_back(tmp_path, render(WAY, SEEN, MACHINE, "iona", asked, known(path, "iona")))[
        "iona"
    ]
    assert target.gpus == {"left": two, "right": one}


def test_cards_without_a_driver_get_the_handles_that_are_asked_for(tmp_path: Path) -> None:
    observed = {**MACHINE, "gpus": []}
    text = render(WAY, SEEN, observed, "iona", {"cards": ["right"]})
    pci = read_back(tmp_path, text)["iona"].pci
    assert {name: one.address for name, one in pci.items()} == {
        "right": "0000:02:00.0",
        "card1": "0000:01:00.0",
    }
    evil = 'x"\n[hosts.evil]'
    text = render(WAY, SEEN, observed, "iona", {"cards": [evil]})
    assert read_back(tmp_path, text).keys() == {"iona"}


def test_a_container_lacks_what_it_cannot_have(tmp_path: Path) -> None:
    target = read_back(tmp_path, render(WAY, SEEN, CONTAINER, "iona", {}))["iona"]
    assert target.lacks.keys() == {"boot_loader", "iommu", "kernel", "radio"}
    assert target.gpus == {}


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ({}, set()),
        ({"radios": []}, {"radio"}),
        ({"boot_loader": "none"}, {"boot_loader"}),
        ({"boot_loader": "proxmox-boot-tool"}, set()),
        # A virtual machine has all of its own but what it was not given.
        ({"virtualization": "kvm", "radios": []}, {"radio"}),
    ],
)
def test_lacks(changes: dict[str, Any], lacking: set[str]) -> None:
    assert lacks({**MACHINE, **changes}).keys() == lacking


def test_handles_that_no_hardware_fills_are_refused_later(tmp_path: Path) -> None:
    text = render(WAY, SEEN, {**MACHINE, "gpus": MACHINE["gpus"][:1]}, "iona", ASKED)
    target = read_back(tmp_path, text)["iona"]
    assert target.gpu("left").startswith("GPU-1111")
    with pytest.raises(SpecError, match=r"gpus\.right"):
        target.gpu("right")


def test_what_a_machine_says_of_itself_stays_a_comment(tmp_path: Path) -> None:
    """A name with a line break, quotes and a table in it, wherever one is shown."""
    evil = 'x"\n[hosts.evil]\naddress = "192.0.2.66"\x7f\x00'
    gpu = {**MACHINE["gpus"][0], "name": evil}
    radio = {**MACHINE["radios"][0], "driver": evil}
    disk = {"name": evil, "model": evil, "bytes": 1}
    mount = {"mount": evil, "type": evil, "bytes": 1, "free_bytes": 1}
    observed = {
        **MACHINE,
        "os": {"name": evil},
        "kernel": evil,
        "gpus": [gpu],
        "radios": [radio],
        "disks": [disk],
        "filesystems": [mount],
    }
    text = render(Reached(address=evil, key=evil), SEEN, observed, evil, {"gpus": [evil]})
    targets = read_back(tmp_path, text)
    assert len(targets) == 1
    assert "evil" not in targets


def test_way_and_known_key_are_told(tmp_path: Path) -> None:
    way = Reached(address="192.0.2.10", user="op", port=2222, key="~/.ssh/id_x")
    text = render(way, Seen(host_key=HOST_KEY, known=True), MACHINE, "my.node", {})
    target = read_back(tmp_path, text)["my.node"]
    assert (target.user, target.port, target.ssh_key) == ("op", 2222, "~/.ssh/id_x")
    assert "trusted as it came" not in text


@pytest.mark.parametrize(
    ("asked", "count", "names"),
    [
        ((), 0, []),
        ((), 1, ["gpu0"]),
        ((), 2, ["left", "right"]),
        ((), 3, ["gpu0", "gpu1", "gpu2"]),
        (("a",), 2, ["a", "gpu1"]),
        (("gpu1",), 3, ["gpu1", "gpu2", "gpu3"]),
        (("a", "b", "c"), 2, ["a", "b"]),
    ],
)
def test_assign(asked: tuple[str, ...], count: int, names: list[str]) -> None:
    ids = [str(number) for number in range(count)]
    assert assign(asked, ids, "gpu", {}, pair=("left", "right")) == names


@pytest.mark.parametrize(
    ("asked", "known", "names"),
    [
        ((), {"0": "right", "1": "left"}, ["right", "left"]),
        (("left", "right"), {"0": "right", "1": "left"}, ["right", "left"]),
        (("left", "right"), {"1": "left"}, ["right", "left"]),
        # One that was known is gone, another came.
        (("left", "right"), {"0": "right", "9": "left"}, ["right", "left"]),
        # The inventory calls them otherwise now.
        (("a", "b"), {"0": "right", "1": "left"}, ["a", "b"]),
        (("a",), {"1": "a"}, ["gpu1", "a"]),
        ((), {"0": "gpu1"}, ["gpu1", "left"]),
    ],
)
def test_a_device_keeps_the_handle_that_it_had(
    asked: tuple[str, ...], known: dict[str, str], names: list[str]
) -> None:
    assert assign(asked, ["0", "1"], "gpu", known, pair=("left", "right")) == names


def test_parse_gpus() -> None:
    first, second = parse_gpus(SMI_TWO)
    assert first["pci"] == "0000:01:00.0"
    assert (first["memory_mib"], first["power_min_w"], first["power_max_w"]) == (11264, 100, 280)
    assert second["power_max_w"] is None
    assert parse_gpus(SMI_NONE) == []
    assert parse_gpus("Failed to initialize NVML: Driver/library version mismatch\n") == []


def test_pci_addresses_are_the_kernels() -> None:
    assert pci_address("00000000:0A:00.0") == "0000:0a:00.0"
    assert pci_address("00010000:01:00.0") == "00010000:01:00.0"


def test_access_point_mode_is_read_from_its_own_list() -> None:
    assert has_access_point(IW_AP)
    assert not has_access_point(IW_NO_AP)
    assert not has_access_point("")


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(SpecError, match=r"--key /nowhere/id: there is no such file"):
        probe("192.0.2.10", key="/nowhere/id")


def test_a_name_that_is_none_is_one_line() -> None:
    with pytest.raises(SpecError, match=r"root@a\.\.b:22: no ssh connection: "):
        probe("a..b")


def test_a_port_that_nobody_listens_on_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(SpecError, match=r"no ssh connection: Connection refused: `ssh -v -p"):
            probe("127.0.0.1", port=port)
