"""Which packages make the driver on which system, and where apt finds them. Plain functions.

Only what computing needs: no X server. Sources: the packages' own dependencies in Debian 12 and 13;
NVIDIA's driver installation guide (compute-only systems; Ubuntu's names from branch 590 on have no
branch in them). dkms needs the headers of each kernel that it builds for: a metapackage brings
those of the newest kernel in the archive, which need not be one that is installed here.
"""

import re
from typing import Any

from deploys.nvidia.spec import Nvidia

HEADER = "# Managed by Homeport (nvidia). Changes are replaced by the next converge.\n"
SOURCES = "/etc/apt/sources.list.d/homeport-nvidia.sources"
PREFERENCES = "/etc/apt/preferences.d/homeport-nvidia"
KEY = "/usr/share/keyrings/homeport-nvidia.gpg"
APT_FILES = (SOURCES, PREFERENCES)

HOST = "developer.download.nvidia.com"
# (ID, VERSION_ID) → folder of NVIDIA's repository, its key's file, the key's fingerprint. Debian 13
# refuses the signatures that the older key was made with (SHA-1).
OLDER_KEY = ("3bf863cc.pub", "EB693B3035CD5710E231E123A4B469963BF863CC")
REPOSITORIES = {
    ("debian", "12"): ("debian12", *OLDER_KEY),
    ("debian", "13"): ("debian13", "8793F200.pub", "02182E60104FCDC26EAE1B8597A5D4CB8793F200"),
    ("ubuntu", "22.04"): ("ubuntu2204", *OLDER_KEY),
    ("ubuntu", "24.04"): ("ubuntu2404", *OLDER_KEY),
}
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "sbsa"}
# Components beside main that the driver of Debian comes from, its free parts included.
NON_FREE = ("contrib", "non-free", "non-free-firmware")
METAPACKAGE = r"linux-image-[a-z][a-z0-9.-]*|proxmox-default-kernel|proxmox-kernel-\d+\.\d+"
KERNEL = (
    r"(?:linux-image|proxmox-kernel)-(?:unsigned-)?(\d+\.\d+[.-].*?)(?:-(?:un)?signed)?(?<!-dbg)"
)


def system(observed: dict[str, Any]) -> tuple[str, str]:
    """("debian", "13") of the observed node."""
    release = observed.get("os", {})
    return release.get("ID", ""), release.get("VERSION_ID", "")


def problem(spec: Nvidia, observed: dict[str, Any]) -> tuple[str, str] | None:
    """(cause, remedy) when this node cannot have the driver that `spec` asks for, else None."""
    name, version = system(observed)
    if (name, version) not in REPOSITORIES:
        return (
            f"the driver's packages of {name} {version} are not known",
            "install the driver yourself, and give nvidia.driver='none'",
        )
    if spec.driver == "nvidia" and observed.get("machine") not in ARCHITECTURES:
        return f"NVIDIA has no repository for {observed.get('machine')}", "use the distribution's"
    if spec.driver == "distribution" and observed.get("apt_error"):
        return (
            f"apt cannot read its sources: {observed['apt_error']}",
            f"mend what it names, then converge again; {SOURCES} is Homeport's, and may be removed",
        )
    if spec.driver == "distribution" and name == "debian" and spec.branch is not None:
        return (
            f"nvidia.branch {spec.branch}: Debian {version} has one version of the driver only",
            "leave nvidia.branch out, or give nvidia.driver='nvidia'",
        )
    if spec.driver == "distribution" and name == "ubuntu" and spec.branch is None:
        return (
            "nvidia.branch is not given, and Ubuntu has several drivers",
            "give one that `apt-cache search --names-only '^nvidia-dkms-[0-9]+-server$'` lists",
        )
    return None


def headers(observed: dict[str, Any]) -> tuple[str, ...]:
    """The packages with the headers of this kernel, of the one that boots next, and of those to
    come: dkms builds with them. A kernel that is no package, as in a container, has none."""
    found, exact = set(), {}
    for name in observed.get("packages", {}):
        ours = name.replace("linux-image", "linux-headers").replace("-kernel", "-headers")
        if re.fullmatch(METAPACKAGE, name) and not re.search(r"unsigned|-dbg$", name):
            found.add(ours)
        elif one := re.fullmatch(KERNEL, name):
            exact[one[1]] = re.sub(r"-(un)?signed\b", "", ours)
    running = observed.get("kernel", "")
    newest = max(exact, key=lambda one: [int(part) for part in re.findall(r"\d+", one)], default="")
    wanted = found | {exact[one] for one in (running, newest) if one in exact}
    return tuple(sorted(wanted)) or (f"linux-headers-{running}",)


def _of_ubuntu(spec: Nvidia) -> tuple[str, ...]:
    """The packages on Ubuntu, that of the kernel module first."""
    suffix = "-open" if spec.kernel_modules == "open" else ""
    if spec.driver == "distribution":
        end = f"-{spec.branch}-server"
        names = ("libnvidia-compute", "nvidia-compute-utils", "nvidia-utils")
        return (f"nvidia-dkms{end}{suffix}", *(f"{name}{end}" for name in names))
    # NVIDIA's repository has the daemon as a package of its own, one for all branches.
    if (spec.branch or 0) >= 590:
        return (f"nvidia-dkms{suffix}", "libnvidia-compute", "nvidia-persistenced")
    end = f"-{spec.branch}"
    names = (f"libnvidia-compute{end}", f"nvidia-utils{end}", "nvidia-persistenced")
    return (f"nvidia-dkms{end}{suffix}", *names)


def wanted(spec: Nvidia, observed: dict[str, Any]) -> tuple[str, ...]:
    """The packages that the driver needs on this node; the first is its kernel module's."""
    return (*_of_driver(spec, observed), *headers(observed))


def in_branch(spec: Nvidia, observed: dict[str, Any]) -> tuple[str, ...]:
    """As `wanted`, with the version for apt where the name does not say it: NVIDIA's repository has
    all branches, on Debian and from 590 on under the same names."""
    version = f"={spec.branch}.*" if spec.driver == "nvidia" else ""
    return (*(name + version for name in _of_driver(spec, observed)), *headers(observed))


def _of_driver(spec: Nvidia, observed: dict[str, Any]) -> tuple[str, ...]:
    name, _ = system(observed)
    is_open = spec.kernel_modules == "open"
    if name == "ubuntu":
        return _of_ubuntu(spec)
    if spec.driver == "distribution":
        module = "nvidia-open-kernel-dkms" if is_open else "nvidia-kernel-dkms"
        # libnvidia-nvvm4: CUDA's linker; containers get the libraries of the node.
        rest: tuple[str, ...] = ("libcuda1", "libnvidia-nvvm4", "nvidia-persistenced", "nvidia-smi")
    else:
        module = "nvidia-kernel-open-dkms" if is_open else "nvidia-kernel-dkms"
        rest = ("nvidia-driver-cuda", "nvidia-persistenced")
    return (module, *rest)


def upstream(version: str) -> str:
    """The version that the maker gave it: "550.163.01" of "550.163.01-2" (Debian Policy 5.6.12)."""
    return version.partition(":")[2 if ":" in version else 0].rpartition("-")[0] or version


def to_hold(spec: Nvidia, observed: dict[str, Any]) -> list[str]:
    """The installed packages of the driver: all that carry the version of its kernel module."""
    there = observed.get("packages", {})
    module = there.get(wanted(spec, observed)[0])
    if module is None:
        return []
    version = upstream(module["version"])
    return sorted(name for name, one in there.items() if upstream(one["version"]) == version)


def _non_free(observed: dict[str, Any]) -> str:
    """An entry for the components that the node's own entries for Debian lack; "" for none. It is
    signed as those are: apt reads nothing any more when two say different things of one archive."""
    others = [one for one in observed.get("archives", ()) if one[3] != SOURCES]
    have: dict[tuple[str, str], set[str]] = {}
    keys: dict[tuple[str, str], str] = {}
    for uri, suite, component, _, key in others:
        have.setdefault((uri, suite), set()).add(component)
        keys[uri, suite] = f"Signed-By: {key}\n" if key else ""
    lacking = {
        key: [part for part in NON_FREE if part not in parts]
        for key, parts in sorted(have.items())
        if "main" in parts
    }
    entries = [
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(parts)}\n"
        f"{keys[uri, suite]}"
        for (uri, suite), parts in lacking.items()
        if parts
    ]
    return "\n".join(entries)


def repository(observed: dict[str, Any]) -> tuple[str, str, str]:
    """(address of NVIDIA's repository, address of its key, the key's fingerprint)."""
    folder, key, fingerprint = REPOSITORIES[system(observed)]
    architecture = ARCHITECTURES.get(observed["machine"], "")
    address = f"https://{HOST}/compute/cuda/repos/{folder}/{architecture}/"
    return address, address + key, fingerprint


def apt_files(spec: Nvidia, observed: dict[str, Any]) -> dict[str, str]:
    """{path: text} of our files for apt."""
    if spec.driver == "distribution":
        if system(observed)[0] != "debian":
            return {}
        there = observed["texts"].get(SOURCES, HOST)
        if HOST not in there and not [one for one in observed["archives"] if one[3] != SOURCES]:
            return {SOURCES: there}  # apt has no lists, and so says nothing of its archives
        entry = _non_free(observed)
        return {SOURCES: HEADER + entry} if entry else {}
    address, _, _ = repository(observed)
    # The driver of that branch from there, dkms where the distribution's is too old for it, and
    # nothing else of all that is there. Above 1000: where the branch is changed for an older one,
    # what its packages need changes with them.
    names = "*nvidia* libcuda1* libnv*"
    return {
        SOURCES: f"{HEADER}Types: deb\nURIs: {address}\nSuites: /\nSigned-By: {KEY}\n",
        PREFERENCES: (
            f"{HEADER}Package: {names}\nPin: version {spec.branch}.*\nPin-Priority: 1001\n\n"
            f'Package: dkms\nPin: origin "{HOST}"\nPin-Priority: 500\n\n'
            f'Package: *\nPin: origin "{HOST}"\nPin-Priority: -1\n'
        ),
    }
