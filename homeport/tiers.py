"""The test tiers: which there are, what each needs, and running those that this machine carries.

`unit` needs nothing; it includes ruff and mypy. `container` needs the container lab: there Iona is
built, broken in every way that is listed, interrupted, and healed. `machine` needs the lab's
virtual machines: kernels, boot loaders, cards and radios. All three must be over in 75 minutes, on
two cores, from empty caches, without KVM. `soak` holds what counts into the dozens, and is only run
by name.
"""

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from homeport import report

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True, slots=True)
class Tier:
    """One tier: its commands, which run side by side, and its budget in minutes on two cores from
    empty caches.

    `alone` runs before them and beside nothing.
    """

    name: str
    commands: tuple[tuple[str, ...], ...]
    budget_minutes: float
    alone: tuple[str, ...] = ()
    by_default: bool = True


def _python(*arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *arguments)


UNIT = ("-m", "not node and not container and not machine and not soak")
CONTAINER = ("-m", "container", "-v", "--durations=15")
MACHINE = ("-m", "machine and not soak", "-v", "--durations=15")
# The tests of these tiers run in two processes: about half of the time goes to these.
UNIT_HALF = ("tests/drift", "tests/lab", "tests/reboot")
# They share one Iona.
CONTAINER_HALF = tuple(f"tests/lab/test_{one}.py" for one in ("iona", "random_drift", "guard"))
MACHINE_HALF = ("tests/kernel_cmdline", "tests/hotspot")
# It watches the whole host.
CONTAINER_ALONE = "tests/lab/test_host_unchanged.py"

TIERS = (
    Tier(
        name="unit",
        commands=(
            _python("ruff", "format", "--check", "."),
            _python("ruff", "check", "."),
            _python("mypy"),
            _python("pytest", *UNIT, *(f"--ignore={half}" for half in UNIT_HALF), "tests"),
            _python("pytest", *UNIT, *UNIT_HALF),
        ),
        budget_minutes=1,
    ),
    Tier(
        name="container",
        alone=_python("pytest", *CONTAINER, CONTAINER_ALONE),
        commands=(
            _python("pytest", *CONTAINER, *CONTAINER_HALF),
            _python(
                "pytest",
                *CONTAINER,
                *(f"--ignore={one}" for one in (*CONTAINER_HALF, CONTAINER_ALONE)),
                "tests",
            ),
        ),
        budget_minutes=29,
    ),
    Tier(
        name="machine",
        commands=(
            _python("pytest", *MACHINE, *MACHINE_HALF),
            _python("pytest", *MACHINE, *(f"--ignore={half}" for half in MACHINE_HALF), "tests"),
        ),
        budget_minutes=45,
    ),
    Tier(
        name="soak",
        commands=(_python("pytest", "-m", "soak", "-v", "tests"),),
        budget_minutes=24 * 60,
        by_default=False,
    ),
)


def _reason_not_to(tier: Tier) -> str:
    """Why this machine cannot carry `tier`, or ""."""
    if tier.name not in ("container", "machine", "soak"):
        return ""
    from homeport.lab import LabError
    from homeport.lab.prerequisites import LabUnavailable, install_lab_packages
    from homeport.lab.vm.emulator import require_host

    try:
        install_lab_packages()
        if tier.name != "container":
            require_host()
    except (LabUnavailable, LabError) as error:
        return str(error)
    return ""


def _run(tier: Tier) -> bool:
    """Run what runs alone, then the tier's commands side by side; whether all of them passed.

    The last one, which takes longest, is seen as it goes on; the others print when they ended.
    """
    codes = [subprocess.run(tier.alone, cwd=ROOT, check=False).returncode] if tier.alone else []
    *others, last = tier.commands
    with contextlib.ExitStack() as stack:
        beside = []
        for command in others:
            output = stack.enter_context(tempfile.TemporaryFile())
            run = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            beside.append((stack.enter_context(run), output))
        codes.append(subprocess.run(last, cwd=ROOT, check=False).returncode)
        for run, output in beside:
            codes.append(run.wait())
            output.seek(0)
            sys.stdout.write(output.read().decode(errors="replace"))
            sys.stdout.flush()
    return not any(codes)


def run_tiers(names: tuple[str, ...]) -> int:
    """Run the tiers in `names`, or all that run by default; the exit status for the shell.

    A tier asked for by name that this machine cannot carry is a failure; otherwise it is said.
    """
    known = {tier.name: tier for tier in TIERS}
    for name in names:
        if name not in known:
            report.console.print(f"there is no tier {name}; known: {', '.join(known)}", style="red")
            return 1
    chosen = [known[name] for name in names] or [tier for tier in TIERS if tier.by_default]
    failed = []
    for tier in chosen:
        reason = _reason_not_to(tier)
        if reason:
            report.console.print(f"{tier.name}: not carried by this machine: {reason}")
            if names:
                failed.append(tier.name)
            continue
        began = time.monotonic()
        good = _run(tier)
        took = report.human_seconds(time.monotonic() - began)
        word = "passed" if good else "FAILED"
        if time.monotonic() - began > 60 * tier.budget_minutes:
            word += ", OVER ITS BUDGET,"
        budget = report.human_seconds(60 * tier.budget_minutes)
        report.console.print(f"{tier.name}: {word} in {took} (budget {budget})", markup=False)
        if not good:
            failed.append(tier.name)
    return 1 if failed else 0
