"""What the lab needs from the machine it runs on, and getting it from apt where that is allowed."""

import os
import shutil
import subprocess

from homeport import report
from homeport.lab import LabError
from homeport.spec import SpecError


class LabUnavailable(SpecError):
    """This machine cannot carry the lab; the text says why and what to type."""


def install_lab_packages() -> None:
    """Install what the container lab needs and this machine lacks, after saying what.

    Needs apt and root. Raises `LabUnavailable` with the exact command where it may not.
    """
    from homeport.lab.engine import missing_packages, require_root

    try:
        require_root()
    except LabError as error:
        raise LabUnavailable(str(error)) from error
    missing = missing_packages()
    if not missing:
        return
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", *missing]
    command = f"sudo apt-get install {' '.join(missing)}"
    if shutil.which("apt-get") is None:
        raise LabUnavailable(f"the lab needs {', '.join(missing)}: install them, then try again")
    report.console.print(f"installing what the lab needs: {' '.join(missing)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["apt-get", "update", "-q"], install):
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-3:]
            raise LabUnavailable(f"{' '.join(words)} failed: {' / '.join(last)}: {command}")
