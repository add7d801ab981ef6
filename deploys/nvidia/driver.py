"""The operations on the driver's packages."""

import shlex
from collections.abc import Generator
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from deploys.nvidia import packages
from deploys.nvidia.facts import DriverState
from deploys.nvidia.packages import APT_FILES, KEY, SOURCES
from deploys.nvidia.spec import Nvidia
from homeport import apt, own_files
from homeport.differs import Pair, differs, listed
from homeport.observe import act
from homeport.refuse import refuse

Commands = Generator[Any, None, None]


def observed_driver() -> dict[str, Any]:
    """What the node's apt knows of the driver."""
    state: dict[str, Any] = host.get_fact(DriverState, files=[*APT_FILES], key=KEY)
    return state


def other_lists(address: str) -> list[str]:
    """The files of apt's besides ours that name NVIDIA's repository at `address`."""
    state: dict[str, Any] = host.get_fact(
        DriverState, files=[], key=KEY, whole=False, repository=address, own_list=SOURCES
    )
    found: list[str] = state.get("other_lists", [])
    return found


@operation()
def archives(spec: Nvidia) -> Commands:
    """Let apt find the driver: Debian's non-free, or NVIDIA's repository with its pinned key."""
    observed = observed_driver()
    problem = packages.problem(spec, observed)
    if problem:
        yield refuse(*problem)
        return
    address, url, fingerprint = packages.repository(observed)
    # NVIDIA's package cuda-keyring writes one.
    others = other_lists(address) if spec.driver == "nvidia" else []
    if others:
        yield apt.named_twice(address, SOURCES, others)
        return
    wanted, found = packages.apt_files(spec, observed), observed["files"]
    write, remove = own_files.changes(wanted, found)
    differs(own_files.words(wanted, found))
    fetch = spec.driver == "nvidia" and observed["key"] != [fingerprint]
    if fetch:
        differs([Pair(f"{KEY}: {fingerprint}", listed(observed["key"], "no key"))])
        yield act("apt_key", "fetch", url=url, fingerprint=fingerprint, keyring=KEY)
    for path, text in write.items():
        yield from own_files.put(path, text)
    if remove:
        yield StringCommand(f"rm -f {shlex.join(remove)}")
    if write or remove:
        # The lists are of other archives than apt now has: the next installation reads them anew.
        yield StringCommand("rm -f /var/lib/homeport/apt-refreshed")
    elif not fetch:
        host.noop("apt knows where the driver is")


@operation()
def installed(spec: Nvidia) -> Commands:
    """Install what is missing of the driver, or is of another branch."""
    observed = observed_driver()
    names = packages.in_branch(spec, observed)
    state = host.get_fact(apt.AptState)
    if apt.missing(names, state) and observed["held_by_us"]:
        # Else apt would refuse to change what is held.
        yield act("nvidia_driver", "release")
    yield from apt.install(names, state)


@operation()
def held(spec: Nvidia) -> Commands:
    """Hold the driver's packages: an upgrade under the loaded module breaks every program."""
    observed = observed_driver()
    names = packages.to_hold(spec, observed)
    loose = [name for name in names if not observed["packages"][name]["held"]]
    if not loose:
        host.noop("the driver's packages are held")
        return
    differs([Pair(f"packages held at their version: {listed(loose)}", "not held")])
    yield act("nvidia_driver", "hold", packages=loose)
