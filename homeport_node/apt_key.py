"""The key of an apt repository: fetched, and kept only where it is the pinned one. Standard library
only: a bare Debian has no gpg, so OpenPGP is read here (RFC 9580)."""

import base64
import binascii
import hashlib
import urllib.request
from pathlib import Path

from homeport_node.common import read, write_whole

LISTS = Path("/etc/apt/sources.list.d")
TIMEOUT = 30  # seconds
LIMIT = 1 << 20  # bytes: a key of one owner has a few thousand
PUBLIC_KEY, USER_ID, PUBLIC_SUBKEY, SIGNATURE, PICTURE = 6, 13, 14, 2, 17
PARTS = (PUBLIC_KEY, USER_ID, PUBLIC_SUBKEY, SIGNATURE, PICTURE)


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
        if tag not in PARTS:
            raise ValueError(f"a packet of kind {tag} has no place in a public key")
        if tag != PUBLIC_KEY:
            continue
        if body[:1] != b"\x04":
            raise ValueError("the key is not of OpenPGP's version 4")
        whole = b"\x99" + len(body).to_bytes(2, "big") + body
        # The format's own hash: RFC 9580, 5.5.4.2.
        found.append(hashlib.sha1(whole, usedforsecurity=False).hexdigest().upper())
    return found


def kept(keyring: str) -> "list[str]":
    """The fingerprints of the keys in the file `keyring`; [] when there is none to be read."""
    try:
        return fingerprints(Path(keyring).read_bytes())
    except (OSError, ValueError):
        return []


def other_lists(repository: str, own: str) -> "list[str]":
    """Files of apt but `own` that name `repository`: two with different keys end every apt."""
    if not repository:
        return []
    address = repository.rstrip("/").partition("://")[2]
    found = []
    for path in sorted((*LISTS.glob("*.list"), *LISTS.glob("*.sources"))):
        lines = (read(path) or "").splitlines()
        named = any(address in line for line in lines if not line.lstrip().startswith("#"))
        if named and str(path) != own:
            found.append(str(path))
    return found


def fetch(url: str, fingerprint: str, keyring: str) -> "str | None":
    """Keep the key at `url` in the file `keyring`, if it is the one key with `fingerprint`."""
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as answer:
            data = answer.read(LIMIT)
        found = fingerprints(data)
    except (OSError, ValueError) as error:
        return f"{url}: {error}: nothing was changed"
    if found != [fingerprint]:
        return (
            f"{url} holds the key {' and '.join(found) or 'of nobody'}, and not {fingerprint} "
            "alone: it is not trusted, and nothing was changed"
        )
    try:
        write_whole(Path(keyring), dearmored(data), 0o644)
    except OSError as error:
        return str(error)
    return None
