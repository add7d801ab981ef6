"""Which packages of the driver a node has, which are held, and where apt may take them from.

Standard library only. A key of a repository is written only when its file holds that one key: the
fingerprint is computed here, for want of a gpg on every node (RFC 9580, 5.5.4.1).
"""

import base64
import hashlib
import platform
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homeport_node.common import NVIDIA_HELD, read, run

HELD = Path(NVIDIA_HELD)
KEY_TIMEOUT = 30  # seconds
PACKAGES = re.compile(
    r"nvidia|^libcuda1|^libnv|^cuda-drivers|^(linux-image|linux-headers)-|^proxmox-default-"
)


def packages(shown: str) -> "dict[str, dict[str, Any]]":
    """{package: {"version", "held"}} of the wholly installed ones in dpkg-query's `shown`."""
    found = {}
    for line in shown.splitlines():
        status, name, version = line.split("\t")
        if status[1:2] == "i" and PACKAGES.search(name):
            found[name] = {"version": version, "held": status[0] == "h"}
    return found


def archives(shown: str) -> "list[list[str]]":
    """[[URI, suite, component, file of the entry]] of Debian's archives, of what
    `apt-get indextargets` has `shown`."""
    found = (line.split(" ") for line in shown.splitlines() if line.endswith(" Debian"))
    return [[uri, suite, part, entry.rpartition(":")[0]] for uri, suite, part, entry, _ in found]


def _bodies(data: bytes) -> "Iterator[tuple[int, bytes]]":
    """(tag, body) of each OpenPGP packet in `data`. Raises IndexError for what is none."""
    at = 0
    while at < len(data):
        head = data[at]
        if head & 0x40:  # the new format
            tag, first = head & 0x3F, data[at + 1]
            if first < 192:
                size, at = first, at + 2
            elif first < 224:
                size, at = ((first - 192) << 8) + data[at + 2] + 192, at + 3
            else:
                size, at = int.from_bytes(data[at + 2 : at + 6], "big"), at + 6
        else:
            tag, width = (head >> 2) & 0xF, 1 << (head & 3)
            size, at = int.from_bytes(data[at + 1 : at + 1 + width], "big"), at + 1 + width
        yield tag, data[at : at + size]
        at += size


def fingerprints(text: str) -> "list[str]":
    """The fingerprints of the primary keys in an armored OpenPGP `text`; [] for what is none."""
    found = []
    for block in re.findall(r"BEGIN PGP PUBLIC KEY BLOCK-----(.*?)-----END", text, re.S):
        # Without the headers, such as "Version: …", and the checksum.
        lines = (line.strip() for line in block.split("\n"))
        body = "".join(line for line in lines if ":" not in line and not line.startswith("="))
        try:
            for tag, key in _bodies(base64.b64decode(body)):
                if tag == 6:  # a primary public key, of version 4
                    whole = b"\x99" + len(key).to_bytes(2, "big") + key
                    found.append(hashlib.sha1(whole).hexdigest().upper())
        except (ValueError, IndexError):
            return []
    return found


def fetch_key(url: str, fingerprint: str, path: str) -> "str | None":
    """Write the key at `url` to `path`, when it is the one with `fingerprint`; else why not."""
    try:
        with urllib.request.urlopen(url, timeout=KEY_TIMEOUT) as answer:
            text = answer.read(1 << 20).decode("ascii", "replace")
    except OSError as error:
        return f"{url}: {error}"
    found = fingerprints(text)
    if found != [fingerprint]:
        return f"{url}: holds the key {', '.join(found) or 'of nobody'}, and not {fingerprint}"
    target = Path(path)
    temporary = target.with_name(f".{target.name}.new")
    temporary.write_text(text)
    temporary.chmod(0o644)
    temporary.replace(target)
    return None


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
    ran = run("apt-mark", "unhold", *ours) if ours else None
    if ran is not None and not ran.ok:
        return f"apt-mark unhold: {ran.err.strip()}"
    HELD.unlink(missing_ok=True)
    return None


def observe(files: "list[str]", key: str, whole: bool = True) -> "dict[str, Any]":
    """What apt knows of the driver, with `whole`; and always what is ours: `files` as text, the
    file `key` by its fingerprints, the packages held."""
    ours = {
        "files": {path: text for path in files if (text := read(path)) is not None},
        "key": fingerprints(read(key) or ""),
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
    }
