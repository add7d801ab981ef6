"""The soak run's memory: one JSON line per case that passed, in `tests/soak/results/`.

A case whose line was written for the code as it is now is not run again, so an interrupted soak
goes on where it stopped. The files are committed: they are the dated result.
"""

import datetime
import hashlib
import json
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).parent / "results"
CODE = ("deploys", "homeport", "homeport_node", "files", "templates", "inventory")


def code() -> str:
    """A short name for the code under test: a hash over every tracked file of it."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", *CODE], cwd=ROOT, capture_output=True, check=True
    ).stdout
    digest = hashlib.sha256()
    for name in sorted(listed.decode().split("\0")):
        if name and (ROOT / name).is_file():
            digest.update(name.encode() + b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()[:12]


def passed(name: str) -> set[int]:
    """The seeds of soak `name` that have passed with the code as it is now."""
    path = RESULTS / f"{name}.jsonl"
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    now = code()
    return {line["seed"] for line in lines if line["code"] == now}


def record(name: str, result: Any) -> None:
    """Append the dataclass `result`, dated, to the results of soak `name`."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"date": now, "code": code(), **asdict(result)}
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
