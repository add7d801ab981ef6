"""NVIDIA's container toolkit: its repository's key, its packages, what it describes. Standard
library only: a bare Debian has no gpg, so the key is read here."""

import base64
import binascii
import hashlib
import os
import re
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from homeport_node.common import CDI_UNIT, cdi_devices, read, run

KEYRING = Path("/usr/share/keyrings/homeport-nvidia-container-toolkit.gpg")
LISTS = Path("/etc/apt/sources.list.d")
# Where Docker, Podman and the toolkit look for descriptions; the second is emptied at each boot.
DESCRIPTIONS = (Path("/etc/cdi"), Path("/var/run/cdi"))
KEY_LIMIT = 1 << 20  # bytes: an OpenPGP key of one owner has a few thousand
PUBLIC_KEY, USER_ID, PUBLIC_SUBKEY, SIGNATURE = 6, 13, 14, 2
DEVICE = re.compile(r"""["']?path["']?:\s*["']?(/dev/nvidia[^"'\s,]+)""")
HOST_PATH = re.compile(r"""["']?hostPath["']?:\s*["']?(/[^"'\s,]+)""")


def dearmored(data: bytes) -> bytes:
    """The packets in `data`, an OpenPGP key with or without ASCII armor. Raises ValueError."""
    begin, end = b"-----BEGIN PGP PUBLIC KEY BLOCK-----", b"-----END PGP PUBLIC KEY BLOCK-----"
    if begin not in data:
        return data
    body = data.split(begin, 1)[1].split(end, 1)[0].replace(b"\r", b"")
    lines = body.split(b"\n\n", 1)[-1].splitlines()  # headers end at an empty line
    text = b"".join(line for line in lines if not line.startswith(b"="))  # "=" begins the CRC
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the key's armor cannot be read: {error}") from error


def _length(data: bytes, at: int) -> "tuple[int, int]":
    """(length, where the body begins) of the packet whose header is at `at` (RFC 9580, 4.2)."""
    kind, first = data[at], data[at + 1]
    if not kind & 0x40:  # the old format: the length's own size is in the header
        size = (1, 2, 4, 0)[kind & 3]
        if not size:
            raise ValueError("a packet of the key has no length")
        return int.from_bytes(data[at + 1 : at + 1 + size], "big"), at + 1 + size
    if first < 192:
        return first, at + 2
    if first < 224:
        return ((first - 192) << 8) + data[at + 2] + 192, at + 3
    if first < 255:
        raise ValueError("a packet of the key has no length")
    return int.from_bytes(data[at + 2 : at + 6], "big"), at + 6


def packets(data: bytes) -> "list[tuple[int, bytes]]":
    """[(tag, body)] of OpenPGP packets. Raises ValueError when they are not whole."""
    found = []
    at = 0
    while at < len(data):
        if not data[at] & 0x80 or at + 1 >= len(data):
            raise ValueError("this is no OpenPGP key")
        tag = data[at] & 0x3F if data[at] & 0x40 else (data[at] >> 2) & 0xF
        try:
            length, begin = _length(data, at)
        except IndexError:
            raise ValueError("the key is cut short") from None
        if begin + length > len(data):
            raise ValueError("the key is cut short")
        found.append((tag, data[begin : begin + length]))
        at = begin + length
    return found


def fingerprints(data: bytes) -> "list[str]":
    """The fingerprint of every primary key in `data`, 40 hex digits each. Raises ValueError.

    Every one counts: apt would trust a second key in the file as well as the first. What is none
    of a public key's parts is refused.
    """
    found = []
    for tag, body in packets(dearmored(data)):
        if tag not in (PUBLIC_KEY, USER_ID, PUBLIC_SUBKEY, SIGNATURE, 17):  # 17: a picture
            raise ValueError(f"a packet of kind {tag} has no place in a public key")
        if tag != PUBLIC_KEY:
            continue
        if body[:1] != b"\x04":
            raise ValueError("the key is not of OpenPGP's version 4")
        whole = b"\x99" + len(body).to_bytes(2, "big") + body
        # The format's own hash: RFC 9580, 5.5.4.2.
        found.append(hashlib.sha1(whole, usedforsecurity=False).hexdigest().upper())
    return found


def key_state() -> "list[str]":
    """The fingerprints in our keyring; [] when it is not there or cannot be read."""
    try:
        return fingerprints(KEYRING.read_bytes())
    except (OSError, ValueError):
        return []


def fetch_key(url: str, fingerprint: str) -> "str | None":
    """Put the key at `url` into our keyring, if it is the one key with `fingerprint`."""
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = answer.read(KEY_LIMIT)
        found = fingerprints(data)
    except (OSError, ValueError) as error:
        return f"{url}: {error}: nothing was changed"
    if found != [fingerprint]:
        return (
            f"{url} holds the key {' and '.join(found) or 'of nobody'}, and not {fingerprint} "
            "alone: it is not trusted, and nothing was changed"
        )
    try:
        KEYRING.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".homeport-", dir=KEYRING.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(dearmored(data))
            os.fchmod(file.fileno(), 0o644)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(KEYRING)
    except OSError as error:
        return str(error)
    return None


def other_lists(repository: str, own: str) -> "list[str]":
    """Files of apt but `own` that name `repository`: two with different keys end every apt."""
    address = repository.rstrip("/").partition("://")[2]
    found = []
    for path in sorted((*LISTS.glob("*.list"), *LISTS.glob("*.sources"))):
        lines = (read(path) or "").splitlines()
        named = any(address in line for line in lines if not line.lstrip().startswith("#"))
        if named and str(path) != own:
            found.append(str(path))
    return found


def held(packages: "list[str]") -> "list[str]":
    """Those of `packages` that dpkg holds."""
    shown = run("dpkg-query", "-W", "-f", "${db:Status-Want}\t${Package}\n", *packages).out
    pairs = [line.split("\t") for line in shown.splitlines()]
    return sorted(pair[1] for pair in pairs if pair[0] == "hold")


def link_of(device: str) -> str:
    """The link in /dev/char by which systemd knows a device node; the node itself without one."""
    try:
        number = Path(device).stat().st_rdev
    except OSError:
        return device
    return f"/dev/char/{os.major(number)}:{os.minor(number)}"


def gone() -> "list[str]":
    """Files of this machine that a description names, and that are not there (any more): a
    container that is given such a device does not start. And links in /dev/char: without them
    Debian 12's runc leaves a device to be taken at the next `systemctl daemon-reload`."""
    texts = [read(path) or "" for folder in DESCRIPTIONS for path in sorted(folder.glob("*"))]
    paths = set()
    for text in texts:
        if "nvidia.com/gpu" in text:
            paths |= {*HOST_PATH.findall(text), *map(link_of, DEVICE.findall(text))}
    return sorted(path for path in paths if not Path(path).exists())


def unit_state() -> "dict[str, bool]":
    """{"enabled": True, "active": True, "stale": False}; stale: not as on the disk."""
    names = "UnitFileState,ActiveState,NeedDaemonReload"
    shown = run("systemctl", "show", "-p", names, CDI_UNIT).out
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {
        "enabled": values.get("UnitFileState") == "enabled",
        "active": values.get("ActiveState") == "active",
        "stale": values.get("NeedDaemonReload") == "yes",
    }


def describe(gpus: "list[str]") -> "str | None":
    """Have the toolkit describe this machine's GPUs anew; all of `gpus` must be among them."""
    ran = run("systemctl", "restart", CDI_UNIT, timeout=120)
    if not ran.ok:
        said = run("journalctl", "--no-pager", "-o", "cat", "-n", "5", "-u", CDI_UNIT).out.strip()
        return f"nvidia-ctk cannot describe the GPUs: {said or ran.err.strip()}"
    lacking = sorted(set(gpus) - set(cdi_devices()))
    if lacking:
        return (
            f"nvidia-ctk describes no {', '.join(lacking)}: see `nvidia-smi -L`, and put the UUIDs "
            "that `bin/homeport probe` prints into the targets file"
        )
    missing = gone()
    return f"the description names what is not there: {', '.join(missing)}" if missing else None


def observe(
    repository: str, packages: "list[str]", files: "list[str]", own_list: str
) -> "dict[str, Any]":
    """Everything about the toolkit; `files` are ours, see `deploys.nvidia_containers.facts`."""
    texts = {path: read(path) for path in files}
    return {
        "key": key_state(),
        "keyring": KEYRING.exists(),
        "files": {
            path: hashlib.sha256(text.encode()).hexdigest()
            for path, text in texts.items()
            if text is not None
        },
        "other_lists": other_lists(repository, own_list) if repository else [],
        "held": held(packages),
        "unit": unit_state(),
        "devices": cdi_devices(),
        "gone": gone(),
    }
