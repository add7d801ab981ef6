"""What the programs aboard share. Standard library only: see the package's docstring."""

import hashlib
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Where Homeport keeps things on every node.
SECRETS = "/etc/homeport/secrets"
STACK = "/etc/homeport/stack"
COMPOSE_FILE = f"{STACK}/compose.yaml"
STACK_UNIT = "homeport-stack.service"
# Has NVIDIA's GPUs described for containers before Docker starts.
CDI_UNIT = "homeport-nvidia-cdi.service"
CDI_UNIT_FILE = f"/etc/systemd/system/{CDI_UNIT}"
# On the kernel's command line of a boot that is on trial, with the trial's id.
TRIAL_MARK = "homeport.trial"
# Held by whoever changes the stack's containers.
STACK_LOCK = "/run/homeport-stack.lock"
# Packages of NVIDIA's driver that apt would not upgrade because of us, one to a line.
NVIDIA_HELD = "/var/lib/homeport/nvidia-held"


@dataclass(frozen=True)
class Ran:
    """A command's exit status and what it printed; 127 when it could not be started."""

    status: int
    out: str
    err: str

    @property
    def ok(self) -> bool:
        return self.status == 0


def run(*command: str, timeout: float = 20, stdin: str = "", keep: "tuple[int, ...]" = ()) -> Ran:
    """Run `command` for at most `timeout` seconds. Never raises: 124 means it took longer.

    It inherits the descriptors in `keep`, and with them their locks.
    """
    try:
        done = subprocess.run(
            command,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            check=False,
            pass_fds=keep,
        )
    except OSError as error:  # it is not there, or not to be executed
        return Ran(127, "", str(error))
    except subprocess.TimeoutExpired:
        return Ran(124, "", f"{command[0]}: no answer within {timeout:g} s")
    return Ran(done.returncode, done.stdout, done.stderr)


def show_units(*units: str) -> "dict[str, dict[str, str]]":
    """{unit: what systemd says of it}, of all `units` in one call."""
    names = (
        "Id,LoadState,UnitFileState,ActiveState,NeedDaemonReload,MainPID,FragmentPath,DropInPaths"
    )
    blocks = run("systemctl", "show", "-p", names, *units).out.strip().split("\n\n")
    shown = [dict(line.split("=", 1) for line in one.splitlines() if "=" in line) for one in blocks]
    return {one["Id"]: one for one in shown if "Id" in one}


def dropins(shown: "dict[str, str]") -> "list[str]":
    """The drop-ins of a unit that was `shown` by systemd; not those of all services, as LXC's."""
    paths = shown.get("DropInPaths", "").split()
    return [path for path in paths if f"/{shown['Id']}.d/" in path]


def compose_command() -> "list[str]":
    """Compose 2 as Docker's plugin, else Compose 1, else nothing."""
    if run("docker", "compose", "version").ok:
        return ["docker", "compose"]
    if run("docker-compose", "version").ok:
        return ["docker-compose"]
    return []


def read(path: "str | Path") -> "str | None":
    """The text of the file at `path`, or None when it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write the file: who looks finds the old or the new one, and never with another mode. Its
    name begins with a dot until it is whole. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".homeport-", dir=path.parent)  # which makes it 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), mode)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def sha256_file(path: "str | Path") -> str:
    """The sha256 of the file at `path`, in hex. Raises OSError."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def describe_file(path: "str | Path") -> "dict[str, Any] | None":
    """{"mode": "600", "uid": 0, "gid": 0, "sha256": "…", "link": null} of `path`, None if absent.

    `sha256` is None for what is not a regular file; `link` is a symbolic link's own text.
    """
    try:
        status = os.lstat(path)
    except OSError:
        return None
    regular = stat.S_ISREG(status.st_mode)
    return {
        "mode": format(stat.S_IMODE(status.st_mode), "o"),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "sha256": sha256_file(path) if regular else None,
        "link": str(Path(path).readlink()) if stat.S_ISLNK(status.st_mode) else None,
    }


def own_files(paths: "Iterable[str]") -> "dict[str, dict[str, Any]]":
    """{path: what `describe_file` says} of those of `paths` where there is something."""
    return {path: found for path in paths if (found := describe_file(path)) is not None}
