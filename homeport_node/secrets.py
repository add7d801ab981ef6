"""Secrets on the node: files under /etc/homeport/secrets, one per secret, 0600, owned by root.

`prove` lets the desk compare a secret that it was given with the one on the node, and nobody who
reads what was said can test a guess: the two ends agree on a key (Diffie-Hellman, the 2048-bit
group 14 of RFC 3526), and the node answers with an HMAC of the secret under that key. A plain or
salted hash would let a short secret be guessed from pyinfra's output.
"""

import base64
import hashlib
import hmac
import os
import shutil
import stat
from pathlib import Path
from typing import Any

from homeport_node.common import SECRETS

# What is to be root's, and how; whoever writes to the first can replace the second.
DIRECTORIES = {"/etc/homeport": 0o755, SECRETS: 0o700}
UPLOADS = "/tmp/.homeport-secret-"

# RFC 3526, section 3; the generator is 2.
PRIME = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A0879"
    "8E3404DDEF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B"
    "0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA4836"
    "1C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804"
    "F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6"
    "955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF",
    16,
)


def private_key() -> int:
    """A fresh exponent of 256 bits, twice the strength of the group."""
    return int.from_bytes(os.urandom(32), "big")


def public_key(private: int) -> str:
    """What may be said aloud of `private`, in hex."""
    return format(pow(2, private, PRIME), "x")


def prove(private: int, peer: str, name: str, value: bytes) -> str:
    """The HMAC-SHA256 (hex) of the secret `name` under the key shared with `peer` (hex)."""
    shared = pow(int(peer, 16), private, PRIME)
    key = hashlib.sha256(shared.to_bytes(256, "big")).digest()
    return hmac.new(key, name.encode() + b"\0" + value, hashlib.sha256).hexdigest()


def describe(path: str) -> "dict[str, Any] | None":
    """{"mode": "600", "uid": 0, "gid": 0, "size": 43, "regular": true}; None when absent."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return {
        "mode": format(stat.S_IMODE(status.st_mode), "o"),
        "uid": status.st_uid,
        "gid": status.st_gid,
        "size": status.st_size,
        "regular": stat.S_ISREG(status.st_mode),
    }


def _directory(path: str) -> "str | None":
    """ "mode 700, owner 0:0" of the directory at `path`; None when there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  # where a link leads to one, that counts
    except OSError:
        return None
    return f"mode {stat.S_IMODE(status.st_mode):o}, owner {status.st_uid}:{status.st_gid}"


def _leftovers() -> "list[str]":
    """What an interrupted run left: half-written files, and uploads of ours."""
    found = [str(path) for path in Path(SECRETS).glob(".*.new")]
    owners = (0, int(os.environ.get("SUDO_UID", "0")))
    for path in Path(UPLOADS).parent.glob(f"{Path(UPLOADS).name}*"):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid in owners:
            found.append(str(path))
    return sorted(found)


def _bytes_of(path: str) -> "bytes | None":
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def observe(names: "list[str]", given: "list[str]", peer: str) -> "dict[str, Any]":
    """The state of the secrets `names`, and proofs of those in `given`; never a value."""
    private = private_key()
    proofs = {}
    for name in given:
        value = _bytes_of(f"{SECRETS}/{name}")
        if value:
            proofs[name] = prove(private, peer, name, value)
    return {
        "directories": {path: _directory(path) for path in DIRECTORIES},
        "files": {name: describe(f"{SECRETS}/{name}") for name in names},
        "leftovers": _leftovers(),
        "public": public_key(private),
        "proofs": proofs,
    }


def _write(name: str, value: bytes, replace: bool) -> None:
    """Put the secret there whole, or leave things as they were."""
    path = f"{SECRETS}/{name}"
    temporary = f"{SECRETS}/.{name}.new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(value)
        file.flush()
        os.fsync(file.fileno())
    if replace:
        Path(temporary).replace(path)
    else:
        try:
            os.link(temporary, path)  # unlike a rename, this never overwrites
        finally:
            Path(temporary).unlink()
    directory = os.open(SECRETS, os.O_RDONLY)
    os.fsync(directory)
    os.close(directory)


def _prepare() -> None:
    os.umask(0o077)
    for path, mode in DIRECTORIES.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        os.chown(path, 0, 0)
        Path(path).chmod(mode)


def tidy(names: "list[str]") -> "str | None":
    """Make the directory, put right owner and mode of `names`, drop what a broken run left."""
    _prepare()
    for path in _leftovers():
        if Path(path).is_dir():
            shutil.rmtree(path)
        else:
            Path(path).unlink()
    for name in names:
        path = f"{SECRETS}/{name}"
        state = describe(path)
        if state and not state["regular"]:
            return f"{path} is not a regular file: move it away, then converge again"
        if state:
            os.chown(path, 0, 0)
            Path(path).chmod(0o600)
    return None


def make(wanted: "dict[str, int]") -> "str | None":
    """Make the secrets of `wanted` ({name: bytes of randomness}) that are missing or empty."""
    _prepare()
    for name, size in wanted.items():
        path = f"{SECRETS}/{name}"
        state = describe(path)
        if state and state["size"] == 0:
            Path(path).unlink()
        elif state:
            continue
        text = base64.urlsafe_b64encode(os.urandom(size)).rstrip(b"=")
        _write(name, text, replace=False)
    return None


def take(name: str, upload: str) -> "str | None":
    """Move the value that was uploaded to the file `upload` into place."""
    _prepare()
    value = _bytes_of(upload)
    if not value:
        return f"secret {name}: nothing arrived at {upload}: converge again"
    _write(name, value, replace=True)
    shutil.rmtree(Path(upload).parent)
    return None
