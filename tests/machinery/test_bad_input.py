"""Iona's inventory with one thing wrong at a time: one line, the field's name, no connection."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from homeport import cli
from homeport.inventory import unbound
from homeport.lab import commands
from homeport.run import load
from homeport.spec import SpecError

ROOT = Path(__file__).resolve().parents[2]
IONA = (ROOT / "inventory" / "iona.py").read_text()

TARGETS = """
[hosts.iona]
address = "127.0.0.1"
port = {port}
host_key = "ssh-ed25519 AAAA"
gpus = {{ left = "GPU-00000000-0000-0000-0000-000000000001", right = "{right}" }}
radios = {{ hotspot = "02:00:00:00:00:01" }}
"""
RIGHT = "GPU-00000000-0000-0000-0000-000000000002"

CASES = {
    "unknown field": ("ctx_size=131072", "ctx_sise=131072", "llama_server.ctx_sise"),
    "absolute link": (
        '"google_gemma-4-26B-A4B-it-Q4_0.gguf"',
        '"/etc/passwd"',
        "hf_models.model.links",
    ),
    "escaping link": (
        '"google_gemma-4-26B-A4B-it-Q4_0.gguf"',
        '"../../etc/passwd"',
        "hf_models.model.links",
    ),
    "escaping link name": ('"model.gguf": "goo', '"../model.gguf": "goo', "hf_models.model.links"),
    "port used twice": ("port=3000", "port=8080", "open_webui.port"),
    "KV cache type": ('cache_type_k="q4_0"', 'cache_type_k="q3_0"', "llama_server.cache_type_k"),
    "context": ("ctx_size=131072", "ctx_size=0", "llama_server.ctx_size"),
    "host name": ('"iona.local.arpeggio.one"', '"iona_local.arpeggio.one"', "caddy.sites.name"),
    "micro-batch": ("ubatch_size=256", "ubatch_size=2048", "llama_server.ubatch_size"),
    "GPU handle": ('gpu("left")', 'gpu("middle")', "gpus.middle"),
    "Caddy's own port": ("port=3000", "port=2019", "open_webui.port"),
    "ssh's port": ("port=3000", "port=22", "open_webui.port"),
    "no Docker": ("docker=Docker(),", "", "docker"),
    "directory": ('"/srv/homeport/models"', '"/srv/a:b"', "hf_models.directory"),
    "hotspot inside the pool": ('"10.42.0.1/24"', '"10.213.9.1/24"', "hotspot.address"),
    "node's name": ('name="iona"', 'name="Iona!"', "node.name"),
    "repository": ('repo="bartowski/', 'repo="bartowski//', "hub_repo.repo"),
    "wrong type": ("port=3000", 'port="3000"', "open_webui.port"),
    "site without a backend": (
        'to="open_webui"',
        'to="open_webgui"',
        "caddy.sites[iona.local.arpeggio.one].to",
    ),
    "model link that nothing provides": (
        'model="model.gguf"',
        'model="modl.gguf"',
        "llama_server.model",
    ),
    "something else than a node": ("iona=IONA", 'iona="x"', "iona"),
    "a list that pyinfra takes for hosts": (
        "hosts = inventory(",
        'FLAGS = ("a", "b")\nhosts = inventory(',
        "FLAGS",
    ),
}

# Files that are no good Python, and what is said of each after its path.
BROKEN = {
    "undefined name": ("\nx = CTX\n", ":2: NameError: name 'CTX' is not defined"),
    "syntax": ("x = (1,\n", ":1: SyntaxError: '(' was never closed"),
    "import": ("import deploys.nope\n", ":1: ModuleNotFoundError: No module named 'deploys.nope'"),
    "any exception": ("def f():\n    1 / 0\n\nf()\n", ":2: ZeroDivisionError: division by zero"),
    "no __file__": (
        "from homeport.inventory import inventory\nhosts = inventory(n=1)\n",
        ":2: TypeError: inventory() missing 1 required positional argument: 'file'",
    ),
    "no hosts": ("x = 1\n", ": names no hosts: end it with `hosts = inventory(__file__, …)`"),
    "hosts by another name": (
        IONA.replace("hosts = inv", "_hosts = inv"),
        ": names no hosts: end it with `hosts = inventory(__file__, …)`",
    ),
}


def write(directory: Path, old: str, new: str, port: int = 22, right: str = RIGHT) -> Path:
    assert old in IONA
    folder = directory / "inventory"
    folder.mkdir()
    path = folder / "iona.py"
    path.write_text(IONA.replace(old, new, 1))
    (folder / "iona.targets.toml").write_text(TARGETS.format(port=port, right=right))
    return path


def homeport(*words: str) -> subprocess.CompletedProcess[str]:
    """What `bin/homeport WORDS` does and says."""
    return subprocess.run(
        [sys.executable, "-m", "homeport.cli", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_iona_itself_is_right(tmp_path: Path) -> None:
    assert [host.name for host in load(write(tmp_path, "", ""))] == ["iona"]


@pytest.mark.parametrize("name", CASES)
def test_one_line_names_the_field(tmp_path: Path, name: str) -> None:
    old, new, field = CASES[name]
    with pytest.raises(SpecError) as caught:
        load(write(tmp_path, old, new))
    line = str(caught.value)
    assert line.split(" ")[1] == f"{field}:", line
    assert line.startswith("iona: ")
    assert "\n" not in line


def test_what_nothing_asks_for_is_not_lacking(tmp_path: Path) -> None:
    path = write(tmp_path, "", "")
    targets = path.with_name("iona.targets.toml")
    targets.write_text(f"{targets.read_text()}lacks = {{ radios = 'none' }}\n")
    with pytest.raises(SpecError) as caught:
        load(path)
    known = "boot_loader, cuda, iommu, kernel, nvidia_driver, radio"
    line = f"{targets}: hosts.iona.lacks.radios: nothing asks for it; known: {known}"
    assert str(caught.value) == line


@pytest.mark.parametrize("read", [load, unbound])
@pytest.mark.parametrize("name", BROKEN)
def test_one_line_names_the_place(
    tmp_path: Path, name: str, read: Callable[[Path], object]
) -> None:
    path = write(tmp_path, "", "")
    path.write_text(BROKEN[name][0])
    with pytest.raises(SpecError) as caught:
        read(path)
    assert str(caught.value) == f"{path}{BROKEN[name][1]}"


@pytest.mark.parametrize("read", [load, unbound])
def test_what_is_no_inventory_is_told_the_others(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    path = write(tmp_path, "", "")
    with pytest.raises(SpecError, match=rf"nope\.py: there is no such .*; there are {path}$"):
        read(path.with_name("nope.py"))
    with pytest.raises(SpecError, match=r"iona\.targets\.toml: is no inventory"):
        read(path.with_name("iona.targets.toml"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("converge",), "{}:2: NameError: name 'CTX' is not defined"),
        (("lock",), "{}:2: NameError: name 'CTX' is not defined"),
        (("drift", "--json", "/none/x"), "--json: '/none/x' must be a file in a folder"),
        (("drift", "--deploy", "/none.py"), "--deploy: '/none.py' must be a deploy: there is no"),
    ],
)
def test_every_command_says_it_in_one_line(
    tmp_path: Path, words: tuple[str, ...], line: str
) -> None:
    path = write(tmp_path, "", "")
    path.write_text(BROKEN["undefined name"][0])
    done = homeport(*words, str(path))
    assert done.returncode == 1
    assert done.stderr.startswith(line.format(path))
    assert done.stderr.count("\n") == 1


def test_a_lock_that_is_not_there_is_made_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEPORT_LOCK", "")
    monkeypatch.chdir(ROOT)
    done = CliRunner().invoke(cli.main, ["--lock", "no.lock", "drift", "/none.py"])
    assert done.exit_code == 1
    assert "--lock: 'no.lock' must be a lock: there is no such file" in done.stderr
    done = CliRunner().invoke(cli.main, ["--lock", "no.lock", "lock", "/none.py"])
    assert "there is no such inventory" in done.stderr


@pytest.mark.parametrize("words", [("rehearse",), ("bench", "drift")])
def test_nothing_is_installed_for_no_inventory(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(commands, "_install_lab_packages", lambda: pytest.fail("installed"))
    done = CliRunner().invoke(cli.main, [*words, "/none.py"])
    assert done.exit_code == 1
    assert "/none.py: there is no such inventory" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--hosts", "2", "--rtt", "20"), "takes neither --rtt nor --workload"),
        (("--hosts", "x"), "must be numbers such as 1,10,50"),
        (("--hosts", "501"), "--hosts 1 to 500"),
        (("--rtt", "-1"), "--rtt must be 0 to 1000 ms"),
        (("--runs", "0"), "--runs must be at least 1"),
    ],
)
def test_a_bench_is_refused_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setattr(commands, "_install_lab_packages", lambda: pytest.fail("installed"))
    done = CliRunner().invoke(cli.main, ["bench", "drift", *words])
    assert done.exit_code == 1
    assert said in done.stderr


@pytest.mark.parametrize("words", [(), ("--frob",), ("bench",), ("drift",), ("drift", "--frob")])
def test_wrong_usage_is_not_called_a_difference(words: tuple[str, ...]) -> None:
    assert CliRunner().invoke(cli.main, words).exit_code == 1


def test_the_shipped_targets_are_refused_with_the_command() -> None:
    command = "bin/homeport probe HOST --inventory inventory/iona.py --write"
    with pytest.raises(SpecError, match=command):
        load(ROOT / "inventory" / "iona.py")


@pytest.mark.parametrize("tool", ["homeport", "pyinfra"])
def test_nothing_is_connected_to(tmp_path: Path, tool: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        path = write(tmp_path, "ctx_size=131072", "ctx_size=-1", port=port)
        command = {
            "homeport": ["-m", "homeport.cli", "converge", str(path)],
            "pyinfra": ["-m", "pyinfra", str(path), "deploys/full.py", "-y"],
        }[tool]
        done = subprocess.run(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        server.settimeout(0.1)
        with pytest.raises(TimeoutError):
            server.accept()
    assert done.returncode == 1
    said = done.stderr + done.stdout
    assert "iona: llama_server.ctx_size: -1 must be" in said
    assert "Traceback" not in said
