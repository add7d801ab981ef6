"""A package repository for the lab: stand-ins of NVIDIA's container toolkit, as real packages.

They have the real ones' names, versions and interface (`nvidia-ctk cdi generate`, `cdi list`, the
runtime, the hook, nvidia-cdi-refresh), and hand over simulated GPUs. The index is an ordinary flat
repository, laid out as NVIDIA's; the sources' container signs it with a key of the lab's own.
"""

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from homeport.lab import LabError, cache
from homeport.lab.cache import Progress, quiet

PUBLIC = "https://nvidia.github.io/libnvidia-container"  # what an inventory's machine would ask
HARDWARE = Path(__file__).resolve().parents[1] / "hardware"
REFRESH = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
# By package: what it depends on, and where its files (of `HARDWARE`) go.
PACKAGES: dict[str, tuple[str, dict[str, str]]] = {
    "libnvidia-container1": ("", {}),
    "libnvidia-container-tools": ("libnvidia-container1 (= {version})", {}),
    "nvidia-container-toolkit-base": (
        "python3",
        {
            "usr/bin/nvidia-ctk": "nvidia-ctk",
            "usr/bin/nvidia-container-runtime": "nvidia-ctk",
            **{f"usr/lib/systemd/system/{unit}": unit for unit in REFRESH},
        },
    ),
    "nvidia-container-toolkit": (
        "nvidia-container-toolkit-base (= {version}), libnvidia-container-tools (= {version})",
        {"usr/bin/nvidia-container-runtime-hook": "nvidia-container-runtime-hook"},
    ),
}
# As the real one's does, where systemd runs.
POSTINST = f"""\
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl enable --now {" ".join(REFRESH)} || true
fi
"""
# $1: what to sign, $2: where the signed repository goes. Prints the key's fingerprint.
SIGN = """\
set -e
umask 022
export GNUPGHOME=$(mktemp -d)
cp -r "$1" "$2"
gpg --batch --quiet --passphrase '' --quick-gen-key "Homeport's lab" ed25519 sign never
gpg --batch --armor --export > "$2/gpgkey"
for release in "$2"/stable/deb/*/Release; do
    gpg --batch --clearsign --output "${release%/*}/InRelease" "$release"
done
gpg --batch --with-colons --list-keys | sed -n 's/^fpr:*\\([0-9A-F]*\\):$/\\1/p'
gpgconf --kill all
rm -rf "$GNUPGHOME"
"""


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except FileNotFoundError as error:
        raise LabError(f"{command[0]}: not found: the lab needs a Debian machine") from error
    if done.returncode:
        raise LabError(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")
    return done.stdout


def control(name: str, version: str) -> str:
    """The control file of the package `name`."""
    depends = PACKAGES[name][0].format(version=version)
    text = f"Package: {name}\nVersion: {version}\nArchitecture: all\n"
    text += f"Depends: {depends}\n" if depends else ""
    text += "Maintainer: Homeport's lab <lab@homeport.invalid>\n"
    return text + "Description: stand-in of NVIDIA's package, for simulated GPUs\n"


def _package(folder: Path, name: str, version: str) -> str:
    """Build the package into `folder`; its paragraph of the index."""
    text = control(name, version)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        root.mkdir(mode=0o755)
        (root / "DEBIAN").mkdir(mode=0o755)
        (root / "DEBIAN/control").write_text(text)
        for path, source in PACKAGES[name][1].items():
            target = root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(HARDWARE / source, target)
            target.chmod(0o755 if path.startswith("usr/bin") else 0o644)
        if any(unit in PACKAGES[name][1].values() for unit in REFRESH):
            (root / "DEBIAN/postinst").write_text(POSTINST)
            (root / "DEBIAN/postinst").chmod(0o755)
        file = folder / f"{name}_{version}_all.deb"
        _run("dpkg-deb", "--root-owner-group", "--build", str(root), str(file))
    data = file.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    return f"{text}Filename: ./{file.name}\nSize: {len(data)}\nSHA256: {digest}\n"


def write_repository(root: Path, pins: tuple[str, ...], architecture: str) -> None:
    """Write the unsigned repository of `pins` ("name=version") into the new directory `root`."""
    folder = root / "stable" / "deb" / architecture
    folder.mkdir(parents=True)
    index = []
    for pin in pins:
        name, _, version = pin.partition("=")
        if name not in PACKAGES:
            raise LabError(f"{name}: the lab has no such package; it has {', '.join(PACKAGES)}")
        index.append(_package(folder, name, version))
    packages = "\n".join(index)
    (folder / "Packages").write_text(packages)
    digest = hashlib.sha256(packages.encode()).hexdigest()
    release = "Origin: Homeport's lab\nCodename: stable\nDate: Thu, 01 Jan 2026 00:00:00 UTC\n"
    release += f"Architectures: {architecture}\nComponents: main\n"
    release += f"SHA256:\n {digest} {len(packages.encode())} Packages\n"
    (folder / "Release").write_text(release)


def repository(pins: tuple[str, ...], progress: Progress = quiet) -> Path:
    """The unsigned repository of `pins`, from the cache when it was made before."""
    architecture = _run("dpkg", "--print-architecture").strip()
    sources = sorted({source for _, files in PACKAGES.values() for source in files.values()})
    texts = [(HARDWARE / source).read_text() for source in sources]
    key = cache.key(Path(__file__).read_text(), texts, sorted(pins), architecture)

    def build(path: Path) -> None:
        progress("building the stand-ins of NVIDIA's container toolkit")
        path.mkdir()
        write_repository(path, pins, architecture)

    return cache.entry("packages", key, build, progress)
