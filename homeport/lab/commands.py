"""The commands that work on lab machines alone: rehearsals, measurements, tests."""

from pathlib import Path
from typing import Literal

import click

from homeport import report
from homeport.options import INVENTORY, JSON, FromHere


@click.command()
@INVENTORY
@click.option(
    "--on",
    "on",
    default="container",
    show_default=True,
    type=click.Choice(["container", "machine"]),
    help="A container, in a minute or two; or a virtual machine, with a kernel and reboots.",
)
@click.option(
    "--keep", is_flag=True, help="Leave the lab machine running, and say how to reach it."
)
@JSON
def rehearse(
    inventory: Path, on: Literal["container", "machine"], keep: bool, to: str | None
) -> None:
    """Build INVENTORY on a lab machine, with no GPU: converge, verify, converge again."""
    from homeport.inventory import unbound
    from homeport.lab.rehearse import rehearse as run_rehearsal

    unbound(inventory)  # before anything is installed for it
    _install_lab_packages()
    result = run_rehearsal(inventory, on=on, keep=keep)
    if to:
        report.write_json(result.to_json(), to)
    raise SystemExit(0 if result.ok else 1)


@click.command()
def release() -> None:
    """Take away every lab that `rehearse --keep` left up."""
    from homeport.lab.stage import release as take_away

    count = take_away()
    report.console.print(f"{count} kept labs taken away")


def _install_lab_packages() -> None:
    from homeport.lab.prerequisites import install_lab_packages

    install_lab_packages()


@click.group()
def bench() -> None:
    """Measure Homeport against the ways people do the same work without it."""


@bench.command("converge")
@click.option("--rounds", default=1, show_default=True, help="How often each tool builds the node.")
@JSON
def bench_converge(rounds: int, to: str | None) -> None:
    """Time the first converge of Iona against an idiomatic shell script, on the same lab node."""
    from homeport.lab.bench_converge import bench_converge as measure

    _install_lab_packages()
    result = measure(Path("inventory/iona.py"), rounds=rounds)
    if to:
        report.write_json(result, to)


@bench.command("drift")
@click.argument("inventory", type=FromHere(), default="inventory/iona.py")
@click.option("--hosts", metavar="N[,N]", help="Measure Homeport over so many targets instead.")
@click.option("--rtt", "rtts", multiple=True, type=int, help="Round trip in ms; else 0 and 20.")
@click.option("--runs", default=5, show_default=True, help="How often each tool checks the node.")
@click.option(
    "--workload",
    "workloads",
    multiple=True,
    type=click.Choice(["150", "iona"]),
    help="Only this one; iona stands for INVENTORY.",
)
@JSON
def bench_drift(
    inventory: Path,
    hosts: str | None,
    rtts: tuple[int, ...],
    runs: int,
    workloads: tuple[str, ...],
    to: str | None,
) -> None:
    """Time a drift check of an unchanged node against pyinfra's and Ansible's, near and far.

    Exits 2 where a limit is not met.
    """
    from homeport.inventory import unbound
    from homeport.lab.bench_drift import measure

    unbound(inventory)
    try:
        counts = tuple(int(word) for word in hosts.split(",")) if hosts else ()
    except ValueError as error:
        raise click.UsageError(f"--hosts {hosts}: must be numbers such as 1,10,50") from error
    if runs < 1 or any(not 1 <= count <= 500 for count in counts):
        raise click.UsageError("--runs must be at least 1, and --hosts 1 to 500")
    if any(not 0 <= rtt <= 1000 for rtt in rtts):
        raise click.UsageError("--rtt must be 0 to 1000 ms")
    if counts and (rtts or workloads):
        raise click.UsageError("--hosts is of its own: it takes neither --rtt nor --workload")
    _install_lab_packages()
    if counts:
        result = measure.bench_fleet(counts, runs)
    else:
        result = measure.bench_drift(
            inventory, workloads or measure.WORKLOADS, tuple(sorted({*rtts})) or (0, 20), runs
        )
    measure.print_end(result)
    if to:
        report.write_json(result, to)
    if not all(one["met"] for one in result["limits"]):
        raise SystemExit(2)


@click.command()
@click.argument("tiers", nargs=-1)
def test(tiers: tuple[str, ...]) -> None:
    """Run the tests: unit and container, or the TIERS named (unit, container, machine, soak)."""
    from homeport.tiers import run_tiers

    raise SystemExit(run_tiers(tiers))
