"""Which stage of a converge is under way on a node, and how far it is. Runs on the node.

    python3 -c "$(cat watcher.py)"

Reads one JSON line at a time, {"stage": …, "since": UNIX seconds, "then": shell text or ""}, runs
`then` in the very moment in which it saw the stage, and answers with one line:
{"seen": what runs, "" when the stage is not under way, "at": how far it is, "detail": in words,
"did": whether `then` was run}. Standard library only.
"""

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

DPKG_LOG = Path("/var/log/dpkg.log")
MODELS = Path("/srv/homeport/models")
ENGINE = "/var/run/docker.sock"
PROJECT = "com.docker.compose.project=iona"
# What our own program does to the services, by what the text of the shell that runs it holds.
STARTS = {"_module.up(": "starting the services", "_module.wait(": "waiting for the services"}


def processes() -> "list[tuple[str, list[str]]]":
    """(name, arguments) of every process."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                name = (entry / "comm").read_text().strip()
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
                found.append((name, arguments.split("\0")[:-1]))
    return found


def seen(stage: str, running: "list[tuple[str, list[str]]]") -> str:
    """What of `running` is this stage ("apt", "download" or "start"), in words; "" for nothing."""
    for name, arguments in running:
        verbs = [word for word in arguments[1:] if not word.startswith("-")]
        if stage == "apt" and name == "apt-get" and "-s" not in arguments:
            known = [verb for verb in verbs if verb in ("update", "install")]
            return f"apt-get {known[0] if known else ''}".strip()
        if stage == "download" and arguments[-2:] == ["hf_models", "sync"]:
            return "homeport-node hf_models sync"
        if stage == "start":
            compose = "compose" in verbs or (arguments and arguments[0].endswith("docker-compose"))
            if compose and "up" in verbs:
                return "docker compose up"
            for text, words in STARTS.items():
                if name in ("sh", "bash", "dash") and any(text in one for one in arguments):
                    return words
    return ""


def packages() -> "tuple[int, str]":
    """Lines in dpkg's log so far, and what the last one says."""
    try:
        lines = DPKG_LOG.read_text().splitlines()
    except OSError:
        return 0, ""
    return len(lines), " ".join(lines[-1].split()[2:5]) if lines else ""


def downloaded() -> "tuple[int, str]":
    """Bytes below the models' directory, each file once however many names it has."""
    sizes = {}
    for directory, _, names in os.walk(MODELS):
        for name in names:
            with contextlib.suppress(OSError):
                status = Path(directory, name).lstat()
                sizes[status.st_ino] = status.st_size
    total = sum(sizes.values())
    return total, f"{total >> 20} MiB of models on the node"


class _Docker(http.client.HTTPConnection):
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(ENGINE)


def started(since: float) -> "tuple[int, str]":
    """Steps that the project's containers made since `since` are behind: made, running, healthy."""
    try:
        connection = _Docker("docker")
        connection.request("GET", "/containers/json?all=1")
        listed = json.load(connection.getresponse())
    except (OSError, ValueError, http.client.HTTPException):
        return 0, "no container"
    name, _, value = PROJECT.partition("=")
    ours = [
        one for one in listed if one["Labels"].get(name) == value and one["Created"] >= int(since)
    ]
    made = len(ours)
    running = sum(one["State"] == "running" for one in ours)
    healthy = sum("(healthy)" in one["Status"] for one in ours)
    return made + running + healthy, f"{made} made, {running} running, {healthy} healthy"


def look(stage: str, since: float) -> "dict[str, object]":
    """How far `stage` is, and whether it is under way."""
    if stage == "apt":
        at, detail = packages()
    elif stage == "download":
        at, detail = downloaded()
    else:
        at, detail = started(since)
    return {"at": at, "detail": detail, "seen": seen(stage, processes())}


def main() -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        answer = look(asked["stage"], asked["since"])
        answer["did"] = bool(asked["then"] and answer["seen"])
        if answer["did"]:
            subprocess.run(["sh", "-c", asked["then"]], check=True)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
