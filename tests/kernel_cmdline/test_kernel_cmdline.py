"""Kernel command line: what is refused, which entry is tried, and what every state leads to.

The menu in `grub.cfg` is like one that Debian 13's 10_linux writes.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from deploys.kernel_cmdline import KernelCmdline, Parameter, difference
from deploys.kernel_cmdline.difference import MODES, SCRIPT_TEXT, by_default, own_text, situation
from deploys.kernel_cmdline.operations import OWN, kept, tried
from homeport import own_files, waiting
from homeport.spec import SpecError
from homeport_node import common
from homeport_node import kernel_cmdline as aboard
from homeport_node import kernel_cmdline_grub as grub
from homeport_node import kernel_cmdline_proxmox as proxmox
from homeport_node import kernel_cmdline_switch as switch
from homeport_node.common import Ran, read
from tests.kernel_cmdline.played import does, found
from tests.operations import Words, as_put, is_refusal, yielded

CFG = Path(__file__).with_name("grub.cfg").read_text()
PT = Parameter(name="iommu", value="pt", reason="the host's own DMA goes round the IOMMU")
AER = Parameter(name="pci", value="noaer", reason="a riser that floods the log")
SPEC = KernelCmdline(parameters=(PT, AER))
WANTED = ["iommu=pt", "pci=noaer"]
TEXT = own_text(SPEC, "grub")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("name", {"name": ""}),
        ("name", {"name": "a b"}),
        ("name", {"name": "a;b"}),
        ("name", {"name": "-a"}),
        ("name", {"name": "$(x)"}),
        ("name", {"name": "root"}),
        ("name", {"name": "ro"}),
        ("name", {"name": "rw"}),
        ("name", {"name": "init"}),
        ("name", {"name": "rdinit"}),
        ("name", {"name": "initrd"}),
        ("name", {"name": "BOOT_IMAGE"}),
        ("name", {"name": "systemd.unit"}),
        ("name", {"name": "homeport.trial"}),
        ("value", {"value": '"'}),
        ("value", {"value": "a b"}),
        ("value", {"value": "`x`"}),
        ("value", {"value": "a\n"}),
        ("value", {"value": "${x}"}),
        ("value", {"name": "amd_iommu", "value": "on"}),
        ("reason", {"reason": " "}),
        ("reason", {"reason": "two\nlines"}),
    ],
)
def test_wrong_parameters_name_their_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"kernel_cmdline\.parameters\.{field}: .*must"):
        Parameter(**{"name": "x", "value": "y", "reason": "z", **fields})


def _parameter(text: str) -> Parameter:
    name, _, value = text.partition("=")
    return Parameter(name=name, value=value or None, reason="a test")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("parameters", {"parameters": ()}),
        ("parameters", {"parameters": (PT, PT)}),
        ("parameters", {"parameters": (_parameter("a-b=1"), _parameter("a_b=2"))}),
        ("parameters", {"parameters": (_parameter("console=tty0"),) * 2}),
        ("trial_seconds", {"parameters": (PT,), "trial_seconds": 119}),
        ("trial_seconds", {"parameters": (PT,), "trial_seconds": 3601}),
    ],
)
def test_wrong_input_names_its_field(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=rf"kernel_cmdline\.{field}: .*must"):
        KernelCmdline(**fields)


def test_what_adds_to_itself_may_be_given_more_than_once() -> None:
    texts = ["console=tty0", "console=ttyS0,115200n8"]
    assert KernelCmdline(parameters=tuple(map(_parameter, texts))).texts == texts


def test_the_drop_in_is_a_shell_text_that_appends(tmp_path: Path) -> None:
    path = tmp_path / "zz-homeport.cfg"
    path.write_text(TEXT)
    script = f'GRUB_CMDLINE_LINUX_DEFAULT=quiet; . {path}; echo "$GRUB_CMDLINE_LINUX_DEFAULT"'
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "quiet iommu=pt pci=noaer\n"
    assert grub.parameters_of(TEXT) == WANTED
    assert TEXT.startswith("# Managed by Homeport (kernel_cmdline)")
    assert f"# iommu=pt: {PT.reason}" in TEXT


# Aboard: GRUB's menu ----------------------------------------------------------------------------

SIMPLE = "gnulinux-simple-5a1b"
OLD = "gnulinux-6.12.38+deb13-amd64-advanced-5a1b"


@pytest.mark.parametrize(
    ("default", "saved", "wanted"),
    [
        ("0", "", SIMPLE),
        ("Debian GNU/Linux", "", SIMPLE),
        (f"gnulinux-advanced-5a1b>{OLD}", "", OLD),
        ("1>1", "", OLD),
        ("${saved_entry}", OLD.join(["1>", ""]), OLD),
        ("${saved_entry}", "", SIMPLE),
        ("gone", "", SIMPLE),
        ("1", "", None),
        ("1>7", "", None),
    ],
)
def test_the_entry_that_boots_by_default(default: str, saved: str, wanted: str | None) -> None:
    text = CFG.replace('set default="0"', f'set default="{default}"')
    found = grub.default_entry(text, {"saved_entry": saved} if saved else {})
    assert (found.id if found else None) == wanted


def test_an_entry_that_starts_no_kernel_has_no_arguments() -> None:
    text = CFG.replace('set default="0"', 'set default="uefi-firmware"')
    entry = grub.default_entry(text, {})
    assert entry is not None
    assert grub.kernel_arguments(entry) is None


def test_of_ours_the_last_is_taken_away() -> None:
    assert grub.without(["a", "b", "a", "c"], ["a", "c", "gone"]) == ["a", "b"]


def test_the_entry_on_trial_is_the_default_one_with_other_parameters() -> None:
    entry = grub.default_entry(CFG, {})
    assert entry is not None
    arguments = grub.kernel_arguments(entry)
    assert arguments == ["root=UUID=5a1b", "ro", "console=ttyS0", "quiet", "old=1"]
    text = grub.trial_entry(entry, ["old=1"], WANTED, "homeport-trial.img")
    lines = text.splitlines()
    assert lines[0] == (
        "menuentry 'Homeport: a command line on trial' --class debian --class gnu-linux "
        "--class gnu --class os --unrestricted --id homeport-trial {"
    )
    assert lines[-1] == "}"
    kernel = "/boot/vmlinuz-6.12.48+deb13-amd64"
    wanted = f"\tlinux {kernel} root=UUID=5a1b ro console=ttyS0 quiet iommu=pt pci=noaer"
    assert wanted in lines
    assert "\tinitrd /boot/initrd.img-6.12.48+deb13-amd64 /boot/homeport-trial.img" in lines
    assert "\tsearch --no-floppy --fs-uuid --set=root 5a1b" in lines
    (again,) = grub.menu(text)
    assert again.id == grub.ENTRY_ID
    assert again.body[:7] == entry.body[:7]


def test_each_way_to_start_the_kernel_keeps_its_own_arguments() -> None:
    """As on Ubuntu's cloud images: without an initrd first, which leaves nothing for a switch."""
    first = "\tlinux\t/boot/vmlinuz root=PARTUUID=1 ro old=1 panic=-1\n"
    text = CFG.replace("\techo\t'Loading initial ramdisk ...'\n", first, 1)
    entry = grub.default_entry(text, {})
    assert entry is not None
    assert grub.initrd_name(entry) == ""
    trial = grub.trial_entry(entry, ["old=1"], ["a"], "")
    assert "\tlinux /boot/vmlinuz root=PARTUUID=1 ro panic=-1 a\n" in trial
    assert "quiet a\n" in trial


def _members(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """{name: (mode, data)} of a cpio archive in the format newc."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + length - 1].decode()
        start = (at + 110 + length + 3) // 4 * 4
        if name == "TRAILER!!!":
            return found
        found[name] = (mode, archive[start : start + size])
        at = (start + size + 3) // 4 * 4


def test_the_switch_is_an_archive_with_a_piece_of_shell() -> None:
    archive = switch.switch_image(420)
    assert len(archive) % 512 == 0
    members = _members(archive)
    assert [*members] == ["conf", "conf/conf.d", "conf/conf.d/homeport-trial"]
    assert members["conf/conf.d"][0] == 0o40755
    mode, data = members["conf/conf.d/homeport-trial"]
    assert mode == 0o100644
    assert b"sleep 420 && echo b >&9" in data


def test_the_switch_pulls_and_cannot_stop_what_reads_it(tmp_path: Path) -> None:
    """The shell goes on at once, and the trigger is pulled when its time has come, not before."""
    trigger = tmp_path / "trigger"
    trigger.touch()
    piece = _members(switch.switch_image(1))["conf/conf.d/homeport-trial"][1].decode()
    for path, pulled in ((trigger, "b\n"), (tmp_path / "none/x", None)):
        source = tmp_path / "piece"
        source.write_text(piece.replace("/proc/sysrq-trigger", str(path)))
        script = f'set -e; . {source}; echo "on: $(cat {trigger})"; wait'
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "on: \n", "")
        assert (path.read_text() if path.exists() else None) == pulled
        trigger.write_text("")


def test_the_switch_is_found_by_what_it_holds_and_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "PROCESSES", tmp_path)
    links = {"211": "/proc/sysrq-trigger", "212": "/proc/sysrq-trigger", "300": "/dev/null"}
    for process, target in links.items():
        (tmp_path / process / "fd").mkdir(parents=True)
        (tmp_path / process / "fd/9").symlink_to(target)
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda process, _: killed.append(process))
    switch.disarm()
    assert killed == [211, 212]


# Aboard: a node's files -------------------------------------------------------------------------


class Node:
    """A node in a folder: GRUB's programs are played, and noted in order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.block: dict[str, str] = {}
        self.calls: list[tuple[str, ...]] = []
        self.fails: dict[str, str] = {}
        self.failed: list[str] = []
        self.route = "default via 192.0.2.1"
        self.abstraction, self.filesystem = "", "ext2"
        for module in (aboard, grub, proxmox, switch):
            for name, path in vars(module).items():
                if isinstance(path, Path):
                    monkeypatch.setattr(module, name, root / str(path)[1:])
            if module is not switch:
                monkeypatch.setattr(module, "run", self.run)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
        monkeypatch.setattr(aboard, "SETTLING", 0)
        monkeypatch.setattr(os, "fsync", lambda _: None)  # it is not this machine's disk
        for path, text in (
            (grub.CFG, CFG),
            (aboard.BOOT_ID, "boot-1\n"),
            (aboard.CMDLINE, "BOOT_IMAGE=/boot/vmlinuz root=UUID=5a1b ro console=ttyS0 quiet\n"),
            (switch.INITRAMFS_TOOLS, ""),
            (root / "boot/initrd.img-6.12.48+deb13-amd64", ""),
            (grub.SCRIPT, (OWN / "42_homeport").read_text()),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        grub.SCRIPT.chmod(0o755)
        grub.OWN.parent.mkdir(parents=True)
        monkeypatch.setattr(difference, "SCRIPT", grub.SCRIPT)
        monkeypatch.setattr(difference, "MODES", {str(grub.SCRIPT): "755"})
        monkeypatch.setattr(aboard, "own_files", self.own_files)

    def run(self, *command: str, **_: Any) -> Ran:
        self.calls.append(command)
        if command[0] in self.fails:
            return Ran(1, "", self.fails[command[0]])
        match command:
            case ("grub-editenv", _, "list"):
                return Ran(0, "".join(f"{key}={value}\n" for key, value in self.block.items()), "")
            case ("grub-editenv", _, "unset", name):
                self.block.pop(name, None)
            case ("grub-reboot", entry):
                self.block["next_entry"] = entry
            case ("grub-probe", "--target=abstraction", _):
                return Ran(0, f"{self.abstraction}\n", "")
            case ("grub-probe", "--target=fs", _):
                return Ran(0, f"{self.filesystem}\n", "")
            case ("grub-mkconfig", "-o", path):
                Path(path).write_text(self.made())
            case ("systemctl", "list-units", *_):
                return Ran(0, "".join(f"{one} loaded failed failed x\n" for one in self.failed), "")
            case ("systemctl", "is-system-running"):
                return Ran(0, "degraded\n" if self.failed else "running\n", "")
            case ("ip", *_):
                return Ran(0, self.route, "")
        return Ran(0, "", "")

    def own_files(self, paths: Iterable[str]) -> dict[str, dict[str, Any]]:
        """As root wrote them, whoever runs the tests."""
        found = common.own_files(paths)
        return {path: {**one, "uid": 0, "gid": 0} for path, one in found.items()}

    def made(self) -> str:
        """grub.cfg as grub-mkconfig would make it of the drop-in and the script."""
        added = " ".join(["quiet", *grub.parameters_of(read(grub.OWN))])
        text = CFG.replace("quiet old=1", added)
        if grub.SCRIPT.exists():
            script = grub.SCRIPT.read_text()
            text += script[script.index("if [ -f") : script.rindex("END")]
        return text

    def boots(self) -> None:
        """The next boot: GRUB clears its mark, and boots what it was told to."""
        entry = grub.default_entry(grub.CFG.read_text(), self.block)
        if self.block.pop("next_entry", "") == grub.ENTRY_ID:
            (entry,) = grub.menu(grub.TRIAL.read_text())
        assert entry is not None
        arguments = grub.kernel_arguments(entry) or []
        aboard.CMDLINE.write_text(f"{' '.join(['BOOT_IMAGE=/boot/vmlinuz', *arguments])}\n")
        number = int(aboard.BOOT_ID.read_text().split("-")[1])
        aboard.BOOT_ID.write_text(f"boot-{number + 1}\n")

    def does(self, operation: Any, spec: KernelCmdline | None) -> "str | None":
        return does(operation, spec)

    def situation(self, spec: KernelCmdline | None) -> str:
        return found(spec)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_a_new_command_line_is_tried_and_kept(node: Node) -> None:
    assert node.situation(SPEC) == "to be tried"
    assert node.does(tried, SPEC) is None
    assert node.situation(SPEC) == "staged"
    assert node.block == {"next_entry": "homeport-trial"}
    assert not grub.OWN.exists()
    node.boots()
    assert node.situation(SPEC) == "on trial"
    words = aboard.CMDLINE.read_text().split()
    assert words[-1] == "panic=30"
    assert words[-4:-2] == WANTED
    assert node.does(kept, SPEC) is None
    assert node.situation(SPEC) == "as wanted"
    assert grub.OWN.read_text() == TEXT
    assert not [path for path in aboard.trial_files(grub) if path.exists()]
    node.boots()
    assert aboard.CMDLINE.read_text().split()[-2:] == WANTED
    assert node.situation(SPEC) == "as wanted"


def _kept(node: Node, spec: KernelCmdline | None) -> None:
    for step in (tried, kept):
        assert node.does(step, spec) is None
        if step is tried and node.situation(spec) == "staged":
            node.boots()
    assert node.situation(spec) == "as wanted"


def test_what_is_dropped_goes_by_the_same_way_and_the_rest_stays(node: Node) -> None:
    _kept(node, SPEC)
    less = KernelCmdline(parameters=(AER,))
    assert node.situation(less) == "to be tried"
    _kept(node, less)
    assert "iommu=pt" not in aboard.CMDLINE.read_text()
    assert node.situation(None) == "to be tried"
    _kept(node, None)
    assert "quiet" in aboard.CMDLINE.read_text()
    assert "noaer" not in aboard.CMDLINE.read_text()
    for path in (grub.OWN, grub.SCRIPT, *aboard.trial_files(grub)):
        assert not path.exists()
    assert "homeport-trial" not in grub.CFG.read_text()


def test_a_parameter_that_somebody_else_gives_as_well_stays(node: Node) -> None:
    quiet = KernelCmdline(parameters=(_parameter("quiet"),))
    assert node.situation(quiet) == "to be written"  # it is in force: nothing to try
    _kept(node, quiet)
    node.boots()
    assert aboard.CMDLINE.read_text().split().count("quiet") == 2
    assert node.situation(None) == "to be tried"
    _kept(node, None)
    assert aboard.CMDLINE.read_text().split().count("quiet") == 1


def test_a_node_that_went_back_says_so_once_and_is_tried_again(node: Node) -> None:
    node.does(tried, SPEC)
    node.boots()  # it did not come up
    node.boots()
    assert node.situation(SPEC) == "fell back"
    words = node.does(kept, SPEC) or ""
    assert "went back to its old command line" in words
    assert "iommu=pt pci=noaer" in words
    assert not [path for path in aboard.trial_files(grub) if path.exists()]
    assert node.situation(SPEC) == "to be tried"
    _kept(node, SPEC)


@pytest.mark.parametrize(
    ("worse", "words"),
    [
        ({"failed": ["old.service", "new.service"]}, "new.service"),
        ({"route": ""}, "default route"),
    ],
)
def test_a_node_that_is_worse_than_before_goes_back(
    node: Node, worse: dict[str, Any], words: str
) -> None:
    node.failed = ["old.service"]
    node.does(tried, SPEC)
    node.boots()
    for name, value in worse.items():
        setattr(node, name, value)
    said = node.does(kept, SPEC) or ""
    assert words in said
    assert "old.service" not in said
    assert node.calls[-1] == ("systemctl", "-i", "--no-block", "reboot")
    assert not grub.OWN.exists()
    node.boots()
    assert node.situation(SPEC) == "to be tried"


def test_the_clocks_are_stopped_before_the_boot_menu_is_written(node: Node) -> None:
    """os-prober takes its time: a reset in the middle of it would leave half a menu."""
    node.does(tried, SPEC)
    node.boots()
    node.calls.clear()
    assert node.does(kept, SPEC) is None
    (written,) = [n for n, call in enumerate(node.calls) if "grub-mkconfig" in call[0]]
    assert node.calls.index(("systemctl", "stop", aboard.TIMER)) < written


def test_a_trial_that_went_back_before_is_tried_again_and_that_is_said(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    node.does(tried, SPEC)
    assert "before" not in capsys.readouterr().out
    for _ in range(2):  # the trial, and the old command line again
        node.boots()
    assert node.situation(SPEC) == "fell back"
    assert node.does(tried, SPEC) is None
    assert "went back from this command line before" in capsys.readouterr().out


def test_dracut_is_told_to_restart_where_no_root_is(node: Node) -> None:
    switch.DRACUT.parent.mkdir(parents=True, exist_ok=True)
    switch.DRACUT.touch()
    node.does(tried, SPEC)
    node.boots()
    assert {"rd.shell=0", "rd.emergency=reboot"} <= {*aboard.CMDLINE.read_text().split()}


def test_a_node_that_failed_before_as_well_is_kept(node: Node) -> None:
    node.failed, node.route = ["old.service"], ""
    _kept(node, SPEC)


class Cut(BaseException):
    """The power is cut."""


class Fuse:
    """Cuts the power before the writing that is number `left` from now; never while it is 0."""

    left = 0

    def burn(self, function: Any, when: Any = lambda *_: True) -> Any:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self.left -= when(*args)
            if self.left == 0 and when(*args):
                raise Cut
            return function(*args, **kwargs)

        return wrapped


def test_wherever_the_power_is_cut_the_next_converge_heals_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power is cut before each writing of a change from one command line to the next."""
    specs = [SPEC, KernelCmdline(parameters=(AER, _parameter("nohz=off")))]
    fuse = Fuse()
    monkeypatch.setattr(grub, "replace", fuse.burn(grub.replace))
    monkeypatch.setattr(Path, "unlink", fuse.burn(Path.unlink))
    verbs = ("grub-reboot", "grub-mkconfig")
    for module in (aboard, grub):
        run = fuse.burn(node.run, lambda *words: words[0] in verbs)
        monkeypatch.setattr(module, "run", run)
    cuts = 0
    for moment in range(1, 60):
        fuse.left, spec = moment, specs[moment % 2]
        try:
            _kept(node, spec)
            fuse.left = 0
            continue
        except Cut:
            cuts += 1
        fuse.left = 0
        assert aboard.boot_loader().arguments()
        node.boots()
        _kept(node, spec)
        dropped = {text for one in specs for text in one.texts} - {*spec.texts}
        assert not dropped & {*aboard.CMDLINE.read_text().split()}
        node.boots()
        assert node.situation(spec) == "as wanted"
        assert aboard.CMDLINE.read_text().split()[-2:] == spec.texts
    assert cuts > 20


def test_the_trial_of_a_command_line_that_is_wanted_no_more_is_replaced(node: Node) -> None:
    node.does(tried, SPEC)
    node.boots()
    other = KernelCmdline(parameters=(AER,))
    assert node.situation(other) == "to be tried"
    _kept(node, other)
    assert aboard.CMDLINE.read_text().split()[-3:-2] == ["pci=noaer"]


def test_a_node_without_the_means_gets_no_switch_and_says_so(
    node: Node, capsys: pytest.CaptureFixture[str]
) -> None:
    switch.INITRAMFS_TOOLS.unlink()
    node.does(tried, SPEC)
    assert "no dead man's switch" in capsys.readouterr().out
    assert not switch.IMAGE.exists()
    assert switch.IMAGE.name not in grub.TRIAL.read_text()


def test_what_goes_wrong_is_said_in_the_words_of_who_knows(node: Node) -> None:
    node.fails = {"grub-reboot": "no space"}
    assert aboard.stage(WANTED, 300, "", "") == "grub-reboot: no space"
    node.fails = {"grub-mkconfig": "syntax"}
    before = grub.CFG.read_text()
    assert aboard.make_default(WANTED, TEXT) == "grub-mkconfig: syntax"
    assert grub.CFG.read_text() == before
    grub.CFG.write_text("")
    node.fails = {}
    node.made = lambda: "/homeport-trial.cfg"  # type: ignore[method-assign]
    assert "starts no Linux kernel" in (aboard.stage(WANTED, 300, "", "") or "")
    assert "does not carry iommu=pt" in (aboard.make_default(WANTED, TEXT) or "")


@pytest.mark.parametrize(
    ("abstraction", "filesystem", "fault"),
    [
        ("", "ext2", ""),
        ("", "xfs", ""),
        ("", "fat", ""),
        ("lvm", "ext2", "lvm"),
        ("diskfilter mdraid1x", "ext2", "mdraid1x"),
        ("cryptodisk luks2", "ext2", "luks2"),
        ("", "btrfs", "btrfs"),
        ("", "zfs", "zfs"),
    ],
)
def test_where_grub_cannot_clear_its_mark(
    node: Node, abstraction: str, filesystem: str, fault: str
) -> None:
    node.abstraction, node.filesystem = abstraction, filesystem
    words = aboard.observe(WANTED)["fault"]
    assert fault in words
    assert bool(words) is bool(fault)


def test_a_node_that_wants_nothing_and_has_nothing_is_not_asked_for_it(node: Node) -> None:
    grub.SCRIPT.unlink()
    state = aboard.observe([])
    assert node.calls == []
    assert situation(None, state) == "as wanted"
    grub.SCRIPT.touch()
    assert situation(None, aboard.observe([])) == "to be written"


def test_the_boot_loader_is_told_by_its_traces(node: Node) -> None:
    assert aboard.observe(WANTED)["loader"] == {"kind": "grub", "why": ""}
    aboard.CMDLINE.write_text("root=/dev/vda ro\n")
    told = aboard.observe(WANTED)["loader"]
    assert told["kind"] == ""
    assert "not started by GRUB" in told["why"]
    proxmox.UUIDS.parent.mkdir(parents=True)
    proxmox.UUIDS.touch()
    assert "it was not systemd-boot" in aboard.observe(WANTED)["loader"]["why"]
    aboard.LOADER_INFO.parent.mkdir(parents=True)
    aboard.LOADER_INFO.write_text("\x07\0s\0y\0s\0t\0e\0m\0d\0-\0b\0o\0o\0t\0")
    assert aboard.observe(WANTED)["loader"] == {"kind": "systemd-boot", "why": ""}
    proxmox.UUIDS.unlink()
    assert "not one that Proxmox keeps" in aboard.observe(WANTED)["loader"]["why"]


# The operations ---------------------------------------------------------------------------------

SCRIPT = {str(grub.SCRIPT): SCRIPT_TEXT}
FOREIGN = ["root=UUID=5a1b", "ro", "quiet"]
AS_WANTED: dict[str, Any] = {
    "loader": {"kind": "grub", "why": ""},
    "cmdline": ["BOOT_IMAGE=/boot/vmlinuz", *FOREIGN, *WANTED],
    "boot_id": "boot-2",
    "files": as_put({str(grub.OWN): TEXT, **SCRIPT}, MODES),
    "ours": WANTED,
    "trial": None,
    "trial_files": [],
    "entry": [*FOREIGN, *WANTED],
    "marked": False,
    "fault": "",
}
BARE: dict[str, Any] = {
    **AS_WANTED,
    "cmdline": FOREIGN,
    "files": {},
    "ours": [],
    "entry": FOREIGN,
}
TRIAL: dict[str, Any] = {
    **BARE,
    "ours": WANTED,
    "trial": {"id": "9f", "parameters": WANTED, "boot_id": "boot-2"},
    "trial_files": ["/boot/grub/homeport-trial.cfg"],
    "marked": True,
    "files": as_put(SCRIPT, MODES),
}
ON_TRIAL = {**TRIAL, "cmdline": [*FOREIGN, *WANTED, "homeport.trial=9f"], "boot_id": "boot-3"}
BACK = {**TRIAL, "boot_id": "boot-4", "marked": False}
LEFT = {**AS_WANTED, "trial_files": ["/boot/homeport-trial.img"]}
GONE = {**BARE, "trial_files": []}


@pytest.mark.parametrize(
    ("operation", "observed", "spec", "commands"),
    [
        (tried, AS_WANTED, SPEC, []),
        (tried, TRIAL, SPEC, []),
        (tried, ON_TRIAL, SPEC, ["_module.confirm("]),
        (tried, GONE, None, []),
        (tried, {}, None, []),  # a node that has no Python yet
        (tried, {**GONE, "loader": {"kind": "", "why": "x"}}, None, []),
        (tried, BARE, SPEC, ["FileUpload", "chmod 755", "_module.stage("]),
        (tried, BACK, SPEC, ["_module.stage("]),
        (tried, {**TRIAL, "marked": False}, SPEC, ["_module.stage("]),
        (tried, AS_WANTED, None, ["_module.stage("]),
        (tried, {**AS_WANTED, "files": as_put(SCRIPT, MODES)}, SPEC, ["_module.make_default("]),
        # A script that is not executable, or another, would make no entry for a trial.
        (
            tried,
            {**AS_WANTED, "files": {**AS_WANTED["files"], **as_put(SCRIPT)}},
            SPEC,
            ["FileUpload", "chmod 755", "_module.make_default("],
        ),
        (
            tried,
            {**BACK, "files": as_put(SCRIPT)},
            SPEC,
            ["FileUpload", "chmod 755", "_module.stage("],
        ),
        (tried, {**AS_WANTED, "entry": FOREIGN}, SPEC, ["_module.make_default("]),
        (tried, {**GONE, "files": as_put(SCRIPT, MODES)}, None, ["_module.make_default("]),
        (tried, LEFT, SPEC, ["_module.withdraw("]),
        (tried, {**AS_WANTED, "marked": True}, SPEC, ["_module.withdraw("]),
        (kept, AS_WANTED, SPEC, []),
        (kept, BARE, SPEC, []),
        (kept, TRIAL, SPEC, []),
        (kept, GONE, None, []),
        (kept, ON_TRIAL, SPEC, ["_module.confirm("]),
        (kept, BACK, SPEC, ["_module.fell_back("]),
    ],
)
def test_operations(
    operation: Any, observed: dict[str, Any], spec: KernelCmdline | None, commands: list[str]
) -> None:
    found = yielded(operation, observed, spec=spec, may=True)
    assert len(found) == len(commands), found
    for one, part in zip(found, commands, strict=True):
        assert part in one


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"loader": {"kind": "", "why": "no traces"}}, "tell what the node boots by: no traces"),
        ({"fault": "/boot/grub lies on lvm"}, "lies on lvm"),
        ({"entry": None}, "cannot tell which entry"),
    ],
)
def test_what_stands_in_the_way_is_refused_before_anything_is_written(
    difference: dict[str, Any], words: str
) -> None:
    (refusal,) = yielded(tried, {**BARE, **difference}, spec=SPEC, may=True)
    assert is_refusal(refusal)
    assert words in refusal


def test_a_run_that_may_not_reboot_stages_nothing_and_says_what_waits() -> None:
    for observed in (BARE, BACK, TRIAL):
        waiting.begin()
        assert yielded(tried, observed, spec=SPEC, may=False) == []
        assert [*waiting.waiting("a node")] == [
            ("kernel_cmdline", "the command line to be tried: iommu=pt pci=noaer")
        ]
    assert yielded(kept, BACK, spec=SPEC, may=False) == []
    (written,) = yielded(tried, {**AS_WANTED, "files": {}}, spec=SPEC, may=False)
    assert "_module.make_default(" in written


def test_what_is_staged_travels_with_its_clocks() -> None:
    slow = KernelCmdline(parameters=(PT,), trial_seconds=900)
    *_, command = yielded(tried, BARE, spec=slow, may=True)
    text = json.dumps({"seconds": 900})[1:-1]
    assert text in command
    assert "OnBootSec=900" in command
    assert "ConditionKernelCommandLine=homeport.trial" in command


def test_by_default_needs_the_files_and_the_entry() -> None:
    assert by_default(SPEC, AS_WANTED)
    assert not by_default(SPEC, {**AS_WANTED, "entry": FOREIGN})
    assert not by_default(SPEC, {**AS_WANTED, "files": as_put({str(grub.OWN): "x"})})
    assert not by_default(None, AS_WANTED)


# What drift says --------------------------------------------------------------------------------

HERE = {"spec": SPEC, "may": True}
LINE = "command line in force: iommu=pt pci=noaer"
WORDS: list[Words] = [
    (tried, [BARE], HERE, [(LINE, "none of these")]),
    (tried, [{**BARE, "cmdline": [*FOREIGN, "iommu=pt"]}], HERE, [(LINE, "iommu=pt")]),
    (
        tried,
        [AS_WANTED],
        {"spec": None, "may": True},
        [("command line in force: nothing of ours", "iommu=pt pci=noaer")],
    ),
    (
        tried,
        [{**AS_WANTED, "files": {}, "entry": FOREIGN}],
        HERE,
        [
            (f"{grub.OWN}: sha256 {own_files.sha256(TEXT)[:12]}", "no such file"),
            (
                "default boot entry: iommu=pt pci=noaer",
                "without iommu=pt pci=noaer",
            ),
        ],
    ),
    (
        tried,
        [{**GONE, "files": as_put(SCRIPT), "ours": ["a"], "entry": [*FOREIGN, "a"]}],
        {"spec": None, "may": True},
        [
            (f"{grub.SCRIPT}: no such file", "a file of ours"),
            ("default boot entry: nothing of ours", "with a"),
        ],
    ),
    (
        tried,
        [{**AS_WANTED, "files": {**AS_WANTED["files"], **as_put(SCRIPT)}}],
        HERE,
        [(f"{grub.SCRIPT}: mode 755", "mode 644")],
    ),
    (
        tried,
        [LEFT],
        HERE,
        [("/boot/homeport-trial.img: nothing of a trial", "left of one")],
    ),
    (
        tried,
        [{**BARE, "fault": "/boot/grub lies on lvm"}],
        HERE,
        [
            (
                "a command line that can be changed",
                "/boot/grub lies on lvm, so a command line that fails would boot for ever: "
                "nothing was changed",
            ),
            (LINE, "none of these"),
        ],
    ),
    *(
        (
            operation,
            [ON_TRIAL],
            HERE,
            [("command line by default: iommu=pt pci=noaer", "on trial, for this boot alone")],
        )
        for operation in (tried, kept)
    ),
    (kept, [BACK], HERE, [(LINE, "none of these")]),
]
