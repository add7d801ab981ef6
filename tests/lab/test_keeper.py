"""What a killed keeper of a private daemon leaves on the host is taken back by the next one."""

from pathlib import Path

import pytest

from homeport.lab import keeper


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A host that forwards nothing and has no Docker, in a directory."""
    (tmp_path / "ip_forward").write_text("0\n")
    (tmp_path / "boot_id").write_text("one\n")
    monkeypatch.setattr(keeper, "FORWARD", tmp_path / "ip_forward")
    monkeypatch.setattr(keeper, "BOOT", tmp_path / "boot_id")
    monkeypatch.setattr(keeper, "COVERED", (tmp_path / "etc" / "docker",))
    return tmp_path


def made(host: Path, run: str) -> keeper.Keeper:
    (host / run).mkdir()
    settings = {"run": str(host / run), "data": str(host / "data"), "subnet": "10.214"}
    return keeper.Keeper(settings)


def test_a_killed_keeper_s_traces_are_taken_back(host: Path) -> None:
    killed = made(host, "first")
    killed.cover()
    killed.forward()
    assert (host / "ip_forward").read_text() == "1"
    assert (host / "etc" / "docker").is_dir()
    made(host, "second").replay()
    assert (host / "ip_forward").read_text() == "0"
    assert not (host / "etc" / "docker").exists()
    assert not (host / "first").exists()
    assert (host / "second").exists()
    assert not (host / "data.undo").exists()


def test_what_was_so_before_stays(host: Path) -> None:
    (host / "ip_forward").write_text("1\n")
    (host / "etc" / "docker").mkdir(parents=True)
    killed = made(host, "first")
    killed.cover()
    killed.forward()
    made(host, "second").replay()
    assert (host / "ip_forward").read_text() == "1\n"
    assert (host / "etc" / "docker").is_dir()


def test_after_a_reboot_the_setting_is_the_host_s_own(host: Path) -> None:
    killed = made(host, "first")
    killed.forward()
    (host / "boot_id").write_text("two\n")
    made(host, "second").replay()
    assert (host / "ip_forward").read_text() == "1"


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_without_a_whole_record_nothing_is_done(host: Path, text: str | None) -> None:
    if text is not None:
        (host / "data.undo").write_text(text)
    made(host, "second").replay()
    assert (host / "ip_forward").read_text() == "0\n"
    assert not (host / "data.undo").exists()
