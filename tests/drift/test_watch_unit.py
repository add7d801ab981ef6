"""The printed unit is one that systemd takes, with absolute paths and no address."""

import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from homeport.cli import main
from homeport.report import console
from homeport.watch_unit import quoted, unit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TELL", "TARGETS", "LOCK", "PYTHON", "PREFETCH"):
        monkeypatch.delenv(f"HOMEPORT_{name}", raising=False)


def test_it_is_printed_and_how_to_install_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEPORT_TELL", "https://hooks.example/t0ken")
    path = tmp_path / "my iona.py"
    path.write_text("hosts = ['@local']\n")
    words = ["drift", str(path), "--every", "5m", "--limit", "@local", "--unit"]
    with console.capture() as captured:
        result = CliRunner().invoke(main, words, prog_name="bin/homeport")
    assert result.exit_code == 0
    command = f'{ROOT}/bin/homeport drift "{path}" --every 5m --limit @local'
    assert f"\nExecStart={command}\n" in result.stdout
    assert "\nEnvironmentFile=/etc/homeport-drift-my-iona.env\n" in result.stdout
    said = captured.get()
    assert said.count("\n") == 2
    assert "/etc/systemd/system/homeport-drift-my-iona.service" in said
    assert "HOMEPORT_TELL=URL" in said
    assert "t0ken" not in result.stdout + said


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd here")
def test_systemd_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEPORT_TARGETS", str(tmp_path / 'a 50% "targets"$x.toml'))
    path = tmp_path / 'iona 50% "it"$x.py'
    to = tmp_path / "homeport-drift-iona.service"

    def complaints(text: str) -> str:
        to.write_text(text)
        done = subprocess.run(
            ["systemd-analyze", "verify", str(to)], capture_output=True, text=True, check=False
        )
        return done.stderr + ("" if done.returncode == 0 else "failed")

    text = unit(path, (), "5m", "again")
    assert complaints(text) == ""
    assert "NoNewPriv" in complaints(text.replace("NoNewPrivileges=yes", "NoNewPriv=yes"))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("/a/b.py", "/a/b.py"),
        ("a b", '"a b"'),
        ("50%", "50%%"),
        ("$x", "$$x"),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a;b", '"a;b"'),
        ("é", '"é"'),
    ],
)
def test_words_are_quoted_for_systemd(text: str, word: str) -> None:
    assert quoted(text, command=True) == word


def test_a_dollar_is_nothing_special_outside_a_command() -> None:
    assert quoted("A=$x") == "A=$x"
