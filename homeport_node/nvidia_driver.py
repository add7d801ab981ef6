"""Which packages of the driver a node has, which are held, and where apt may take them from.

Standard library only.
"""

import platform
import re
from pathlib import Path
from typing import Any

from homeport_node import apt_key
from homeport_node.common import NVIDIA_HELD, own_files, read, run

HELD = Path(NVIDIA_HELD)
PACKAGES = re.compile(
    r"nvidia|^libcuda1|^libnv|^cuda-drivers|^(linux-image|linux-headers)-"
    r"|^proxmox-(default-)?(kernel|headers)"
)


def packages(shown: str) -> "dict[str, dict[str, Any]]":
    """{package: {"version", "held"}} of the wholly installed ones in dpkg-query's `shown`."""
    found = {}
    for line in shown.splitlines():
        status, name, version = line.split("\t")
        if status[1:2] == "i" and PACKAGES.search(name):
            found[name] = {"version": version, "held": status[0] == "h"}
    return found


def signed_by(entry: str) -> str:
    """What an entry of apt's, "FILE:NUMBER", says of its archive's keys; "" for nothing. The number
    is that of a line, or in a .sources file that of a stanza."""
    path, _, number = entry.rpartition(":")
    text = read(path) or ""
    if path.endswith(".sources"):
        # The value may be a key itself, on lines that begin with a space.
        value = r"(?im)^signed-by:[ \t]*(.*(?:\n[ \t].*)*)"
        parts = re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text).strip())
    else:
        value = r"(?i)^[^#]*?\[[^]]*?signed-by=([^] \t]+)"
        parts = text.splitlines()
    found = re.search(value, parts[int(number) - 1]) if int(number) <= len(parts) else None
    return found[1] if found else ""


def archives(shown: str) -> "list[list[str]]":
    """[[URI, suite, component, file of the entry, its Signed-By]] of Debian's archives, of what
    `apt-get indextargets` has `shown`."""
    found = (line.split(" ") for line in shown.splitlines() if line.endswith(" Debian"))
    return [
        [uri, suite, part, entry.rpartition(":")[0], signed_by(entry)]
        for uri, suite, part, entry, _ in found
    ]


def hold(packages: "list[str]") -> "str | None":
    """Keep apt from upgrading `packages`, and remember that it was us."""
    HELD.parent.mkdir(parents=True, exist_ok=True)
    ours = {*(read(HELD) or "").split(), *packages}
    HELD.write_text("".join(f"{name}\n" for name in sorted(ours)))
    ran = run("apt-mark", "hold", *packages)
    return None if ran.ok else f"apt-mark hold: {ran.err.strip()}"


def release() -> "str | None":
    """Let apt upgrade again what we held."""
    ours = (read(HELD) or "").split()
    shown = run("dpkg-query", "-W", "-f", "${db:Status-Want} ${Package}\n", *ours) if ours else None
    lines = shown.out.splitlines() if shown else []
    # apt-mark would release none of them where apt no longer knows one.
    held = sorted({line[5:] for line in lines if line.startswith("hold ")})
    ran = run("apt-mark", "unhold", *held) if held else None
    if ran is not None and not ran.ok:
        return f"apt-mark unhold: {ran.err.strip()}"
    HELD.unlink(missing_ok=True)
    return None


def observe(
    files: "list[str]", key: str, whole: bool = True, repository: str = "", own_list: str = ""
) -> "dict[str, Any]":
    """What apt knows of the driver, with `whole`; and always what is ours: `files`, the file `key`
    by its fingerprints, the packages held. `own_list` is our file for `repository`."""
    ours = {
        "other_lists": apt_key.other_lists(repository, own_list),
        "files": own_files(files),
        "texts": {path: text for path in files if (text := read(path)) is not None},
        "key": apt_key.kept(key),
        "held_by_us": (read(HELD) or "").split(),
    }
    if not whole:
        return ours
    pairs = re.findall(r'^(ID|VERSION_ID)="?([^"\n]*)', read("/etc/os-release") or "", re.M)
    shown = "${db:Status-Abbrev}\t${Package}\t${Version}\n"
    sites = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(SOURCESENTRY) $(ORIGIN)"
    targets = run("apt-get", "indextargets", "--format", sites, "Created-By: Packages")
    return {
        **ours,
        "os": dict(pairs),
        "machine": platform.machine(),
        "kernel": platform.release(),
        "packages": packages(run("dpkg-query", "-W", "-f", shown).out),
        "archives": archives(targets.out),
        "apt_error": "" if targets.ok else targets.err.strip(),
    }
