"""Joins an inventory's nodes with their targets and lock, in the form that pyinfra reads.

An inventory ends with

    hosts = inventory(__file__, iona=IONA)

which validates everything, whole, before any connection. Each host's data then holds `node` (the
specification with GPUs, images and models resolved), `target`, `lock` and `not_exercised`.
"""

import dataclasses
import os
import runpy
import sys
from pathlib import Path
from typing import Any, TypeVar

from homeport.faults import in_one_line
from homeport.lock import Lock, read_lock
from homeport.pins import Card, Gpu, Radio, bind, find
from homeport.reach import private_key
from homeport.spec import Spec, SpecError, fail
from homeport.targets import Target, lock_path, probe_command, read_targets, targets_path

S = TypeVar("S", bound=Spec)

HostEntry = tuple[str, dict[str, Any]]

NO_HOSTS = "names no hosts: end it with `hosts = inventory(__file__, …)`"

# While `unbound` runs an inventory, its nodes are put here and nothing else is read.
_collecting: dict[str, Spec] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class NotExercised:
    """A capability that the inventory wants and the target cannot carry, and why."""

    capability: str
    reason: str


def without_lacking(node: S, target: Target) -> tuple[S, tuple[NotExercised, ...]]:
    """`node` without the capabilities that `target` lacks what they need for, and their list.

    The list also has what cannot be shown there of capabilities that stay.
    """
    changes: dict[str, None] = {}
    missing = []
    for field in dataclasses.fields(node):  # type: ignore[arg-type]
        spec = getattr(node, field.name)
        if not isinstance(spec, Spec):
            continue
        for need in sorted(spec.NEEDS):
            if need in target.lacks:
                changes[field.name] = None
                reason = f"no {need}: {target.lacks[need]}"
                missing.append(NotExercised(capability=field.name, reason=reason))
                break
        else:
            for need in sorted(spec.CHECKS_NEED.keys() & target.lacks.keys()):
                reason = f"{spec.CHECKS_NEED[need]}: no {need}: {target.lacks[need]}"
                missing.append(NotExercised(capability=field.name, reason=reason))
    return dataclasses.replace(node, **changes), tuple(missing)  # type: ignore[type-var]


def _known_hosts(target: Target) -> Path:
    """A known_hosts file that holds the one key by which `target` may identify itself."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    directory = cache / "homeport" / "known_hosts"
    directory.mkdir(parents=True, exist_ok=True)
    host = target.address if target.port == 22 else f"[{target.address}]:{target.port}"
    path = directory / f"{target.name}-{target.address.replace(':', '_')}-{target.port}"
    line = f"{host} {target.host_key}\n"
    if not path.exists() or path.read_text() != line:
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(line)
        temporary.replace(path)
    return path


def _with_gpus(node: S, target: Target) -> S:
    """`node`, whose GPUs all have a UUID, unless it brings the driver that knows them: none has one
    until then."""
    specs = [getattr(node, field.name) for field in dataclasses.fields(node)]  # type: ignore[arg-type]
    brought = any(isinstance(spec, Spec) and spec.brings_driver for spec in specs)
    if not brought or any(target.gpus.values()):
        for one in find(node, Gpu):
            if not one.uuid:
                target.gpu(one.handle)  # raises
    return node


def host_data(node: Spec, target: Target, lock: Lock) -> dict[str, Any]:
    """The pyinfra host data of one node: how to connect, and what to build."""
    carried, missing = without_lacking(node, target)
    data: dict[str, Any] = {
        "ssh_hostname": target.address,
        "ssh_port": target.port,
        "ssh_user": target.user,
        "ssh_known_hosts_file": str(_known_hosts(target)),
        "ssh_strict_host_key_checking": "yes",
        "node": _with_gpus(bind(carried, target, lock), target),
        "target": target,
        "lock": lock,
        "not_exercised": missing,
    }
    if target.ssh_key:
        data["ssh_key"] = str(private_key(target.name, target.ssh_key))
    if target.user != "root":
        data["_sudo"] = True
    return data


def inventory(file: str, **nodes: Spec) -> list[HostEntry]:
    """The hosts of the inventory at `file`, ready for pyinfra.

    Raises `SpecError`, naming the field and the remedy, for anything that is wrong with the
    inventory, its targets file or its lock.
    """
    for name, node in nodes.items():
        if not isinstance(node, Spec):
            fail(name, node, "must be a Node(…)")
    if _collecting is not None:
        _collecting.update(nodes)
        return []
    path = Path(file).resolve()
    _no_other_groups(path, sys._getframe(1).f_globals)
    where = targets_path(path)
    targets = read_targets(where)
    lock = read_lock(lock_path(path), Path(file))
    hosts = []
    for name, node in nodes.items():
        if name not in targets:
            raise SpecError(
                f"{path.stem}: hosts.{name}: is missing in {where}: {probe_command(where, name)}"
            )
        for need in targets[name].lacks.keys() - (known := _needs()):
            raise SpecError(
                f"{where}: hosts.{name}.lacks.{need}: nothing asks for it; "
                f"known: {', '.join(sorted(known))}"
            )
        data = host_data(node, targets[name], lock)
        data["inventory_file"] = str(path)  # the connector keeps a record for each inventory
        hosts.append((f"@homeport/{name}", data))
    return hosts


def _needs() -> set[str]:
    """All that a machine may lack: what the specs that are loaded ask for, a Node's among them."""
    kinds: list[type[Spec]] = [Spec]
    for kind in kinds:  # grows on the way
        kinds += kind.__subclasses__()
    return {need for kind in kinds for need in (*kind.NEEDS, *kind.CHECKS_NEED)}


def _no_other_groups(path: Path, variables: dict[str, Any]) -> None:
    """Refuse lists and tuples beside `hosts`: pyinfra takes each of them for a group of hosts."""
    for name, value in variables.items():
        if isinstance(value, (list, tuple)) and not name.startswith("_") and name != "hosts":
            raise SpecError(
                f"{path.stem}: {name}: is a list or tuple at the top of the inventory, which "
                f"pyinfra takes for a group of hosts: call it _{name}"
            )


def unbound(path: Path) -> dict[str, Spec]:
    """The nodes of the inventory at `path` as they are written, without targets and lock.

    Raises `SpecError` for wrong input.
    """
    global _collecting
    _collecting = {}
    try:
        with in_one_line(path):
            variables = runpy.run_path(str(path))
        if not _collecting or "hosts" not in variables:
            raise SpecError(f"{path}: {NO_HOSTS}")
        return _collecting
    finally:
        _collecting = None


def handles_of(node: Spec) -> dict[str, list[str]]:
    """{"gpus": ["left", …], "cards": […], "radios": […]}: the handles that `node` asks for."""
    found = {
        "gpus": [pin.handle for pin in find(node, Gpu)],
        "cards": [pin.handle for pin in find(node, Card)],
        "radios": [pin.handle for pin in find(node, Radio)],
    }
    return {table: list(dict.fromkeys(names)) for table, names in found.items()}
