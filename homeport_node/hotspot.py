"""The Wi-Fi hotspot as NetworkManager runs it. Standard library only.

The passphrase is read here, on the node, and goes from one 0600 file into another; no function
prints or returns it.
"""

import json
import secrets
import socket
import struct
from pathlib import Path
from typing import Any

from homeport_node.common import SECRETS, own_files, read, run, write_whole

PROFILE = Path("/etc/NetworkManager/system-connections/homeport-hotspot.nmconnection")
CONNECTION = "homeport-hotspot"
PSK = Path(SECRETS, "hotspot.psk")
# Where a profile's text names the passphrase, and the mark of one writing of it.
PSK_MARK, WRITTEN_MARK = "@PSK@", "@WRITTEN@"
# The name under which the running dnsmasq tells which configuration it has read.
CONFIG_NAME = "config.homeport.internal"
# dnsmasq reads this folder when NetworkManager spawns it, and then writes its pid file.
NAMES_FOLDER = Path("/etc/NetworkManager/dnsmasq-shared.d")
DNSMASQ_PID = "/run/nm-dnsmasq-{interface}.pid"
NETWORK_MANAGER = "org.freedesktop.NetworkManager"


def escaped(value: str) -> str:
    """`value` as a string of a key file (GLib's GKeyFile)."""
    text = value.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")
    return "\\s" + text[1:] if text.startswith(" ") else text


def psk_fault(psk: str) -> "str | None":
    """Why `psk` cannot be a WPA passphrase, without saying it; None when it can."""
    if len(psk) == 64 and set(psk) <= set("0123456789abcdefABCDEF"):
        return None
    if not 8 <= len(psk) <= 63 or any(not " " <= letter <= "~" for letter in psk):
        return f"{PSK}: must be 8 to 63 printable ASCII characters, or 64 hexadecimal digits"
    return None


def passphrase() -> "str | None":
    """The passphrase in the secret's file, without the line's end; None without a file."""
    text = read(PSK)
    return None if text is None else text.rstrip("\r\n")


def written(profile: str) -> str:
    """The mark of the writing that a profile's text carries, "" when it has none."""
    for line in profile.splitlines():
        key, _, value = line.partition("=")
        if key == "homeport.written":
            return value
    return ""


def write_profile(profile: str) -> "str | None":
    """Write the connection profile, the passphrase filled in. Answers what stood in the way."""
    psk = passphrase()
    if psk is None:
        return f"{PSK} is not there: the capability secrets makes it"
    fault = psk_fault(psk)
    if fault:
        return fault
    text = profile.replace(WRITTEN_MARK, secrets.token_hex(8)).replace(PSK_MARK, escaped(psk))
    try:
        # NetworkManager ignores a file whose name begins with a dot.
        write_whole(PROFILE, text.encode(), 0o600)
    except OSError as error:
        return str(error)
    return None


def profile_state(profile: str) -> "dict[str, Any]":
    """{"present", "same", "written"} of the profile on the disk, against the wanted text."""
    text = read(PROFILE)
    if text is None:
        return {"present": False, "same": False, "written": ""}
    mark = written(text)
    psk = passphrase()
    wanted = profile.replace(WRITTEN_MARK, mark).replace(PSK_MARK, escaped(psk or ""))
    status = PROFILE.lstat()  # of a link, the link's own: that is not the file
    private = status.st_mode & 0o777 == 0o600 and status.st_uid == 0
    return {"present": True, "same": text == wanted and private, "written": mark}


def call(path: str, interface: str, method: str, *arguments: str) -> Any:
    """The data of NetworkManager's answer over D-Bus, None when it gives none."""
    asked = run(
        "busctl", "--json=short", "call", NETWORK_MANAGER, path, interface, method, *arguments
    )
    try:
        return json.loads(asked.out)["data"] if asked.ok else None
    except (ValueError, KeyError):
        return None


def applied(interface: str) -> str:
    """The mark of the profile with which `interface` runs, "" when it runs none of ours."""
    base = f"/{NETWORK_MANAGER.replace('.', '/')}"
    device = call(base, NETWORK_MANAGER, "GetDeviceByIpIface", "s", interface)
    if not device:
        return ""
    found = call(device[0], f"{NETWORK_MANAGER}.Device", "GetAppliedConnection", "u", "0")
    try:
        return str(found[0]["user"]["data"]["data"].get("homeport.written", ""))
    except (TypeError, KeyError, IndexError, AttributeError):
        return ""


def txt_query(name: str) -> bytes:
    """A DNS question for the TXT record of `name` (RFC 1035)."""
    labels = b"".join(bytes([len(one)]) + one.encode() for one in name.split("."))
    return (
        struct.pack(">6H", 0x4850, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", 16, 1)
    )


def txt_answer(question: bytes, answer: bytes) -> str:
    """The first TXT string in `answer`, "" when there is none.

    dnsmasq repeats the question, then points back to its name in two bytes: the string's length
    stands 12 bytes behind the question.
    """
    if len(answer) < len(question) + 13 or struct.unpack(">H", answer[6:8])[0] == 0:
        return ""
    start = len(question) + 12
    return answer[start + 1 : start + 1 + answer[start]].decode("ascii", "replace")


def running_config(address: str) -> str:
    """What the dnsmasq at `address` says of its configuration, "" when none answers in 2 s."""
    question = txt_query(CONFIG_NAME)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        try:
            client.sendto(question, (address, 53))
            return txt_answer(question, client.recv(512))
        except OSError:
            return ""


def names_read(interface: str) -> bool:
    """Whether the dnsmasq of `interface` began after the last change in its folder.

    The hash that it tells does not cover lines that somebody took out of the file around it.
    """
    try:
        began = Path(DNSMASQ_PID.format(interface=interface)).stat().st_mtime
        changed = [one.stat().st_ctime for one in (NAMES_FOLDER, *NAMES_FOLDER.iterdir())]
    except OSError:
        return False
    return began > max(changed)


def radio(mac: str) -> str:
    """The interface whose own address is `mac`, "" when there is none."""
    try:
        links = json.loads(run("ip", "-json", "link").out)
    except ValueError:
        return ""
    for link in links:
        own = link.get("permaddr") or link.get("address") or ""
        if own.lower() == mac.lower():
            return str(link["ifname"])
    return ""


def manages(interface: str) -> "list[str]":
    """The interfaces but `interface` that NetworkManager keeps connected."""
    listed = run("nmcli", "-t", "-f", "DEVICE,STATE", "device").out.splitlines()
    states = dict(line.rsplit(":", 1) for line in listed if ":" in line)
    return sorted(
        name for name, state in states.items() if state == "connected" and name != interface
    )


def country() -> str:
    """The regulatory domain in force ("DE"; "00" is the world's), "" when iw does not say."""
    for line in run("iw", "reg", "get").out.splitlines():
        if line.startswith("country "):
            return line.split()[1].rstrip(":")
    return ""


def observe(mac: str, profile: str, address: str, files: "list[str]") -> "dict[str, Any]":
    """Everything about the hotspot. `profile` is the wanted text with its marks, `files` ours."""
    interface = radio(mac) if mac else ""
    shown = run("systemctl", "show", "-p", "ActiveState,UnitFileState", "NetworkManager.service")
    unit = dict(line.split("=", 1) for line in shown.out.splitlines() if "=" in line)
    return {
        "interface": interface,
        "profile": profile_state(profile),
        "applied": applied(interface) if interface else "",
        "running_config": running_config(address) if address and names_read(interface) else "",
        "files": own_files(files),
        "manages": manages(interface),
        "active": unit.get("ActiveState") == "active",
        "enabled": unit.get("UnitFileState") == "enabled",
        "wifi_off": run("nmcli", "-g", "WIFI", "radio").out.strip() == "disabled",
        "country": country(),
    }
