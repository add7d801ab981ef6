"""The watch: a drift check again and again, which tells a webhook what changed and nothing else.

Each check is a `bin/homeport drift` in a process of its own. Within one process pyinfra's globals
would grow with every check, and an edited capability would be judged as it was when the watch
began. The next one begins `every` seconds after the last one began, or at once when that took
longer, so two never overlap; the time is the monotonic clock's, which nobody sets. A check that
does not end is ended, and then, as when it says nothing, its hosts count as not checked.

Who is told, and what when nobody answers, is `homeport/teller.py`.

It runs on the desk's machine (`homeport/watch_unit.py`), not on the node: a node that is down says
nothing of itself, and one that judges itself needs the inventory, and what may reach it, aboard.
A check that falls into a converge sees what is not yet done, and tells of it.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NoReturn

import gevent
import gevent.event

from homeport import report
from homeport.spec import SpecError
from homeport.teller import Teller
from homeport.webhook import Webhook

ROOT = Path(__file__).resolve().parent.parent
# The address of the webhook, for those who would not have it in `ps`.
VARIABLE = "HOMEPORT_TELL"
PROGRAM = (sys.executable, "-m", "homeport.cli")
UNITS = {"s": 1, "m": 60, "h": 3600}
SHORTEST = 10
# Seconds after which a check is ended: a hundred nodes that all hang take less.
LIMIT = 600
# Seconds between two looks whether a check is over.
POLL = 0.1


def seconds(text: str) -> int:
    """The seconds of a duration such as 30s, 5m or 1h. Raises `SpecError` for anything else."""
    found = re.fullmatch(r"([1-9][0-9]{0,4})([smh])", text, re.ASCII)
    value = int(found[1]) * UNITS[found[2]] if found else 0
    if value < SHORTEST:
        raise SpecError(
            f"--every: {text!r} must be a number with s, m or h, {SHORTEST}s or longer: "
            "30s, 5m or 1h"
        )
    return value


def check_options(
    *,
    every: str | None,
    tell: str | None,
    unit: bool,
    to: str | None = None,
    deploy: Path | None = None,
) -> None:
    """Refuse options of `drift` that do not go together. Raises `SpecError`, before anything."""
    if every:
        seconds(every)
    if tell is not None:
        Webhook(tell)
    if unit and not every:
        raise SpecError("--unit: needs --every: it says how often the unit checks")
    if every and not unit and tell is None:
        raise SpecError(
            f"--every: needs --tell URL, or {VARIABLE} in the environment: nobody would hear of it"
        )
    if every and deploy:
        raise SpecError("--deploy: is for a single check: what is watched is deploys/full.py")
    if every and to:
        raise SpecError("--json: is for a single check: with --every the webhook gets the JSON")


def check(
    inventory: Path,
    limit: tuple[str, ...],
    names: Iterable[str],
    patience: float = LIMIT,
    wait: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """The `hosts` of one `drift --json`, made in a process of its own, waited for by `wait`.

    When that says nothing, each of `names` is unknown, for the reason that it gave.
    """
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    limits = [word for name in limit for word in ("--limit", name)]
    with tempfile.TemporaryDirectory(prefix="homeport-drift-") as directory:
        to, words = Path(directory) / "drift.json", Path(directory) / "words"
        # No pipe: what a check leaves behind may hold that open, and would be waited for.
        with words.open("wb") as file:
            run = subprocess.Popen(
                [*PROGRAM, "drift", str(inventory), *limits, "--json", str(to)],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=file,
                start_new_session=True,
            )
            try:
                until = time.monotonic() + patience
                while run.poll() is None and time.monotonic() < until:
                    wait(POLL)
                wait(0)  # whoever has ended the check may have told this process to end
                said = words.read_text(errors="replace")
                if run.poll() is None:
                    said = f"the check took longer than {patience:g} s"
            finally:
                _end(run)
        try:
            hosts: list[dict[str, Any]] = json.loads(to.read_text())["hosts"]
            return hosts
        except (OSError, ValueError):
            failure = {"operation": "the check gave no result", "words": said.splitlines()[-5:]}
            unknown = {"state": "unknown", "drift": [], "failure": failure}
            return [{"name": name, **unknown} for name in names]


def _end(run: subprocess.Popen[bytes]) -> None:
    """End a check, and what it started. It changes nothing on a node, so nothing is left half."""
    if run.poll() is None:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()


def watch(
    look: Callable[[], list[dict[str, Any]]],
    teller: Teller,
    *,
    all_of_them: bool = True,
    clock: Callable[[], float] = time.monotonic,
    wait: Callable[[float], None] = time.sleep,
) -> NoReturn:
    """Check and tell every `teller.every` seconds, until the process is ended."""
    while True:
        began = clock()
        teller.see(look(), all_of_them=all_of_them)
        teller.tell()
        teller.say()
        wait(max(0.0, began + teller.every - clock()))


def _names(inventory: Path, limit: tuple[str, ...], seen: Iterable[str]) -> list[str]:
    """The hosts to watch; of an inventory that went wrong since they were `seen`, those.

    A watch that is started then must tell that it cannot check them, and not end unheard.
    """
    from homeport.run import load

    try:
        names: Iterable[str] = [host.name for host in load(inventory, limit)]
    except Exception as error:  # whatever an inventory's code raises
        names = seen
        if not any(not limit or name in limit for name in seen):
            raise
        report.console.print(f"{inventory} is wrong: {error}", markup=False)
    return [name for name in names if not limit or name in limit]


def serve(
    inventory: Path, limit: tuple[str, ...], every: int, address: str, remedy: str
) -> NoReturn:
    """Watch the hosts of `inventory`, or those in `limit`, until SIGTERM, which is a good end.

    Raises `SpecError` for wrong input before the first check.
    """
    teller = Teller(inventory, address, remedy=remedy, every=every)
    try:
        names = _names(inventory, limit, teller.told.hosts)
    except BaseException:
        teller.told.close()  # the error holds on to it
        raise

    # Read at the waits alone: an exception in the middle of what cleans up would break that.
    is_told_to_end = gevent.event.Event()
    gevent.signal_handler(signal.SIGTERM, is_told_to_end.set)

    def wait(seconds: float) -> None:
        if is_told_to_end.wait(seconds):
            raise SystemExit(0)

    report.console.print(
        f"checking {', '.join(names)} every {report.human_seconds(every)}; "
        f"{teller.webhook.shown} is told what changes",
        markup=False,
    )

    def look() -> list[dict[str, Any]]:
        nonlocal names
        hosts = check(inventory, limit, names, wait=wait)
        names = [host["name"] for host in hosts]
        return hosts

    watch(look, teller, all_of_them=not limit, wait=wait)
