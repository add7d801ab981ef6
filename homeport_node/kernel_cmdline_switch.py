"""The dead man's switch of a trial: it resets a machine on which nobody confirms it in time.

Standard library only. It is a small archive that GRUB hands to the kernel behind the initrd.
"""

import contextlib
import os
import signal
from pathlib import Path

IMAGE = Path("/boot/homeport-trial.img")
PROCESSES = Path("/proc")
INITRAMFS_TOOLS = Path("/usr/share/initramfs-tools/init")
DRACUT = Path("/usr/bin/dracut")


def switch_image(seconds: int) -> bytes:
    """A cpio archive (newc) with a piece for the /init of Debian's initramfs-tools.

    It is read there once /proc is mounted. What it starts lives on, in the kernel's first root,
    when the node's own root takes over: nothing but the kernel and its own memory is needed then.
    """
    snippet = (
        "# Homeport: a command line on trial that nobody confirms is taken back.\n"
        f"( exec 9>/proc/sysrq-trigger && sleep {seconds} && echo b >&9 )"
        " </dev/null >/dev/null 2>&1 &\n"
    )
    archive = b"".join(
        (
            _member("conf", 0o40755, b""),
            _member("conf/conf.d", 0o40755, b""),
            _member("conf/conf.d/homeport-trial", 0o100644, snippet.encode()),
            _member("TRAILER!!!", 0, b""),
        )
    )
    return archive + bytes(-len(archive) % 512)


def _member(name: str, mode: int, data: bytes) -> bytes:
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % one for one in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def switches() -> "list[int]":
    """The processes of an armed switch: they alone hold the kernel's trigger as descriptor 9."""
    found = []
    for process in PROCESSES.glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(process / "fd/9").endswith("/sysrq-trigger"):  # noqa: PTH115
                found.append(int(process.name))
    return sorted(found)


def disarm() -> None:
    """End the switch of this boot, if there is one."""
    for process in switches():
        with contextlib.suppress(OSError):
            os.kill(process, signal.SIGKILL)


def possible(initrd: str) -> bool:
    """Whether there is somebody to read it, behind the initrd of this name in /boot."""
    made = INITRAMFS_TOOLS.is_file() and not DRACUT.exists()
    return made and bool(initrd) and (IMAGE.parent / initrd).is_file()
