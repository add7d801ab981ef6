"""systemd-boot as Proxmox keeps it, played: partitions are folders, its tools are told below.

The tools' part is what proxmox-kernel-helper's zz-proxmox-boot and proxmox-boot-tool do.
"""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from deploys.kernel_cmdline import KernelCmdline, Parameter
from deploys.kernel_cmdline.operations import kept, tried
from homeport_node import kernel_cmdline as aboard
from homeport_node import kernel_cmdline_grub as grub
from homeport_node import kernel_cmdline_proxmox as proxmox
from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import Ran
from tests.kernel_cmdline.played import does, found

PT = Parameter(name="iommu", value="pt", reason="passthrough")
AER = Parameter(name="pci", value="noaer", reason="a riser that floods the log")
SPEC = KernelCmdline(parameters=(PT, AER))
ROOT = "root=ZFS=rpool/ROOT/pve-1 boot=zfs quiet"
KERNELS = ("6.8.12-4-pve", "6.8.12-11-pve")
UUIDS = ("654E-D6BD", "6550-5CBE")


class Node:
    """A Proxmox node in a folder, with two partitions."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.fails: set[str] = set()
        self.boot_number = 1
        for module in (aboard, grub, proxmox, switch):
            for name, path in vars(module).items():
                if isinstance(path, Path):
                    monkeypatch.setattr(module, name, root / str(path)[1:])
            if module is not switch:
                monkeypatch.setattr(module, "run", self.run)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        # What is synced here is this machine's disk, not a node's.
        monkeypatch.setattr(os, "fsync", lambda _: None)
        monkeypatch.setattr(proxmox, "_MOUNT", f'sync() {{ :; }}\nset -e\ncd "{root}/esp/$1"\n')
        for path, text in (
            (aboard.LOADER_INFO, "\0s\0y\0s\0t\0e\0m\0d\0-\0b\0o\0o\0t\0"),
            (aboard.BOOT_ID, "boot-1\n"),
            (proxmox.UUIDS, "".join(f"{uuid}\n" for uuid in UUIDS)),
            (proxmox.CMDLINE_FILE, f"{ROOT}\n"),
            (switch.INITRAMFS_TOOLS, ""),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for uuid in UUIDS:
            (self.esp(uuid) / "loader/entries").mkdir(parents=True)
            (self.esp(uuid) / "loader/loader.conf").write_text("timeout 3\ndefault proxmox-*\n")
        for kernel in KERNELS:
            switch.IMAGE.parent.mkdir(parents=True, exist_ok=True)
            (switch.IMAGE.parent / f"initrd.img-{kernel}").touch()
        self.refresh()
        aboard.CMDLINE.parent.mkdir(exist_ok=True)
        self.boots()

    def esp(self, uuid: str) -> Path:
        return self.root / "esp" / uuid

    def refresh(self) -> None:
        line = proxmox.CMDLINE_FILE.read_text().splitlines()[0]
        for uuid in UUIDS:
            for kernel in KERNELS:
                folder = f"/EFI/proxmox/{kernel}"
                (self.esp(uuid) / f"loader/entries/proxmox-{kernel}.conf").write_text(
                    f"title    Proxmox Virtual Environment\nversion  {kernel}\n"
                    f"options  {line}\nlinux    {folder}/vmlinuz-{kernel}\n"
                    f"initrd   {folder}/initrd.img-{kernel}\n"
                )

    def run(self, *command: str, stdin: str = "", **_: Any) -> Ran:
        if command[0] in self.fails:
            return Ran(1, "", "it fails")
        match command:
            case ("unshare", "--mount", *words):
                done = subprocess.run(
                    words, input=stdin, capture_output=True, text=True, check=False
                )
                return Ran(done.returncode, done.stdout, done.stderr)
            case ("proxmox-boot-tool", "refresh"):
                self.refresh()
            case ("bootctl", "set-oneshot", ""):
                proxmox.ONE_SHOT.unlink()
            case ("bootctl", "set-oneshot", name):
                proxmox.ONE_SHOT.write_text("\x07\0\0\0" + "".join(f"{one}\0" for one in name))
            case ("systemctl", "is-system-running"):
                return Ran(0, "running\n", "")
            case ("ip", *_):
                return Ran(0, "default via 192.0.2.1", "")
        return Ran(0, "", "")

    def boots(self) -> str:
        """The next boot; what its entry said."""
        name = f"proxmox-{KERNELS[-1]}.conf"
        if proxmox.ONE_SHOT.exists():
            name = proxmox.ENTRY
            proxmox.ONE_SHOT.unlink()
        text = (self.esp(UUIDS[0]) / "loader/entries" / name).read_text()
        (options,) = [line.split(None, 1)[1] for line in text.splitlines() if "options " in line]
        aboard.CMDLINE.write_text(f"initrd=\\EFI\\proxmox\\initrd.img {options}\n")
        self.boot_number += 1
        aboard.BOOT_ID.write_text(f"boot-{self.boot_number}\n")
        return text

    def does(self, operation: Any, spec: KernelCmdline | None) -> "str | None":
        return does(operation, spec)

    def situation(self, spec: KernelCmdline | None) -> str:
        return found(spec)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def _kept(node: Node, spec: KernelCmdline | None) -> None:
    for step in (tried, kept):
        assert node.does(step, spec) is None
        if step is tried and node.situation(spec) == "staged":
            node.boots()
    assert node.situation(spec) == "as wanted"


def test_a_new_command_line_is_tried_and_kept(node: Node) -> None:
    assert node.situation(SPEC) == "to be tried"
    assert node.does(tried, SPEC) is None
    assert node.situation(SPEC) == "staged"
    assert proxmox.CMDLINE_FILE.read_text() == f"{ROOT}\n"
    text = node.boots()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines[1].startswith(f"options {ROOT} iommu=pt pci=noaer homeport.trial=")
    assert lines[1].endswith(" panic=30")
    assert lines[2:] == [
        "linux /EFI/proxmox/6.8.12-11-pve/vmlinuz-6.8.12-11-pve",
        "initrd /EFI/proxmox/6.8.12-11-pve/initrd.img-6.8.12-11-pve",
        "initrd /EFI/homeport/homeport-trial.img",
    ]
    for uuid in UUIDS:
        image = node.esp(uuid) / "EFI/homeport/homeport-trial.img"
        assert image.read_bytes() == switch.switch_image(420)
    assert node.situation(SPEC) == "on trial"
    assert node.does(kept, SPEC) is None
    assert node.situation(SPEC) == "as wanted"
    assert proxmox.CMDLINE_FILE.read_text() == f"{ROOT} iommu=pt pci=noaer\n"
    for uuid in UUIDS:
        assert not (node.esp(uuid) / "EFI/homeport").exists()
        assert not (node.esp(uuid) / "loader/entries/homeport-trial.conf").exists()
    node.boots()
    assert node.situation(SPEC) == "as wanted"


def test_what_is_dropped_goes_and_the_rest_stays(node: Node) -> None:
    proxmox.CMDLINE_FILE.write_text(f"{ROOT}\n# a second line is not read\n")
    _kept(node, SPEC)
    _kept(node, KernelCmdline(parameters=(AER,)))
    assert proxmox.CMDLINE_FILE.read_text().splitlines()[0] == f"{ROOT} pci=noaer"
    _kept(node, None)
    assert proxmox.CMDLINE_FILE.read_text() == f"{ROOT}\n# a second line is not read\n"
    assert not proxmox.OWN.exists()


def test_a_node_that_went_back_says_so(node: Node) -> None:
    node.does(tried, SPEC)
    node.boots()
    node.boots()
    assert "went back to its old command line" in (node.does(kept, SPEC) or "")
    assert node.situation(SPEC) == "to be tried"
    _kept(node, SPEC)


def test_a_partition_that_was_not_refreshed_is_a_difference(node: Node) -> None:
    _kept(node, SPEC)
    entry = node.esp(UUIDS[1]) / f"loader/entries/proxmox-{KERNELS[-1]}.conf"
    entry.write_text(entry.read_text().replace(" iommu=pt", ""))
    assert node.situation(SPEC) == "to be written"
    _kept(node, SPEC)


@pytest.mark.parametrize("point", ["own", "line", "refresh"])
def test_a_cut_between_two_files_is_healed(
    node: Node, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """The power is cut once our file, or the command line too, is written, and nothing after."""

    class Cut(BaseException):
        pass

    _kept(node, SPEC)
    less = KernelCmdline(parameters=(_nohz(), AER))
    node.does(tried, less)
    node.boots()
    replace, left = grub.replace, {"own": 1, "line": 2, "refresh": 3}[point]

    def cut(*arguments: Any) -> None:
        nonlocal left
        replace(*arguments)
        left -= 1
        if left == 0:
            raise Cut

    monkeypatch.setattr(grub, "replace", cut)
    with pytest.raises(Cut):
        node.does(kept, less)
    monkeypatch.setattr(grub, "replace", replace)
    node.boots()
    _kept(node, less)
    assert proxmox.CMDLINE_FILE.read_text() == f"{ROOT} nohz=off pci=noaer\n"


def _nohz() -> Parameter:
    return Parameter(name="nohz", value="off", reason="a test")


LOADER = "==> loader/loader.conf <==\ntimeout 3\n"


def test_the_default_is_the_newest_or_the_one_that_is_pinned() -> None:
    entries = "".join(
        f"\n==> loader/entries/proxmox-{kernel}.conf <==\n"
        f"version {kernel}\noptions a\nlinux /{kernel}\n"
        for kernel in KERNELS
    )
    for default, path in (
        ("proxmox-*", "/6.8.12-11-pve"),
        ("proxmox-6.8.12-4-pve.conf", "/6.8.12-4-pve"),
    ):
        found = proxmox.default_entry(f"{LOADER}default {default}\n{entries}")
        assert found is not None
        assert found["linux"] == [path]
    assert proxmox.default_entry(f"{LOADER}{entries}") is None
    lame = "\n==> loader/entries/proxmox-1.conf <==\nversion 1\n"
    assert proxmox.default_entry(f"{LOADER}default proxmox-*\n{lame}") is None


@pytest.mark.parametrize(
    ("program", "words"),
    [("bootctl", "bootctl: it fails"), ("unshare", "it fails")],
)
def test_what_goes_wrong_is_said(node: Node, program: str, words: str) -> None:
    node.fails = {program}
    assert words in (aboard.stage(SPEC.texts, 300, "", "") or "")


def test_a_refresh_that_fails_is_said(node: Node) -> None:
    node.fails = {"proxmox-boot-tool"}
    assert "refresh: it fails" in (aboard.make_default(SPEC.texts, "x") or "")


def test_what_cannot_be_taken_back_is_told_before(node: Node) -> None:
    assert proxmox.fault() == ""
    proxmox.CMDLINE_FILE.write_text("quiet\n")
    assert "names no root" in proxmox.fault()
    shutil.rmtree(proxmox.ONE_SHOT.parent)
    assert "keeps no variables" in proxmox.fault()
