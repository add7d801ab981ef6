"""A Debian root file system made from its packages, by mmdebstrap.

mmdebstrap is given no mirror: it uses what the machine is set up with.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from homeport.lab import LabError
from homeport.lab.prerequisites import install_command

MINUTES = 20
# What it mounts (/proc, /sys) is in a namespace of its own, and gone with it however it ends.
APART = ("unshare", "--mount", "--propagation", "private")


def debian_root(
    tar: Path,
    *,
    release: str,
    variant: str,
    packages: Iterable[str],
    options: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
) -> Path:
    """A tar of Debian `release` with `packages`, written to `tar`.

    `variant` and `options` are mmdebstrap's; `env` is added to the environment. Raises `LabError`.
    """
    command = [*APART, "mmdebstrap", "--quiet", f"--variant={variant}"]
    command += [f"--include={','.join(packages)}", *options]
    part = tar.with_name(f"{tar.name}.part")
    # To standard output: as root, mmdebstrap would look for the target by path as another user.
    with part.open("wb") as out:
        try:
            done = subprocess.run(
                [*command, release, "-"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.PIPE,
                env={**os.environ, "TMPDIR": str(tar.parent), **(env or {})},
                timeout=60 * MINUTES,
                check=False,
            )
        except FileNotFoundError as error:
            raise LabError(f"there is no {error.filename} here: {install_command()}") from error
        except subprocess.TimeoutExpired as error:
            raise LabError(f"mmdebstrap {release}: no end within {MINUTES} minutes") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-1500:]
        raise LabError(f"mmdebstrap {release}: {said}")
    part.replace(tar)
    return tar
