"""The targets file of a lab: all that an inventory is told about it, as about any machine."""

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from homeport.lab.driver import Driver
from homeport.lab.sources import Sources


def table(values: Mapping[str, str]) -> str:
    """`values` as an inline table of TOML. A JSON string is a TOML string."""
    pairs = (f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items())
    return "{" + ", ".join(pairs) + "}"


def nested(tables: Mapping[str, Mapping[str, str]]) -> str:
    """`tables` as an inline table of inline tables."""
    pairs = (f"{json.dumps(key)} = {table(values)}" for key, values in tables.items())
    return "{" + ", ".join(pairs) + "}"


def write_targets(
    directory: Path,
    hosts: Mapping[str, Driver],
    sources: Sources | None = None,
    *,
    handles: Mapping[str, tuple[str, ...]] = MappingProxyType({}),
    lacks: Mapping[str, str] | None = None,
    name: str = "lab.targets.toml",
) -> Path:
    """Write the targets file for `hosts` (by the inventory's names) into `directory`: its path.

    `handles` are the radios that each host asks for. `lacks` is what the machines themselves say,
    unless it is given. The authority's certificate lies beside it, as `ca.crt`.
    """
    lines = ["# A rehearsal's lab: every machine in it is simulated."]
    for host, machine in hosts.items():
        gpus = {gpu.handle: gpu.uuid for gpu in machine.gpus}
        radios = dict(zip(handles.get(host, ()), machine.radios, strict=False))
        lines += [
            f"[hosts.{json.dumps(host)}]",
            f"address = {json.dumps(machine.address)}",
            f"host_key = {json.dumps(machine.host_key)}",
            'user = "root"',
            f"ssh_key = {json.dumps(str(machine.ssh_key))}",
            f"gpus = {table(gpus)}",
            f"radios = {table(radios)}",
            f"pci = {nested(machine.cards)}",
            f"lacks = {table(machine.lacks if lacks is None else lacks)}",
            "",
        ]
    if sources is not None:
        (directory / "ca.crt").write_text(sources.authority.certificate)
        lines += ["[sources]", f"registries = {table(sources.registries)}"]
        lines += [f"hub = {json.dumps(sources.hub)}"] if sources.hub else []
        lines += [f"pypi = {json.dumps(sources.pypi)}"] if sources.pypi else []
        lines += [f"apt = {table(sources.apt)}"] if sources.apt else []
        lines += [f"apt_keys = {table(sources.apt_keys)}"] if sources.apt else []
        lines += ['ca_certificates = ["ca.crt"]', ""]
    path = directory / name
    path.write_text("\n".join(lines))
    return path
