"""The targets file of a lab: all that an inventory is told about it, as about any machine."""

import json
from collections.abc import Mapping
from pathlib import Path

from homeport.lab.machine import LACKS, Machine
from homeport.lab.sources import Sources


def table(values: Mapping[str, str]) -> str:
    """`values` as an inline table of TOML. A JSON string is a TOML string."""
    pairs = (f"{json.dumps(key)} = {json.dumps(value)}" for key, value in values.items())
    return "{" + ", ".join(pairs) + "}"


def write_targets(
    directory: Path,
    hosts: Mapping[str, Machine],
    sources: Sources | None = None,
    *,
    lacks: Mapping[str, str] = LACKS,
    name: str = "lab.targets.toml",
) -> Path:
    """Write the targets file for `hosts` (by the inventory's names) into `directory`: its path.

    The authority's certificate lies beside it, as `ca.crt`.
    """
    lines = ["# A rehearsal's lab: every machine in it is simulated."]
    for host, machine in hosts.items():
        gpus = {gpu.handle: gpu.uuid for gpu in machine.gpus}
        lines += [
            f"[hosts.{json.dumps(host)}]",
            f"address = {json.dumps(machine.address)}",
            f"host_key = {json.dumps(machine.host_key)}",
            'user = "root"',
            f"ssh_key = {json.dumps(str(machine.ssh_key))}",
            f"gpus = {table(gpus)}",
            f"lacks = {table(lacks)}",
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
