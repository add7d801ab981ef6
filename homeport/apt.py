"""Debian packages: one operation that every capability uses.

pyinfra's own `apt.packages` refreshes the lists by the clock alone, does not wait for a lock that
another process holds, and leaves a half-configured package as it is. This one asks the archive
only when a package is missing, waits a bounded time, and finishes what an interrupted run of dpkg
left. It never removes a package to make room for another: the run stops and names the two.
It works where python3 is not there yet.
"""

import os
import re
import shlex
from collections.abc import Generator, Iterable
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, operation

from homeport.differs import Pair, differs, listed
from homeport.observe import NodeFact
from homeport.refuse import refuse
from homeport.spec import fail

# Debian Policy 5.6.1: names are lower-case letters, digits, "+", "-" and ".", at least two.
PACKAGE_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
LISTS_MAX_AGE = 86400  # seconds
PINNED = " --allow-downgrades --allow-change-held-packages"
LOCK_WAIT = 120  # seconds
# Where a person sets another, for one run: a large upgrade may hold apt for longer.
LOCK_WAIT_VARIABLE = "HOMEPORT_APT_WAIT"

# DPkg::Lock::Timeout covers dpkg's locks alone: apt 2.6 and 3.0 give up at once when the lock of
# the package lists is held, so that one is waited for here. When apt gives up it does not say which
# process holds the lock; the kernel does.
_SCRIPT = """\
export DEBIAN_FRONTEND=noninteractive
words=$(mktemp) || exit 1
trap 'rm -f "$words"' EXIT
deadline=$(( $(date +%s) + {wait} ))
get() {{
  apt-get -q -y -o APT::Get::Remove=false -o DPkg::Lock::Timeout={wait} \\
    -o Dpkg::Options::=--force-confdef \\
    -o Dpkg::Options::=--force-confold -o APT::Install-Recommends=false "$@" </dev/null 2>"$words"
}}
refresh() {{
  until get update; do
    grep -q 'Could not get lock' "$words" || return 1
    [ "$(date +%s)" -lt "$deadline" ] || return 1
    sleep 2
  done
  mkdir -p /var/lib/homeport && touch /var/lib/homeport/apt-refreshed
}}
holders() {{
  for lock in /var/lib/dpkg/lock-frontend /var/lib/dpkg/lock /var/lib/apt/lists/lock; do
    inode=$(stat -c %i "$lock" 2>/dev/null) || continue
    awk -v inode="$inode" '{{ n = split($6, at, ":"); if (at[n] == inode && $5 > 0) print $5 }}' \\
      /proc/locks
  done | sort -u | while read -r pid; do echo "$(cat "/proc/$pid/comm") (pid $pid)"; done
}}
stop() {{
  who=$(holders 2>/dev/null | tr '\\n' ' ')
  cat "$words" >&2
  if grep -qE 'Could not get lock|Unable to acquire|locked by another process' "$words"; then
    echo "${{who:-another process }}was using apt for more than {wait} s," \\
      'and nothing was changed: let it end, then converge again' >&2
  fi
  if grep -q 'remove is disabled' "$words"; then
    doomed=$(LC_ALL=C get -s -o APT::Get::Remove=true install{more} {packages} \\
      | sed -n 's/^Remv //p')
    echo 'To install' {packages} "apt would have to remove: $doomed:" \\
      'remove that yourself if nothing needs it, then converge again' >&2
  fi
  exit 1
}}
if [ -n "$(dpkg --audit 2>/dev/null)" ]; then
  # An earlier run of dpkg was cut short. Through apt, which waits for the lock.
  get -f install || {{ dpkg --force-confdef --force-confold --configure -a </dev/null 2>"$words" \\
    && get -f install; }} || stop
fi
{refresh}get install{more} {packages} || {{
  grep -qE 'Could not get lock|Unable to acquire|locked by another process' "$words" && stop
  # Lists that are out of step with the archive name files that it no longer has.
  refresh && get install{more} {packages}
}} || stop
cat "$words" >&2"""


class AptState(NodeFact):
    """{"installed": {"curl": "8.14.1-2", …}, "lists_age": 12.5}: all packages that are whole.

    One answer for every capability, some 20 KB, as quick as that for one name. `lists_age` is in
    seconds, None when there are no lists or nobody knows.
    """

    stem = "apt"


def is_package_name(name: str) -> bool:
    """Whether `name` can be the name of a Debian package."""
    return PACKAGE_NAME.fullmatch(name) is not None


def lock_wait() -> int:
    """Seconds to wait for a lock. Raises `SpecError` when the environment says nonsense."""
    given = os.environ.get(LOCK_WAIT_VARIABLE) or str(LOCK_WAIT)
    if not given.isdecimal():
        fail(LOCK_WAIT_VARIABLE, given, "must be a number of seconds to wait for apt's lock")
    return int(given)


def missing(wanted: Iterable[str], observed: dict[str, Any]) -> list[str]:
    """Those of the packages `wanted` that are not installed so: "name", "name=version", or as apt
    takes it too "name=580.*"."""
    installed = observed.get("installed", {})
    lacking = []
    for one in set(wanted):
        name, _, version = one.partition("=")
        there = installed.get(name)
        begins = version.endswith("*") and there and there.startswith(version[:-1])
        if there is None or not (begins or version in ("", there)):
            lacking.append(one)
    return sorted(lacking)


def install_command(wanted: Iterable[str], observed: dict[str, Any]) -> str | None:
    """The shell text that installs what is missing of `wanted`; None when nothing is.

    Recommended packages are not installed. Configuration files that somebody edited are kept. What
    is wanted in a version ("name=version") is brought to it from a newer one too, and though held.
    """
    lacking = missing(wanted, observed)
    if not lacking:
        return None
    age = observed.get("lists_age")
    stale = age is None or age > LISTS_MAX_AGE
    return _SCRIPT.format(
        wait=lock_wait(),
        refresh="refresh || stop\n" if stale else "",
        packages=shlex.join(lacking),
        more=PINNED if any("=" in one for one in lacking) else "",
    )


def install(
    wanted: Iterable[str], observed: dict[str, Any]
) -> Generator[StringCommand, None, None]:
    """What an operation does to install what is missing of `wanted`."""
    names = sorted(set(wanted))
    command = install_command(names, observed)
    if command is None:
        host.noop(f"packages are installed: {' '.join(names)}")
        return
    differs([Pair(f"packages: {', '.join(missing(names, observed))}", "not installed")])
    yield StringCommand(command)


def named_twice(address: str, own: str, others: list[str]) -> StringCommand:
    """What an operation does where the files `others` name the repository of our file `own`."""
    return refuse(
        f"{listed(others)} names the repository {address} too, and apt does nothing any more "
        "when two files give one repository different keys",
        f"remove it (rm {shlex.join(others)}), then converge again: Homeport's own list "
        "takes its place",
        wanted=f"{address} in {own} alone",
    )


@operation()
def packages(wanted: Iterable[str]) -> Generator[StringCommand, None, None]:
    """Install what is missing of `wanted`, names of real (not virtual) Debian packages."""
    names = sorted(set(wanted))
    yield from install(names, host.get_fact(AptState))
