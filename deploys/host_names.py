"""Host names: the node itself resolves the names that it serves.

They stand in a marked block of /etc/hosts; every other line is kept as it is, and the block is
removed when the inventory wants no names. A line outside the block that gives one of these names
another address is somebody's decision that this capability neither overrules nor works beside (the
first line wins): the run stops and names the line. Any address of 127.0.0.0/8 or ::1 counts as the
node itself, as Debian's own `127.0.1.1 name` does.

The new file is written beside, flushed, and moved over the old one, so that an interruption leaves
the one or the other. Where /etc/hosts is a mount of its own, as in a container, it cannot be
replaced and is written in place. cloud-init with `manage_etc_hosts` writes the file at each boot
from its template, and drift names it.

Undo: `host_names = None`, or remove the block by hand. Source: hosts(5).
"""

import ipaddress
import re
import shlex
from collections.abc import Generator, Iterator
from dataclasses import dataclass

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from homeport.capability import Capability
from homeport.differs import Pair, differs, listed
from homeport.observe import NodeFact
from homeport.refuse import refuse
from homeport.spec import Spec, is_host_name

BEGIN = "# Managed by Homeport (host_names). Changes are replaced by the next converge."
END = "# End of Homeport (host_names)."
# Up to the end of the block; where somebody lost that, only lines such as we write.
BLOCK = re.compile(
    rf"^{re.escape(BEGIN)}\n"
    rf"(?:(?:(?!{re.escape(BEGIN)}).*\n)*?{re.escape(END)}(?:\n|\Z)"
    r"|(?:[0-9a-f.:]+ [a-z0-9.-]+(?:\n|\Z))*)",
    re.M,
)
PATH = "/etc/hosts"


@dataclass(frozen=True, kw_only=True, slots=True)
class HostNames(Spec):
    """`names` resolve to `address` on the node itself."""

    STEM = "host_names"

    names: tuple[str, ...]
    address: str = "127.0.0.1"

    def validate(self) -> None:
        self.require(
            "names",
            all(is_host_name(name) for name in self.names),
            "must be host names: lower-case letters, digits and '-', in parts joined by dots",
        )
        self.require("names", len(set(self.names)) == len(self.names), "must name each host once")
        self.require("names", "localhost" not in self.names, "must not take over 'localhost'")
        try:
            ipaddress.ip_address(self.address)
        except ValueError:
            self.require("address", False, "must be an IPv4 or IPv6 address")


class HostNamesState(NodeFact):
    """{"hosts": "127.0.0.1 localhost\\n…"}, the text of /etc/hosts, None when it is not there."""

    stem = "host_names"


def without_block(text: str) -> str:
    """The lines of `text` that are not ours."""
    return BLOCK.sub("", text)


def with_block(text: str, spec: HostNames | None) -> str:
    """`text` with the block that `spec` wants, in its place or at the end; every line else kept."""
    if spec is None or not spec.names:
        return without_block(text)
    lines = [BEGIN, *(f"{spec.address} {name}" for name in spec.names), END]
    block = "".join(f"{line}\n" for line in lines)
    found = BLOCK.search(text)
    if not found:
        return text + ("\n" if text and not text.endswith("\n") else "") + block
    before, after = text[: found.start()], text[found.end() :]
    return without_block(before) + block + without_block(after)


def _same_place(one: str, other: str) -> bool:
    try:
        first, second = ipaddress.ip_address(one), ipaddress.ip_address(other)
    except ValueError:
        return False
    return first == second or (first.is_loopback and second.is_loopback)


def conflict(text: str, spec: HostNames) -> str | None:
    """The foreign line that sends one of our names elsewhere, as "line N of …: …", or None."""
    ours = without_block(text)
    for line in ours.splitlines():
        address, *names = line.split("#", 1)[0].split() or [""]
        if {name.lower() for name in names} & set(spec.names) and not _same_place(
            address, spec.address
        ):
            return f"line {text.splitlines().index(line) + 1} of {PATH}: {line.strip()}"
    return None


def block_words(text: str, spec: HostNames | None) -> Iterator[Pair]:
    """What differs of our block in `text`; of no other line anything is said."""
    wanted = {f"{spec.address} {name}" for name in spec.names} if spec else set()
    blocks = [match.group().splitlines() for match in BLOCK.finditer(text)]
    there = {line for block in blocks for line in block} - {BEGIN, END}
    what = f"{PATH}, Homeport's block: "
    if wanted != there:
        lacking = listed(wanted - there, "no other line")
        yield Pair(what + lacking, listed(there - wanted, "no such line"))
    else:
        yield Pair(f"{what}once and whole, or none", "torn, empty, or there twice")


def write_command(text: str) -> str:
    """The shell text that makes `text` the contents of /etc/hosts, whole."""
    return (
        f"to=$(readlink -f {PATH}); new=$to.homeport; "
        f'printf %s {shlex.quote(text)} >"$new" && chmod 644 "$new" && sync "$new" && '
        '{ mv -fT "$new" "$to" 2>/dev/null || { cat "$new" >"$to" && rm -f "$new"; }; }'
    )


@operation()
def hosts_file(spec: HostNames | None) -> Generator[StringCommand, None, None]:
    """Bring the block in /etc/hosts to what `spec` wants."""
    text = host.get_fact(HostNamesState).get("hosts") or ""
    elsewhere = conflict(text, spec) if spec else None
    if elsewhere:
        yield refuse(
            f"a name that this node is to serve already has another address: {elsewhere}",
            "remove the name from that line, or from the inventory",
        )
    wanted = with_block(text, spec)
    if wanted == text:
        host.noop("names in /etc/hosts are as wanted")
        return
    differs(block_words(text, spec))
    yield StringCommand(write_command(wanted))


@deploy("Host names")
def apply(spec: HostNames | None) -> None:
    """Make the node resolve the names of `spec`; None removes them."""
    hosts_file(name="Names in /etc/hosts", spec=spec)


CAPABILITY = Capability(summary="the node resolves the names it serves", proof="container")
