"""A network change that takes itself back unless it is confirmed. Standard library only.

`arm` notes how things are and sets a timer of systemd's; `start` makes the change as a unit of its
own, so that it goes on when the connection it was asked over is cut; `confirm` stops the timer.
When nobody confirms, the timer's unit puts the files back, lets NetworkManager read them, brings up
the connections and links that were up, and has whoever else keeps the network bring back addresses
that are gone. What is noted lies in /run: a reboot forgets it, and keeps the change.

Sources: systemd-run(1), nmcli(1), ip-address(8).
"""

import json
import shlex
import shutil
from pathlib import Path

from homeport_node.common import read, run

STATE = Path("/run/homeport-network-change")
REVERT, CHANGE = "homeport-network-revert", "homeport-network-change"
MANAGER = "NetworkManager.service"
# Who else may keep the network: each brings its addresses back when it is restarted.
OTHERS = ("systemd-networkd.service", "networking.service")
# Seconds from the end of a change until it counts as done: what it set off may cut the connection
# yet. nmcli returns before NetworkManager's dispatcher has run its scripts for the new connection.
SETTLES = 5
DONE, KEPT, REVERTED, WORDS = "done", "kept", "reverted", "words"
RESTARTED = "the node was started anew before it was confirmed, and has it still: converge again"


def _active(unit: str) -> bool:
    return run("systemctl", "is-active", unit).out.strip() in ("active", "activating")


def _connections() -> "list[str]":
    """The identities of NetworkManager's active connections."""
    return run("nmcli", "-g", "UUID", "connection", "show", "--active").out.split()


def _addresses() -> "list[tuple[str, list[str]]]":
    """Each link that is up, and its global addresses."""
    try:
        links = json.loads(run("ip", "-json", "address").out)
    except ValueError:
        return []
    return [
        (
            str(link["ifname"]),
            [one["local"] for one in link.get("addr_info", ()) if one.get("scope") == "global"],
        )
        for link in links
        if "UP" in link.get("flags", ())
    ]


def file_lines(files: "list[str]") -> "list[str]":
    """Copies `files` aside; the shell lines that put each back, or remove what was not there."""
    lines = []
    for number, path in enumerate(files):
        if Path(path).exists():
            copy = STATE / str(number)
            shutil.copy2(path, copy)  # 0600 stays 0600: a profile holds a passphrase
            lines.append(f"cp -p {copy} {shlex.quote(path)}")
        else:
            lines.append(f"rm -f {shlex.quote(path)}")
    return lines


def network_lines() -> "list[str]":
    """The shell lines that make the network again what it is now."""
    if _active(MANAGER):
        up = " ".join(_connections())
        # What is up and was not goes first: it may hold the radio of what was.
        lines = [
            "nmcli general reload conf; nmcli connection reload",
            f"for one in $(nmcli -g UUID connection show --active); do case ' {up} ' in "
            '*" $one "*) ;; *) nmcli connection down "$one" ;; esac; done',
            f'for one in {up}; do nmcli --wait 30 connection up "$one"; done',
        ]
    else:
        lines = [f"systemctl disable --now {MANAGER}"]
    lines.append("lost=")
    for link, addresses in _addresses():
        lines.append(f"ip link set dev {link} up")
        lines += [f"ip -o address show dev {link} | grep -qF ' {a}/' || lost=1" for a in addresses]
    others = " ".join(filter(_active, OTHERS))
    if others:
        lines.append(f'[ -z "$lost" ] || systemctl restart {others}')
    return lines


def arm(files: "list[str]", seconds: int) -> "str | None":
    """Note how `files` and the network are, to be so again in `seconds`. What stands in the way."""
    if _active(f"{REVERT}.timer") or _active(f"{REVERT}.service"):
        return "an earlier network change is on trial still and takes itself back: converge again"
    shutil.rmtree(STATE, ignore_errors=True)
    STATE.mkdir(mode=0o700)
    # A change that still goes on would go on after the way back.
    lines = [f"systemctl stop {CHANGE}.service"]
    lines += [*file_lines(files), *network_lines(), f"touch {STATE / REVERTED}"]
    (STATE / "revert").write_text("".join(f"{line}\n" for line in lines))
    timer = run(
        "systemd-run",
        f"--unit={REVERT}",
        "--collect",
        f"--on-active={seconds}",
        "--timer-property=AccuracySec=1s",
        "sh",
        "-x",
        str(STATE / "revert"),
    )
    return None if timer.ok else f"systemd-run: {timer.err.strip()}"


def start(commands: "list[str]") -> "str | None":
    """Begin `commands`, each only if those before went well. How they ended is in the state's
    folder, `SETTLES` seconds after they went well."""
    # The timer stays active while what it has started runs.
    reverts = _active(f"{REVERT}.service") or (STATE / REVERTED).exists()
    if reverts or not _active(f"{REVERT}.timer"):
        return "the timer that would take the network change back runs no more: converge again"
    script = STATE / "change"
    body = "".join(f"{line}\n" for line in commands)
    script.write_text(
        f"set -e\nexec >{STATE / WORDS} 2>&1\ntrap 'echo $? >{STATE / DONE}' 0\n"
        f"{body}sleep {SETTLES}\n"
    )
    began = run("systemd-run", f"--unit={CHANGE}", "--collect", "sh", str(script))
    return None if began.ok else f"systemd-run: {began.err.strip()}"


def confirm() -> "str | None":
    """Keep the change if it went well, else take it back at once. Why it was not kept.

    Asked again, it answers the same: the desk may not have heard the first answer.
    """
    if (STATE / KEPT).exists():
        return None
    if not STATE.exists():
        return RESTARTED
    if (STATE / REVERTED).exists():
        return "it was taken back"
    said = (read(STATE / WORDS) or "").strip()
    if (read(STATE / DONE) or "").strip() != "0":
        # Its timer goes on unless the way back has begun.
        if not run("systemctl", "start", f"{REVERT}.service").ok:
            return f"it failed, and will be taken back by its timer: {said[-500:]}"
        run("systemctl", "stop", f"{REVERT}.timer")
        return f"it failed and is taken back: {said[-500:]}"
    if not run("systemctl", "stop", f"{REVERT}.timer").ok:
        run("systemctl", "start", f"{REVERT}.service")
        return "its timer could not be stopped: it is taken back"
    # A timer that is stopped does not stop what it has started, which may be over by now.
    if _active(f"{REVERT}.service") or (STATE / REVERTED).exists():
        return "it is being taken back"
    (STATE / KEPT).touch()
    for path in STATE.iterdir():  # a copy may hold a passphrase
        if path.name != KEPT:
            path.unlink()
    return None
