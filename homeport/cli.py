"""The command line: `bin/homeport COMMAND`. The one module here that loads the capabilities.

Exit statuses: 0 as wanted, 1 could not do or tell, 2 differs.
"""

import importlib
import os
import pkgutil
import sys
from pathlib import Path
from typing import Any

# First of all: gevent must patch the standard library before anything else has imported it.
import pyinfra_cli  # noqa: F401  # isort: skip
import click
from click.core import ParameterSource

from homeport import options, report
from homeport.capability import Capability
from homeport.lab.commands import bench, rehearse, release, test
from homeport.options import (
    INVENTORY,
    JSON,
    LIMIT,
    FromHere,
    Group,
    Key,
    command_line,
    give_up,
)
from homeport.spec import fail
from homeport.targets import lock_path, read_targets, targets_path

DATA_HELP = (
    "reboot=never: reboot nothing, and say what waits; reboot_timeout=SECONDS: how long a reboot "
    "may take (900). Repeatable."
)


def capabilities() -> dict[str, Capability]:
    """Every capability of `deploys`, by its stem."""
    import deploys

    found = {}
    for module in pkgutil.iter_modules(deploys.__path__):
        if module.name == "full":  # calls operations; it cannot be imported outside a run
            continue
        loaded = importlib.import_module(f"deploys.{module.name}")
        capability = getattr(loaded, "CAPABILITY", None)
        if isinstance(capability, Capability):
            found[module.name] = capability
    return found


@click.group("homeport", cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--targets",
    metavar="FILE",
    envvar="HOMEPORT_TARGETS",
    show_envvar=True,
    help="Targets file instead of the inventory's own; goes before COMMAND.",
)
@click.option(
    "--lock",
    metavar="FILE",
    envvar="HOMEPORT_LOCK",
    show_envvar=True,
    help="Lock instead of the inventory's own; goes before COMMAND.",
)
@click.pass_context
def main(ctx: click.Context, targets: str | None, lock: str | None) -> None:
    """Takes bare machines to working, private LLM nodes, and proves it."""
    # The variable is what a rehearsal sets, before there is a lock.
    given = ctx.get_parameter_source("lock") is ParameterSource.COMMANDLINE
    if lock and given and ctx.invoked_subcommand != "lock" and not (options.HERE / lock).is_file():
        fail("--lock", lock, "must be a lock: there is no such file")
    os.chdir(options.ROOT)
    if targets:
        os.environ["HOMEPORT_TARGETS"] = str(options.HERE / targets)
    if lock:
        os.environ["HOMEPORT_LOCK"] = str(options.HERE / lock)


@main.command()
@INVENTORY
@LIMIT
@click.option("--data", multiple=True, metavar="KEY=VALUE", help=DATA_HELP)
@JSON
def converge(
    inventory: Path, limit: tuple[str, ...], data: tuple[str, ...], to: str | None
) -> None:
    """Make the machines of INVENTORY what it says they are.

    Reboots them where something needs it.
    """
    from homeport import run

    given = _data(data)
    run.load(inventory, limit)  # what is wrong with it comes before what it could have besides
    if not lock_path(inventory).exists():
        report.console.print(
            f"no lock: images and models are taken as their tags and branches stand now; "
            f"pin them with `bin/homeport lock {inventory}`"
        )
    display = report.Display()
    with display.live():
        result = run.converge(
            inventory,
            options.ROOT / "deploys" / "full.py",
            limit=limit,
            progress=display,
            closing=_closing,
            data=given,
        )
    report.print_result(result, command_line("converge", inventory))
    if to:
        report.write_json(report.result_json(str(inventory), result), to)
    raise SystemExit(0 if result.ok else 1)


def _data(given: tuple[str, ...]) -> dict[str, str]:
    """What `--data` says of every host. Raises `SpecError` for wrong input."""
    from deploys.reboot import patience
    from homeport.waiting import may_reboot

    data = {key: value for key, _, value in (one.partition("=") for one in given)}
    for one in given:
        if one.split("=", 1)[0] not in ("reboot", "reboot_timeout") or "=" not in one:
            fail("--data", one, "must be reboot=auto, reboot=never or reboot_timeout=SECONDS")
    may_reboot(data)
    patience(data)
    return data


def _closing(host: Any) -> list[str]:
    from deploys.closing import closing_lines

    return closing_lines(host)


@main.command()
@INVENTORY
@LIMIT
@click.option(
    "--deploy",
    metavar="FILE",
    type=FromHere(),
    help="Check against this deploy instead of deploys/full.py.",
)
@JSON
@click.option("--every", metavar="DURATION", help="Go on checking: 30s, 5m, 1h. Needs --tell.")
@click.option(
    "--tell",
    metavar="URL",
    envvar="HOMEPORT_TELL",
    show_envvar=True,
    help="Tell this webhook what drifts and what is right again; the variable keeps it from ps.",
)
@click.option("--unit", is_flag=True, help="Print the systemd unit that does --every, and end.")
def drift(
    inventory: Path,
    limit: tuple[str, ...],
    deploy: Path | None,
    to: str | None,
    every: str | None,
    tell: str | None,
    unit: bool,
) -> None:
    """Say where the nodes of INVENTORY are not what it says, and what would change that."""
    from homeport.drift import drift as check
    from homeport.drift_report import print_result, result_json

    remedy = f".venv/bin/pyinfra {inventory} {deploy}" if deploy else ""
    remedy = remedy or command_line("converge", inventory)
    teller = None
    if every or tell is not None or unit:  # imported for those alone: a check is over in a second
        from homeport import watch
        from homeport.teller import Teller

        watch.check_options(every=every, tell=tell, unit=unit, to=to, deploy=deploy)
        os.environ.pop(watch.VARIABLE, None)  # no program that is started needs to know it
        words = f"To put it right: {remedy}"
        if every and unit:
            _print_unit(inventory, limit, every)
            return
        if every and tell:
            watch.serve(inventory, limit, watch.seconds(every), tell, words)
        teller = Teller(inventory, tell, remedy=words) if tell else None
    if deploy and not deploy.is_file():
        fail("--deploy", str(deploy), "must be a deploy: there is no such file")
    result = check(inventory, options.ROOT / (deploy or "deploys/full.py"), limit=limit)
    found = result_json(str(inventory), result)
    # What is printed comes last: it ends the program when nobody reads it, as with `| head -1`.
    if teller:
        teller.see(found["hosts"], all_of_them=not limit)
        teller.tell()
    failure = _write_json(found, to) if to else ""
    if teller:
        teller.say()
    print_result(result, remedy)
    if failure:
        give_up(failure)
    raise SystemExit(result.status)


def _write_json(value: Any, to: str) -> str:
    """Write `value` as JSON to the file `to`; "" or why that could not be done."""
    try:
        report.write_json(value, to)
        sys.stdout.flush()
    except OSError as error:
        if to == "-":  # else Python tries again at its end, and says so in its own words
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"--json {to}: {error.strerror}"
    return ""


def _print_unit(inventory: Path, limit: tuple[str, ...], every: str) -> None:
    from homeport.run import load
    from homeport.watch_unit import lines, unit

    load(inventory, limit)  # a unit that could not start is of no use
    again = command_line(f"drift --every {every} --unit", inventory)
    again += "".join(f" --limit {name}" for name in limit)
    sys.stdout.write(unit(inventory, limit, every, again))
    for line in lines(inventory, again):
        report.console.print(line, markup=False)


@main.command()
@INVENTORY
@LIMIT
@click.option("-k", "expression", default="", help="Only the checks that match, as in pytest.")
@JSON
def verify(inventory: Path, limit: tuple[str, ...], expression: str, to: str | None) -> None:
    """Check that the nodes of INVENTORY work, from where their users sit.

    A node that was switched on minutes ago is given the time to start what it starts. Exits 2 when
    a check fails.
    """
    from deploys.stack.verbs import settle
    from homeport import verify as verification
    from homeport.remote import run_on

    for _ in run_on(inventory, limit, lambda node: settle(node.name), to=sys.stderr.buffer):
        pass  # what went wrong there, the checks say
    result = verification.verify(inventory, limit=limit, expression=expression)
    if to:
        report.write_json(verification.result_json(str(inventory), result), to)
    raise SystemExit(0 if result.ok else 2 if result.finished else 1)


@main.command()
@click.argument("host")
@click.option("--user", default="root", show_default=True, help="Who logs in there.")
@click.option("--port", default=22, show_default=True, help="Its ssh port.")
@click.option(
    "--key", type=Key(), metavar="FILE", help="Private key to log in with; else the agent's."
)
@click.option("--name", default="", help="The host's name; else the inventory's only one, or node.")
@click.option(
    "--inventory",
    type=FromHere(),
    help="Inventory whose GPU, card and radio names to fill in.",
)
@click.option(
    "--write",
    is_flag=True,
    help="Put it into the inventory's targets file instead of printing it; needs --inventory; "
    "what was there is kept as .old.",
)
def probe(
    host: str,
    user: str,
    port: int,
    key: str | None,
    name: str,
    inventory: Path | None,
    write: bool,
) -> None:
    """Read the machine HOST and print its targets file."""
    from homeport.inventory import handles_of, unbound
    from homeport.probe import probe as read_machine
    from homeport.targets_text import known, put

    if write and inventory is None:
        raise click.UsageError("--write needs --inventory: it says which targets file")
    nodes = unbound(inventory) if inventory else {}
    if len(nodes) < 2:
        name = name or next(iter(nodes), "node")
    if nodes and name not in nodes:
        fail("--name", name, f"must be a host of {inventory}: {', '.join(nodes)}")
    handles = handles_of(nodes[name]) if nodes else {}
    so_far = known(targets_path(inventory), name) if inventory else {}
    text = read_machine(
        host, user=user, port=port, key=key or "", name=name, handles=handles, known=so_far
    )
    if not write or inventory is None:
        sys.stdout.write(text)
        return
    path = targets_path(inventory)
    aside = put(path, name, text)
    if aside:
        report.console.print(f"{aside}: what was there before")
    report.console.print(
        f"{path}: written. Compare the host key and the handles in it. "
        f"Next: {command_line('lock', inventory)}"
    )


@main.command()
@INVENTORY
def lock(inventory: Path) -> None:
    """Pin INVENTORY: images to digests, models to commits, sizes and sha256.

    Needs the targets file (its sources). Gated repositories: HF_TOKEN.
    """
    from homeport.inventory import unbound
    from homeport.resolve import make_lock

    nodes = unbound(inventory)
    made = make_lock(nodes, read_targets(targets_path(inventory)), report.console.print)
    path = lock_path(inventory)
    path.write_text(made.to_json())
    report.console.print(
        f"{path}: {len(made.images)} images, {len(made.repos)} repositories pinned. "
        f"Next: {command_line('converge', inventory)}"
    )


def _stack_command(inventory: Path, limit: tuple[str, ...], verb: str, *words: str) -> None:
    """Run one of `deploys.stack`'s verbs on each host and pass on what it prints."""
    from deploys.stack.verbs import NOT_RUNNING
    from deploys.stack.verbs import verb as text_of
    from homeport.remote import run_on

    worst = 0
    for host, code in run_on(inventory, limit, lambda node: text_of(node.stack, verb, *words)):
        if verb == "status" and code == NOT_RUNNING:
            report.console.print(f"{host}: the stack is not running as wanted", style="yellow")
            worst = worst or 2
        elif code != 0:
            report.console.print(f"{host}: {verb} failed with exit status {code}", style="red")
            worst = 1
    raise SystemExit(worst)


def _verb(name: str, summary: str) -> None:
    @main.command(name, help=summary)
    @INVENTORY
    @LIMIT
    def command(inventory: Path, limit: tuple[str, ...]) -> None:
        _stack_command(inventory, limit, name)


_verb("status", "Say what runs on the nodes of INVENTORY. Exits 2 when it is not running.")
_verb("start", "Start the stack on the nodes of INVENTORY.")
_verb("stop", "Stop the stack on the nodes of INVENTORY; it stays stopped until `start`.")


@main.command()
@INVENTORY
@click.argument("service", required=False)
@LIMIT
@click.option("--lines", default=100, show_default=True, help="How many of the last lines.")
def logs(inventory: Path, service: str | None, limit: tuple[str, ...], lines: int) -> None:
    """Show the last log lines of the stack, or of one SERVICE.

    SERVICE is llama-server or open-webui.
    """
    _stack_command(inventory, limit, "logs", str(lines), *([service] if service else []))


for _command in (rehearse, release, bench, test):
    main.add_command(_command)


@main.command()
def table() -> None:
    """Print the README's table of capabilities, made from the code."""
    from homeport.capability import table as render

    sys.stdout.write(render(capabilities()))


if __name__ == "__main__":
    main(prog_name="bin/homeport")
