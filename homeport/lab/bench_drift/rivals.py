"""Homeport and its rivals, each as a command line that checks a node and changes nothing.

Ansible runs with `--check`, pipelining and a connection that stays open for the next run, as its
documentation advises for speed; with Mitogen, by Mitogen's strategy. Each rival has an environment
of its own from the package index, pinned by `requirements/*.txt` and kept in the cache. Over Iona
pyinfra runs in Homeport's: there the deploys are Homeport's, and import what it has.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from homeport.lab import LabError, cache
from homeport.lab.cache import Progress, quiet

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = Path(__file__).with_name("requirements")
TIMEOUT = 600  # seconds that one check may take

# Where Mitogen's strategy plugins are, below the environment's site-packages.
MITOGEN_STRATEGY = "ansible_mitogen/plugins/strategy"

ANSIBLE_CONFIGURATION = """\
[defaults]
host_key_checking = true
retry_files_enabled = false
gathering = explicit
interpreter_python = /usr/bin/python3
nocows = true
local_tmp = {directory}/tmp
home = {directory}/home
{strategy}
[connection]
pipelining = true

[ssh_connection]
pipelining = true
ssh_args = -o ControlMaster=auto -o ControlPersist=60s -o PreferredAuthentications=publickey
control_path_dir = {directory}/cp
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A tool: its command line, the environment it adds, and how its output is read.

    `pending` gives what the tool says that it would change, in its own names.
    """

    name: str
    words: tuple[str, ...]
    pending: Callable[[str], list[str]]
    environment: dict[str, str] = field(default_factory=dict)
    good: tuple[int, ...] = (0,)

    def run(self) -> tuple[float, list[str]]:
        """(wall seconds of the whole process, what it would change). Raises `LabError`."""
        inherited = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYINFRA", "ANSIBLE"))
        }
        began = time.monotonic()
        try:
            done = subprocess.run(
                self.words,
                cwd=ROOT,
                env=inherited | self.environment,
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                timeout=TIMEOUT,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.name}: no end within {TIMEOUT} s") from error
        seconds = time.monotonic() - began
        if done.returncode not in self.good:
            said = (done.stdout[-1500:] + done.stderr[-1500:]).strip()
            raise LabError(f"{self.name} exited {done.returncode}: {said}")
        return seconds, self.pending(done.stdout)


def drifted(said: str) -> list[str]:
    """The operations in the JSON of `homeport drift`. Raises `LabError` for an unknown host."""
    value = json.loads(said)
    for host in value["hosts"]:
        if host["state"] == "unknown":
            raise LabError(f"homeport: {host['name']}: {host['failure']}")
    return [one["operation"] for host in value["hosts"] for one in host["drift"]]


def planned(said: str) -> list[str]:
    """The operations in the JSON of `pyinfra --dry --json`."""
    return [one["name"] for one in json.loads(said)["plan"] if one["hosts_with_change"]]


def would_change(said: str) -> list[str]:
    """ "task: item" of what Ansible says would change; held against its own recap."""
    found: list[str] = []
    task = ""
    for line in said.splitlines():
        if heading := re.match(r"TASK \[(.*)\] \*+$", line):
            task = heading[1]
        elif changed := re.match(r"changed: \[[^]]+\](?: => \(item=(.*)\))?", line):
            found.append(f"{task}: {changed[1]}" if changed[1] else task)
    recap = re.findall(r"^\S+\s+: ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", said, re.M)
    if not recap or (sum(map(int, recap)) == 0) != (not found):
        raise LabError(f"ansible: its recap is not understood: {said[-500:]}")
    return found


def environment(name: str, progress: Progress = quiet) -> Path:
    """The Python of the environment that `requirements/<name>.txt` pins, made when missing."""
    pins = REQUIREMENTS / f"{name}.txt"

    def build(path: Path) -> None:
        progress(f"making the environment of {name} from the package index (once)")
        install = [str(path / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        install += ["--disable-pip-version-check", "--require-hashes", "--requirement", str(pins)]
        for words in ([sys.executable, "-m", "venv", str(path)], install):
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise LabError(f"{name}: {done.stderr.strip()[-2000:]}")

    # Its programs are run as modules: those in bin/ would name the place where it was built.
    made = cache.entry("bench", f"{name}-{cache.key(pins, sys.version)}", build, progress)
    return made / "bin" / "python"


def _site_packages(python: Path) -> Path:
    (found,) = python.parent.parent.glob("lib/python*/site-packages")
    return found


def homeport(
    inventory: Path, deploy: Path | None = None, environment: dict[str, str] | None = None
) -> Rival:
    """`bin/homeport drift` as its launcher runs it."""
    words = [sys.executable, "-m", "homeport.cli", "drift", str(inventory), "--json", "-"]
    words += ["--deploy", str(deploy)] if deploy else []
    return Rival(
        name="homeport",
        words=tuple(words),
        pending=drifted,
        good=(0, 2),
        environment=environment or {},
    )


def pyinfra(
    python: str, inventory: Path, deploy: Path, environment: dict[str, str] | None = None
) -> Rival:
    """pyinfra as it comes, over its own ssh connector."""
    words = (python, "-m", "pyinfra", str(inventory), str(deploy), "--dry", "--json")
    # The deploys import this checkout's modules; pyinfra is the environment's own.
    added = {"PYTHONPATH": str(ROOT), **(environment or {})}
    return Rival(name="pyinfra", words=words, pending=planned, environment=added)


def ansible(
    inventory: Path, playbook: Path, directory: Path, *, mitogen: bool, progress: Progress = quiet
) -> Rival:
    """Ansible as its documentation advises for speed, or with Mitogen's strategy.

    `directory` gets its settings; its path must be short, for the sockets of its connections.
    """
    name = "ansible+mitogen" if mitogen else "ansible"
    python = environment("ansible_mitogen" if mitogen else "ansible", progress)
    strategy = ""
    if mitogen:
        plugins = _site_packages(python) / MITOGEN_STRATEGY
        strategy = f"strategy_plugins = {plugins}\nstrategy = mitogen_linear\n"
    own = directory / name
    own.mkdir(exist_ok=True)
    settings = own / "ansible.cfg"
    settings.write_text(ANSIBLE_CONFIGURATION.format(directory=own, strategy=strategy))
    words = (str(python), "-m", "ansible", "playbook", "--check")
    return Rival(
        name=name,
        words=(*words, "--inventory", str(inventory), str(playbook)),
        pending=would_change,
        environment={"ANSIBLE_CONFIG": str(settings), "LC_ALL": "C.UTF-8"},
    )
