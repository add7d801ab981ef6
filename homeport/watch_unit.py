"""The systemd unit of a watch on the desk's machine.

A system unit that runs as the person who printed it: it starts at boot without a session, can be
confined (a user's own manager often cannot), and reads the nodes with that person's key, which
must need no passphrase. It writes nothing but its cache and what it told. The webhook's address is
in a file for root alone, which systemd reads before it becomes that person; it is in no argument.

The unit starts `bin/homeport`, and so checks what the checkout holds at that moment. After an
update that changes requirements.txt, type `bin/homeport -h` once: the unit may not write `.venv`. A
unit that is started before that ends, and again every minute, and tells nobody: `systemctl status`
shows it. An inventory that went wrong is told of, as "unknown".
"""

import os
import pwd
import re
from pathlib import Path

from homeport.watch import ROOT, VARIABLE

# Settings of the person's that change what is checked, or with what. The first two are paths.
SETTINGS = ("HOMEPORT_TARGETS", "HOMEPORT_LOCK", "HOMEPORT_PYTHON", "HOMEPORT_PREFETCH")

TEMPLATE = """\
# Made by Homeport: {again}
# {install}
# {address}
[Unit]
Description=Homeport: tells a webhook when {system} drifts
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
EnvironmentFile=/etc/{name}.env
Environment=XDG_CACHE_HOME=/var/cache/{name} XDG_STATE_HOME=/var/lib/{name}
{settings}ExecStart={command}
Restart=on-failure
RestartSec=60

CacheDirectory={name}
CacheDirectoryMode=0700
StateDirectory={name}
StateDirectoryMode=0700
UMask=0077
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
NoNewPrivileges=yes
# For root, whose checkout and keys may be another's. Others have no capability anyway.
CapabilityBoundingSet=CAP_DAC_READ_SEARCH
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def name(inventory: Path) -> str:
    """The unit's name, without .service."""
    return "homeport-drift-" + re.sub(r"[^A-Za-z0-9_-]", "-", inventory.stem)


def quoted(text: str, *, command: bool = False) -> str:
    """`text` as one word of a unit's setting: systemd expands %, and $ in a command."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if command:
        text = text.replace("$", "$$")
    return text if re.fullmatch(r"[\w@%+=:,./$-]+", text, re.ASCII) else f'"{text}"'


def lines(inventory: Path, again: str) -> list[str]:
    """How to install the unit that the command `again` prints, and where the address goes."""
    unit_name = name(inventory)
    return [
        f"To install: {again} | sudo tee /etc/systemd/system/{unit_name}.service >/dev/null",
        f"The address: the line {VARIABLE}=URL into `sudo sh -c 'umask 077; "
        f"cat >/etc/{unit_name}.env'`; then: sudo systemctl enable --now {unit_name}",
    ]


def unit(inventory: Path, limit: tuple[str, ...], every: str, again: str) -> str:
    """The unit that checks `inventory` every `every`; `again` is the command that prints it."""
    words = [str(ROOT / "bin" / "homeport"), "drift", str(inventory.resolve()), "--every", every]
    words += [word for host in limit for word in ("--limit", host)]
    settings = ""
    for setting in SETTINGS:
        value = os.environ.get(setting)
        if value:
            value = str(Path(value).resolve()) if setting in SETTINGS[:2] else value
            settings += f"Environment={quoted(f'{setting}={value}')}\n"
    install, address = lines(inventory, again)
    return TEMPLATE.format(
        again=again,
        install=install,
        address=address,
        system=inventory.stem.replace("%", "%%"),
        user=pwd.getpwuid(os.getuid()).pw_name,
        name=name(inventory),
        settings=settings,
        command=" ".join(quoted(word, command=True) for word in words),
    )
