"""The programs aboard: `homeport_node` in one virtual environment on the node.

Ensures that /opt/homeport/current is a link to /opt/homeport/<version>, a virtual environment
with `homeport_node` and its hash-pinned dependencies, whose entry point is
/opt/homeport/current/bin/homeport-node. The version is named after its content (the wheel, the
requirements, the node's Python), so a change of any of them is another directory, and the one in
use stays whole until the new one is. A virtual environment cannot be moved (its scripts hold its
path), so it is built where it stays and sealed at the end: one without its seal, or changed since,
is built anew. Other versions are removed after the switch; converging an older Homeport brings an
older one back.

How it fails: the package index is away, or serves a file with another hash: pip's own words, and
the version in use stays. Undo: `None` removes /opt/homeport.
"""

import hashlib
import io
import re
import shlex
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from pyinfra import host
from pyinfra.api import FileUploadCommand, StringCommand, deploy, operation

from homeport import __version__
from homeport.capability import Capability
from homeport.differs import Pair, differs, listed
from homeport.observe import NodeFact
from homeport.refuse import refuse
from homeport.spec import Spec
from homeport.targets import Sources, Target
from homeport.wheel import REQUIREMENTS, Wheel, build

ROOT = "/opt/homeport"
ENTRY = f"{ROOT}/current/bin/homeport-node"
CA_FILE = "/etc/ssl/certs/ca-certificates.crt"
FAILED = (
    "echo 'pip could not install the programs aboard, its words are above: "
    "check the network of the node, or `sources.pypi` in the targets file'"
)
# huggingface_hub 2.4 asks for 3.10, which Ubuntu 22.04 has.
OLDEST_PYTHON = (3, 10)


@dataclass(frozen=True, kw_only=True, slots=True)
class Aboard(Spec):
    """The programs aboard. `version` begins the name of the installed version."""

    STEM = "aboard"

    version: str = field(default_factory=lambda: __version__)

    def validate(self) -> None:
        self.require(
            "version",
            re.fullmatch(r"[0-9][0-9A-Za-z.]*", self.version) is not None,
            "must be digits, letters and dots, as in 0.1.0: it names a directory",
        )


class AboardState(NodeFact):
    """{"python": "3.13", "current": "0.1.0-py3.13-…", "versions": {"0.1.0-py3.13-…": true}}"""

    stem = "aboard"


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """`version` is what should be; `install` and `switch` say what is missing for it."""

    version: str
    install: bool
    switch: bool
    remove: tuple[str, ...]

    def __bool__(self) -> bool:
        return self.install or self.switch or bool(self.remove)


def version_name(prefix: str, python: str, wheel: Wheel, requirements: str) -> str:
    """The directory of a version: what it was built from, in its name."""
    digest = hashlib.sha256(f"{wheel.sha256}\n{requirements}".encode()).hexdigest()
    return f"{prefix}-py{python}-{digest[:12]}"


def difference(version: str, observed: dict[str, Any]) -> Difference:
    """What must happen for `version` alone to be installed and current."""
    versions = observed["versions"]
    return Difference(
        version=version,
        install=not versions.get(version, False),
        switch=observed["current"] != version,
        remove=tuple(name for name in sorted(versions) if name != version),
    )


def words(change: Difference, observed: dict[str, Any]) -> Iterator[Pair]:
    """What `change` is about."""
    if change.install:
        there = "changed since" if change.version in observed["versions"] else "no such version"
        yield Pair(f"{ROOT}/{change.version}: whole, as installed", there)
    if change.switch:
        link = observed["current"]
        there = f"leads to {link}" if link else "no such link"
        yield Pair(f"{ROOT}/current: leads to {change.version}", there)
    for name in change.remove:
        yield Pair(f"{ROOT}/{name}: no such directory", "another version")


def pip_conf(sources: Sources) -> str:
    """pip's configuration inside the environment; "" leaves the node's own alone.

    A file and not arguments: an index address may hold a password. Debian's pip trusts the
    system's store by itself, others bring their own; naming the store makes them alike.
    """
    if not sources.pypi:
        return ""
    text = f"[global]\nindex-url = {sources.pypi}\ncert = {CA_FILE}\n"
    address = urlsplit(sources.pypi)
    if address.scheme == "http":
        # Whoever names an index without TLS wants it used; the hashes say what may be installed.
        text += f"trusted-host = {address.hostname}\n"
    return text


def installation(
    version: str, wheel: Wheel, requirements: str, conf: str
) -> Generator[Any, None, None]:
    """The commands that build `version` in its place, the seal last."""
    path = f"{ROOT}/{version}"
    staged = f"{path}/{wheel.name}"
    lines = f"{requirements}{staged} --hash=sha256:{wheel.sha256}\n"
    # Under sudo the umask may hide the programs from the accounts that units run as.
    yield StringCommand(f"umask 022; rm -rf {path} && mkdir -p {path} && chmod 755 {ROOT} {path}")
    yield StringCommand(f"umask 022; python3 -m venv {path}")
    if conf:
        # Made empty with its mode first: the upload keeps the mode of a file that is there.
        yield StringCommand(f"install -m 600 /dev/null {path}/pip.conf")
        yield FileUploadCommand(io.BytesIO(conf.encode()), f"{path}/pip.conf")
    yield FileUploadCommand(io.BytesIO(wheel.data), staged)
    yield FileUploadCommand(io.BytesIO(lines.encode()), f"{path}/requirements.txt")
    # Not compiled: most of it is never imported, and what is, Python compiles then.
    yield StringCommand(
        f"umask 022; {path}/bin/python -m pip install --quiet --no-input "
        "--disable-pip-version-check --no-cache-dir --no-compile --only-binary :all: --retries 2 "
        "--timeout 20 "
        f"--require-hashes --requirement {path}/requirements.txt || {{ {FAILED} >&2; exit 1; }}"
    )
    yield StringCommand(f"umask 022; {path}/bin/homeport-node aboard seal")


@operation()
def install(prefix: str, sources: Sources) -> Generator[Any, None, None]:
    """Install the version that this Homeport carries, make it current, remove the others."""
    observed = host.get_fact(AboardState)
    python = observed.get("python", "")
    if not python or tuple(map(int, python.split("."))) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        cause = f"the node's python3 is {python or 'missing'}, and {oldest} is the oldest that does"
        yield refuse(cause, "install a newer release of the distribution")
        return
    wheel, requirements = build(), REQUIREMENTS.read_text()
    version = version_name(prefix, python, wheel, requirements)
    change = difference(version, observed)
    differs(words(change, observed))
    if change.install:
        yield from installation(version, wheel, requirements, pip_conf(sources))
    if change.switch:
        # A rename replaces the link in one step: there is no moment without a current version.
        yield StringCommand(
            f"ln -sfn {version} {ROOT}/current.new && mv -T {ROOT}/current.new {ROOT}/current"
        )
    if change.remove:
        paths = " ".join(shlex.quote(f"{ROOT}/{name}") for name in change.remove)
        yield StringCommand(f"rm -rf {paths}")
    if not change:
        host.noop(f"{version} is installed")


@operation()
def remove() -> Generator[Any, None, None]:
    """Remove every version."""
    observed = host.get_fact(AboardState)
    if observed.get("versions") or observed.get("current"):
        versions = listed(observed.get("versions") or ())
        differs([Pair(f"{ROOT}: no such directory", f"versions: {versions}")])
        yield StringCommand(f"rm -rf {ROOT}")
    else:
        host.noop("nothing is installed")


@deploy("Programs aboard")
def apply(spec: Aboard | None, target: Target) -> None:
    """Bring the programs aboard to `spec`, from the package index of `target`."""
    if spec is None:
        remove(name="Remove the programs aboard")
    else:
        install(name="Install the programs aboard", prefix=spec.version, sources=target.sources)


CAPABILITY = Capability(
    summary="the programs that run on the node, pinned, in one virtual environment",
    proof="container",
)
