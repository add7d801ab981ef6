"""The key of an apt repository: read as gpg reads it, and kept only where it is the pinned one."""

from pathlib import Path

import pytest

from homeport_node import apt_key

# Of a key that was made for these tests: `gpg --quick-gen-key`, and what `gpg --show-keys` says.
OURS = "4F3F47B54B66D5320D34DA7D636B4EECEFCAC49B"
ARMORED = b"""-----BEGIN PGP PUBLIC KEY BLOCK-----
Comment: a header

mDMEawGcoRYJKwYBBAHaRw8BAQdA0LSVLpY0mqJE1kLoAPqmoTyaCZuZYh9BXkZO
PvmWfva0DkhvbWVwb3J0IHRlc3RziJAEExYIADgWIQRPP0e1S2bVMg002n1ja07s
78rEmwUCawGcoQIbAwULCQgHAgYVCgkICwIEFgIDAQIeAQIXgAAKCRBja07s78rE
mz9xAP4qrLk4TXrBRxYP744TQ0nzxsnyXAsIEdsDm+m98+IaeAD/QMnTaaiO7L4k
rAl8X9NN9HEYSmArANiiZdYzaQNHUw4=
=bDnL
-----END PGP PUBLIC KEY BLOCK-----
"""
KEY = apt_key.dearmored(ARMORED)


def test_the_fingerprint_is_that_of_gpg() -> None:
    assert apt_key.fingerprints(ARMORED) == apt_key.fingerprints(KEY) == [OURS]
    assert apt_key.fingerprints(KEY + KEY) == [OURS, OURS]


def _new_format(old: bytes) -> bytes:
    """The packets of `old` with headers of the new format (RFC 9580, 4.2.1)."""
    found = b""
    for tag, body in apt_key.packets(old):
        length = len(body)
        if length < 192:
            size = bytes([length])
        elif length < 8384:
            size = bytes([((length - 192) >> 8) + 192, (length - 192) & 255])
        found += bytes([0xC0 | tag]) + size + body
    return found


def test_both_formats_of_packets_are_read() -> None:
    assert apt_key.fingerprints(_new_format(KEY)) == [OURS]
    long = bytes([0xC0 | 13, 255]) + (300).to_bytes(4, "big") + b"x" * 300
    middle = bytes([0xC0 | 13, 192, 8]) + b"y" * 200
    assert apt_key.packets(long + middle) == [(13, b"x" * 300), (13, b"y" * 200)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"<html>404</html>", "no OpenPGP key"),
        (KEY[:40], "cut short"),
        (KEY[:1], "no OpenPGP key"),
        (bytes([0xC0 | 6, 224]) + KEY, "no length"),
        (bytes([0x80 | 6 << 2 | 3]) + KEY, "no length"),
        (bytes([0x80 | 5 << 2, 1, 0]), "kind 5 has no place"),
        (bytes([0x80 | 6 << 2, 1, 6]), "version 4"),
        (ARMORED.replace(b"mDME", b"m!ME"), "armor"),
    ],
)
def test_what_is_no_key_is_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        apt_key.fingerprints(data)


@pytest.fixture
def keyring(tmp_path: Path) -> Path:
    return tmp_path / "keyrings" / "ours.gpg"


def test_the_right_key_is_kept(keyring: Path, tmp_path: Path) -> None:
    (tmp_path / "gpgkey").write_bytes(ARMORED)
    assert apt_key.fetch((tmp_path / "gpgkey").as_uri(), OURS, str(keyring)) is None
    assert keyring.read_bytes() == KEY
    assert keyring.stat().st_mode & 0o777 == 0o644
    assert apt_key.kept(str(keyring)) == [OURS]


OTHER = bytes([0x80 | 6 << 2, 5]) + b"\x04abcd"


@pytest.mark.parametrize(
    ("data", "words"),
    [(OTHER, "and not 4F3F47B5"), (KEY + OTHER, f"{OURS} and "), (b"no key", "no OpenPGP key")],
)
def test_another_key_is_not_trusted(keyring: Path, tmp_path: Path, data: bytes, words: str) -> None:
    """Nor the right one with another beside it, which apt would trust as well."""
    (tmp_path / "gpgkey").write_bytes(data)
    problem = apt_key.fetch((tmp_path / "gpgkey").as_uri(), OURS, str(keyring))
    assert words in (problem or "")
    assert "nothing was changed" in (problem or "")
    assert not keyring.exists()
    assert apt_key.kept(str(keyring)) == []


def test_a_key_that_is_not_there_is_said(keyring: Path, tmp_path: Path) -> None:
    assert "gpgkey: " in (apt_key.fetch((tmp_path / "gpgkey").as_uri(), OURS, str(keyring)) or "")
