"""Makes the wheel of `homeport_node`, and fetches the wheels that it needs.

A pure Python wheel is a zip file with three more files (the binary distribution format of
packaging.python.org), so it is written here: no build backend, no network, and the same source
gives the same bytes, whose hash then names the version.
"""

import base64
import hashlib
import io
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement

from homeport import __version__

PACKAGE = Path(__file__).parent.parent / "homeport_node"
REQUIREMENTS = PACKAGE / "requirements.txt"
# The oldest time that a zip file can hold: the build's time is no part of the content.
EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wheel:
    """A wheel's file name and bytes."""

    name: str
    data: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


def _contents(info: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE.parent).as_posix(), path.read_bytes()
    metadata = f"Metadata-Version: 2.1\nName: homeport-node\nVersion: {__version__}\n"
    yield f"{info}/METADATA", f"{metadata}Requires-Python: >=3.10\n".encode()
    yield (
        f"{info}/WHEEL",
        (b"Wheel-Version: 1.0\nGenerator: homeport\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
    )
    yield (
        f"{info}/entry_points.txt",
        (b"[console_scripts]\nhomeport-node = homeport_node.cli:main\n"),
    )


def build() -> Wheel:
    """The wheel of `homeport_node` as it is in this working tree."""
    info = f"homeport_node-{__version__}.dist-info"
    files = list(_contents(info))
    record = []
    for name, data in files:
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.append(f"{name},sha256={digest},{len(data)}\n")
    record.append(f"{info}/RECORD,,\n")
    files.append((f"{info}/RECORD", "".join(record).encode()))
    buffer = io.BytesIO()
    # Stored, not deflated: another zlib may compress the same text to other bytes.
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return Wheel(name=f"homeport_node-{__version__}-py3-none-any.whl", data=buffer.getvalue())


def requirements(python: str, machine: str = "x86_64", file: Path = REQUIREMENTS) -> str:
    """The lines of the requirements `file` that hold for Linux, `python` ("3.13") and `machine`.

    Markers are decided here and removed, because pip decides them for the Python it runs on.
    """
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "os_name": "posix",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
    }
    text = re.sub(r"^\s*#.*\n", "", file.read_text(), flags=re.MULTILINE)
    lines = []
    for line in text.replace("\\\n", " ").splitlines():
        named, *hashes = line.split("--hash=")
        requirement = Requirement(named)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            pins = " ".join(f"--hash={value.strip()}" for value in hashes)
            lines.append(f"{requirement.name}{requirement.specifier} {pins}\n")
    return "".join(lines)


def download_wheels(
    directory: Path, python: str, machine: str = "x86_64", file: Path = REQUIREMENTS
) -> None:
    """Fetch what `file` requires on `python` ("3.13") and `machine` into `directory`: what
    `homeport_node` needs, if no other is named.

    Only wheels, each checked against its hash, from the index that this machine's pip is set up
    with. Raises `subprocess.CalledProcessError` after pip has said why.
    """
    directory.mkdir(parents=True, exist_ok=True)
    glibc = [f"manylinux_2_{minor}_{machine}" for minor in range(34, 16, -1)]
    platforms = [*glibc, f"manylinux2014_{machine}", f"linux_{machine}"]
    tag = python.replace(".", "")
    abis = [f"cp{tag}", "abi3", "none"]
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(requirements(python, machine, file))
        command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps"]
        command += ["--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:"]
        command += ["--python-version", python, "--implementation", "cp"]
        command += [part for abi in abis for part in ("--abi", abi)]
        command += [part for name in platforms for part in ("--platform", name)]
        subprocess.run(
            [*command, "--dest", str(directory), "--requirement", str(wanted)], check=True
        )
