"""The images of the lab's machines, made by mmdebstrap from Debian's packages.

mmdebstrap is given no mirror: it uses what the machine is set up with, and apt inside the image
does the same.
"""

import os
import subprocess
from pathlib import Path

from homeport.lab import LabError, cache
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine, install_command

RELEASES = ("bookworm", "trixie")

# What a fresh Debian with ssh has, and nothing of what Homeport installs.
NODE = (
    "systemd-sysv",
    "udev",
    "openssh-server",
    "python3",
    "iproute2",
    "sudo",
    "dbus",
    "ca-certificates",
    "curl",
)
SOURCES = ("docker-registry", "python3", "ca-certificates", "gpg", "gpg-agent", "chrony")

# Every machine has its own identity: what the build made or copied from this host goes.
BARE = (
    'rm -f "$1"/etc/ssh/ssh_host_*',
    'rm -f "$1"/etc/resolv.conf "$1"/etc/hostname "$1"/etc/hosts',
    ': > "$1"/etc/machine-id; rm -f "$1"/var/lib/dbus/machine-id',
)


def node_image(engine: Engine, release: str = "trixie", progress: Progress = quiet) -> str:
    """The image of a bare machine with Debian `release`: its reference in `engine`."""
    if release not in RELEASES:
        raise LabError(f"{release}: the lab's releases are {', '.join(RELEASES)}")
    return debian_image(engine, "node", release, NODE, BARE, progress)


def sources_image(engine: Engine, progress: Progress = quiet) -> str:
    """The image of the machine that serves the lab's registry, Hub and packages."""
    return debian_image(engine, "sources", "trixie", SOURCES, (), progress)


def debian_image(
    engine: Engine,
    name: str,
    release: str,
    packages: tuple[str, ...],
    hooks: tuple[str, ...] = (),
    progress: Progress = quiet,
) -> str:
    """An image with `packages` of Debian `release`, from the cache when it was made before.

    `hooks` are shell commands for mmdebstrap's --customize-hook; "$1" is the image's root.
    """
    identity = cache.key(release, packages, hooks)
    reference = f"homeport-lab/{name}:{release}-{identity}"
    if engine.image_id(reference):
        return reference
    with cache.lock(f"image-{name}-{release}", progress):
        if engine.image_id(reference):
            return reference
        archive = cache.entry(
            "images",
            f"{name}-{release}-{identity}.tar",
            lambda path: bootstrap(path, release, packages, hooks, progress),
            progress,
        )
        progress(f"importing the image of a Debian {release} machine ({name})")
        engine.docker("import", str(archive), reference)
    return reference


def bootstrap(
    path: Path, release: str, packages: tuple[str, ...], hooks: tuple[str, ...], progress: Progress
) -> None:
    """Make a Debian root file system as the tar archive `path`."""
    progress(f"building a Debian {release} from its packages (once; about half a minute)")
    command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"]
    command += [f"--customize-hook={hook}" for hook in hooks]
    command += [release, "-"]
    # To standard output: as root, mmdebstrap would look for the target by path as another user.
    with path.open("wb") as archive:
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=archive,
                stderr=subprocess.PIPE,
                env={**os.environ, "TMPDIR": str(path.parent)},
                timeout=1200,
                check=False,
            )
        except FileNotFoundError as error:
            raise LabError(f"there is no mmdebstrap here: {install_command()}") from error
        except subprocess.TimeoutExpired as error:
            raise LabError(f"mmdebstrap {release}: no end within 20 minutes") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-1500:]
        raise LabError(f"mmdebstrap {release}: {said}")
