"""What an inventory says about GPUs for containers, and what that means in Docker's daemon.json."""

import re
from dataclasses import dataclass
from typing import Any

from homeport.spec import Spec
from homeport.targets import Sources

REPOSITORY = "https://nvidia.github.io/libnvidia-container"
# Of the key REPOSITORY/gpgkey, "NVIDIA CORPORATION (Open Source Projects)". The signature of
# REPOSITORY/stable/deb/amd64/InRelease names it as its issuer (subpacket 33 of RFC 9580, read out
# of the file of November 2024), and so does NVIDIA in NVIDIA/libnvidia-container#109.
FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
PACKAGES = (
    "libnvidia-container-tools",
    "libnvidia-container1",
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
)
# With 1.18 came nvidia-cdi-refresh, and a runtime that writes the container's specification.
OLDEST = (1, 18)
VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})-(\d{1,4})")


@dataclass(frozen=True, kw_only=True, slots=True)
class NvidiaContainers(Spec):
    """GPUs for containers. `version` is that of the toolkit's four packages, as Debian writes it:
    `apt-cache madison nvidia-container-toolkit` lists what the repository has."""

    STEM = "nvidia_containers"

    version: str = "1.20.1-1"

    def validate(self) -> None:
        match = VERSION.fullmatch(self.version)
        self.require(
            "version",
            match is not None and (int(match[1]), int(match[2])) >= OLDEST,
            "must be a version such as '1.20.1-1', 1.18.0-1 or newer: older ones do not describe "
            "the GPUs by themselves, and containers lose theirs at `systemctl daemon-reload`",
        )

    @property
    def pins(self) -> tuple[str, ...]:
        """The packages with their version, as apt takes them."""
        return tuple(f"{name}={self.version}" for name in PACKAGES)


def repository(sources: Sources) -> tuple[str, str]:
    """(address, fingerprint of its key): NVIDIA's, or what the targets put in its place."""
    return (
        sources.apt.get(REPOSITORY, REPOSITORY).rstrip("/"),
        sources.apt_keys.get(REPOSITORY, FINGERPRINT),
    )


def daemon_values(spec: NvidiaContainers | None) -> dict[str, Any]:
    """{path in daemon.json: value} for a Docker that has no CDI."""
    if spec is None:
        return {}
    return {"runtimes/nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}
