"""The images of the lab's machines, made from Debian's packages."""

from pathlib import Path

from homeport.lab import LabError, cache
from homeport.lab.bootstrap import debian_root
from homeport.lab.cache import Progress, quiet
from homeport.lab.engine import Engine

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
            lambda path: bare_root(path, release, packages, hooks, progress),
            progress,
        )
        progress(f"importing the image of a Debian {release} machine ({name})")
        engine.docker("import", str(archive), reference)
    return reference


def bare_root(
    path: Path, release: str, packages: tuple[str, ...], hooks: tuple[str, ...], progress: Progress
) -> None:
    """Make a small Debian root file system as the tar archive `path`."""
    progress(f"building a Debian {release} from its packages (once; about half a minute)")
    options = [f"--customize-hook={hook}" for hook in hooks]
    debian_root(path, release=release, variant="minbase", packages=packages, options=options)
