"""Iona's inventory with one thing wrong at a time: one line, the field's name, no connection."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

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
    "a list that pyinfra takes for hosts": (
        "hosts = inventory(",
        'FLAGS = ("a", "b")\nhosts = inventory(',
        "FLAGS",
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


def test_the_shipped_targets_are_refused_with_the_command() -> None:
    with pytest.raises(SpecError, match="bin/homeport probe HOST --name iona"):
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
