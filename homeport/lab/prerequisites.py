"""What the lab needs from the machine it runs on, and getting it from apt where that is allowed."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

from homeport import report
from homeport.lab import LabError
from homeport.spec import SpecError

# What the lab runs on the host, and the Debian package that has it.
TOOLS = {
    "mmdebstrap": "mmdebstrap",
    "ip": "iproute2",
    "iptables": "iptables",
    "ssh": "openssh-client",
    "unshare": "util-linux",
}


class LabUnavailable(SpecError):
    """This machine cannot carry the lab; the text says why and what to type."""


def missing_packages() -> tuple[str, ...]:
    """The Debian packages that the lab needs on this machine and does not find."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [package for tool, package in TOOLS.items() if not shutil.which(tool, path=path)]
    if not shutil.which("docker", path=path) or (
        not shutil.which("dockerd", path=path) and not answers({})
    ):
        missing.insert(0, "docker.io")
        if _debian_version() >= 13 and not shutil.which("docker", path=path):
            missing.insert(1, "docker-cli")  # from Debian 13 on, docker.io is the daemon alone
    return tuple(missing)


def _debian_version() -> int:
    with contextlib.suppress(OSError, ValueError):
        return int(Path("/etc/debian_version").read_text().split(".")[0])
    return 0


def answers(environment: dict[str, str]) -> bool:
    """Whether a daemon answers the `docker` command with `environment`."""
    try:
        done = subprocess.run(
            ["docker", "version", "--format", "{{.Server.Version}}"],
            env={**os.environ, **environment},
            capture_output=True,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def require_root() -> None:
    """Raise `LabError` for any other user, member of the group docker or not.

    Debian's file systems are made in a mount namespace, and what containers leave is root's.
    """
    if os.geteuid():
        raise LabError("the lab works as root only: run this with sudo")


def install_command() -> str:
    """The command that installs what the lab needs here and does not find."""
    return f"`sudo apt-get install {' '.join(missing_packages() or ('docker.io',))}`"


def path_with_sbin() -> None:
    """A user's PATH on Debian lacks the directories that ip, iptables and dockerd are in."""
    parts = os.environ.get("PATH", "").split(":")
    extra = [part for part in ("/usr/sbin", "/sbin") if part not in parts]
    os.environ["PATH"] = ":".join(parts + extra)


def install_lab_packages() -> None:
    """Install what the container lab needs and this machine lacks, after saying what.

    Needs apt and root. Raises `LabUnavailable` with the exact command where it may not.
    """
    try:
        require_root()
    except LabError as error:
        raise LabUnavailable(str(error)) from error
    missing = missing_packages()
    if not missing:
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    command = f"sudo apt-get install {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise LabUnavailable(f"the lab needs {', '.join(missing)}: install them, then try again")
    report.console.print(f"installing what the lab needs: {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["apt-get", "update", "-q"], install):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise LabUnavailable(f"{' '.join(words)} failed: {' / '.join(last)}: {command}")
