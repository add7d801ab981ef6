"""The soak run's memory: one JSON line per case that passed, in `tests/soak/results/`.

A case whose line was written for the code as it is now is not run again, so an interrupted soak
goes on where it stopped. The files are committed: they are the dated result, of the code that each
line names. `python -m tests.soak.results` says what has passed with which code, and whether that
is the code as it is now.
"""

import datetime
import hashlib
import json
import subprocess
from collections import Counter
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


def _lines(name: str) -> list[dict[str, Any]]:
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def passed(name: str) -> set[int]:
    """The seeds of soak `name` that have passed with the code as it is now."""
    now = code()
    return {line["seed"] for line in _lines(name) if line["code"] == now}


def record(name: str, result: Any) -> None:
    """Append the dataclass `result`, dated, to the results of soak `name`."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    line = {"date": now, "code": code(), **asdict(result)}
    with (RESULTS / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def summary(name: str, now: str) -> list[str]:
    """What has passed of soak `name`, a line for each code it passed with; `now` is today's."""
    codes: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(name):
        codes.setdefault(line["code"], []).append(line)
    said = []
    for of, lines in codes.items():
        seeds = {line["seed"]: line for line in lines}
        parts = ("stage", "way")
        named = (" ".join(line[part] for part in parts if part in line) for line in seeds.values())
        kinds = Counter(one or "cases" for one in named)
        which = "the code as it is" if of == now else "earlier code"
        days = sorted({line["date"][:10] for line in lines})
        counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        said.append(f"{name}: {len(seeds)} with {of} ({which}), {' to '.join(days)}: {counted}")
    return said or [f"{name}: none"]


if __name__ == "__main__":
    for file in sorted(RESULTS.glob("*.jsonl")):
        print("\n".join(summary(file.stem, code())))
