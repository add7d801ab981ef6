"""Verification: the capabilities' checks (`tests/<stem>/test_node.py`) against live nodes.

The checks are pytest cases marked `node`. They take what to expect from the inventory and ask the
node and its services themselves, never the facts that `converge` uses.
"""

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape

from homeport import report

ROOT = Path(__file__).resolve().parent.parent

# How the checks' pytest process learns what to check; read by tests/conftest.py.
INVENTORY_VARIABLE = "HOMEPORT_VERIFY"
LIMIT_VARIABLE = "HOMEPORT_VERIFY_LIMIT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One check: `outcome` is "passed", "failed" or "skipped"; `words` say why it is not passed."""

    capability: str
    name: str
    outcome: str
    seconds: float
    words: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """All checks of one verification; `seconds` is wall time."""

    checks: tuple[Check, ...]
    seconds: float
    finished: bool

    @property
    def ok(self) -> bool:
        """Every check passed, and there were some: a verification of nothing proves nothing."""
        return (
            self.finished
            and any(check.outcome == "passed" for check in self.checks)
            and not any(check.outcome == "failed" for check in self.checks)
        )


def _read(path: Path) -> tuple[Check, ...]:
    checks = []
    for case in ElementTree.parse(path).iter("testcase"):
        outcome, words = "passed", ""
        for kind, name in (("failure", "failed"), ("error", "failed"), ("skipped", "skipped")):
            node = case.find(kind)
            if node is not None:
                outcome, words = name, node.get("message") or (node.text or "")
        parts = case.get("classname", "").split(".")
        checks.append(
            Check(
                capability=parts[1] if len(parts) > 1 else "",
                name=case.get("name", ""),
                outcome=outcome,
                seconds=float(case.get("time", 0)),
                words=words,
            )
        )
    return tuple(checks)


def verify(inventory: Path, *, limit: tuple[str, ...] = (), expression: str = "") -> Verification:
    """Run the checks on the hosts of `inventory`, or on those in `limit`; print how it went."""
    began = time.monotonic()
    environment = dict(os.environ)
    environment[INVENTORY_VARIABLE] = str(inventory.resolve())
    environment[LIMIT_VARIABLE] = " ".join(limit)
    with tempfile.TemporaryDirectory() as directory:
        xml = Path(directory) / "checks.xml"
        command = [sys.executable, "-m", "pytest", "-m", "node", f"--junitxml={xml}", "-o"]
        command += ["junit_logging=no", "--tb=short", "--no-header", "-p", "no:randomly"]
        # Named one by one: the other tests need not be imported, and some patch the whole process.
        command += sorted(str(path) for path in (ROOT / "tests").glob("*/test_node*.py"))
        if expression:
            command += ["-k", expression]
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        checks = _read(xml) if xml.exists() else ()
    result = Verification(
        checks=checks, seconds=time.monotonic() - began, finished=done.returncode in (0, 1)
    )
    print_result(result, done.stdout + done.stderr)
    return result


def print_result(result: Verification, output: str) -> None:
    """One line per capability, then what failed or was left out, with the check's own words.

    A capability that was left out whole is not called verified: its line says why.
    """
    by_capability: dict[str, list[Check]] = {}
    for check in result.checks:
        by_capability.setdefault(check.capability, []).append(check)
    for capability, checks in by_capability.items():
        counts = Counter(check.outcome for check in checks)
        if counts["skipped"] == len(checks):
            why = "; ".join(dict.fromkeys(check.words.strip() for check in checks))
            report.console.print(f"  [dim]left out[/]  {capability}: {escape(why)}")
            continue
        mark = "[red]failed  [/]" if counts["failed"] else "[green]verified[/]"
        report.console.print(f"  {mark}  {capability}: {_counted(counts)}")
        for check in checks:
            if check.outcome != "passed":
                words = f"      {check.name}: {check.words.strip()}"
                report.console.print(words, markup=False)
    if not result.ok:
        report.console.print(output[-8000:], markup=False)
    took = report.human_seconds(result.seconds)
    total = Counter(check.outcome for check in result.checks)
    report.console.print(f"checks: {_counted(total)}, in {took}", markup=False)


def _counted(outcomes: Counter[str]) -> str:
    """ "3 passed, 1 failed": what there is of each outcome."""
    words = [f"{outcomes[one]} {one}" for one in ("passed", "failed", "skipped") if outcomes[one]]
    return ", ".join(words) or "there are none"


def result_json(inventory: str, result: Verification) -> dict[str, Any]:
    """`verify --json`: {"inventory", "ok", "seconds", "checks": [{"capability", "name",
    "outcome": "passed" | "failed" | "skipped", "seconds", "words"}]}; seconds are wall time."""
    return {
        "inventory": inventory,
        "ok": result.ok,
        "seconds": round(result.seconds, 2),
        "checks": [
            {
                "capability": check.capability,
                "name": check.name,
                "outcome": check.outcome,
                "seconds": check.seconds,
                "words": check.words,
            }
            for check in result.checks
        ],
    }
