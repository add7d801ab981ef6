"""The download itself, against a Hub in this process: resumed, verified, refused, kept."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from homeport_node import hf_models, hf_models_hub, hf_models_sync
from tests.hf_models.small_hub import SmallHub

DATA = os.urandom(300_000)
OLD, NEW = "a" * 40, "b" * 40


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallHub]:
    monkeypatch.setattr(hf_models_hub, "WAIT_S", 0)
    made = SmallHub()
    made.files = {"x.gguf": DATA, "mm.gguf": b"projector"}
    yield made
    made.close()


def wanted(hub: SmallHub, directory: Path, lock: bool = True, **changes: Any) -> dict[str, Any]:
    """The document for the hub's files as they are now."""
    files = [
        {"path": path, "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in hub.files.items()
    ]
    model = {
        "name": "gemma",
        "repo": hub.repo,
        "revision": "main",
        "patterns": ["*.gguf"],
        "commit": hub.commit if lock else "",
        "files": files if lock else [],
        "links": {"model.gguf": "x.gguf", "deep/mmproj.gguf": "mm.gguf"},
        **changes,
    }
    return {
        "directory": str(directory),
        "headroom_mib": 0,
        "endpoint": hub.endpoint,
        "prune": False,
        "models": [model],
    }


def observed(directory: Path) -> dict[str, Any]:
    return hf_models.observe(str(directory), ["model.gguf"], spec="/nowhere")


def test_links_are_relative_and_lead_to_verified_files(hub: SmallHub, tmp_path: Path) -> None:
    assert hf_models_sync.sync(wanted(hub, tmp_path)) == 0
    assert str((tmp_path / "model.gguf").readlink()) == f"gemma/{OLD}/x.gguf"
    assert str((tmp_path / "deep/mmproj.gguf").readlink()) == f"../gemma/{OLD}/mm.gguf"
    assert (tmp_path / "model.gguf").read_bytes() == DATA
    assert (tmp_path / "deep/mmproj.gguf").read_bytes() == b"projector"
    assert sorted(path.name for path in (tmp_path / "gemma").iterdir()) == [OLD, f"{OLD}.json"]
    # The directory may be mounted elsewhere: nothing in it holds its own path.
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert (moved / "model.gguf").read_bytes() == DATA


def test_a_second_sync_asks_nothing_of_the_hub(hub: SmallHub, tmp_path: Path) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    before = len(hub.requests)
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert len(hub.requests) == before


def test_a_cut_connection_is_resumed_in_the_same_run(hub: SmallHub, tmp_path: Path) -> None:
    hub.cut = [100_000, 50_000, 1]
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_bytes() == DATA
    assert hub.given == len(DATA) + len(b"projector")


def test_an_interrupted_download_is_resumed_by_the_next_run(hub: SmallHub, tmp_path: Path) -> None:
    hub.cut = [100_000] + [0] * hf_models_hub.ATTEMPTS
    with pytest.raises(SystemExit, match=r"gemma/x\.gguf.*does not answer.*fetched so far is kept"):
        hf_models_sync.sync(wanted(hub, tmp_path))
    assert not (tmp_path / "model.gguf").exists()
    hub.cut = []
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_bytes() == DATA
    assert hub.given == len(DATA) + len(b"projector")


def test_a_hub_without_ranges_starts_again(hub: SmallHub, tmp_path: Path) -> None:
    hub.cut, hub.ignore_range = [100_000], True
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_bytes() == DATA


@pytest.mark.parametrize("lie", [b"x" * len(DATA), DATA + b"more", DATA[:-1]])
def test_wrong_content_leaves_the_old_model_serving(
    hub: SmallHub, tmp_path: Path, lie: bytes
) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    hub.commit, hub.files["x.gguf"] = NEW, DATA[::-1]
    hub.lie["x.gguf"] = lie
    with pytest.raises(SystemExit) as failed:
        hf_models_sync.sync(wanted(hub, tmp_path))
    if len(lie) >= len(DATA):
        good = hashlib.sha256(DATA[::-1]).hexdigest()
        assert "gemma/x.gguf" in str(failed.value)
        assert good in str(failed.value)
        assert not list((tmp_path / "gemma" / f"{NEW}.partial").glob("*"))
    assert str((tmp_path / "model.gguf").readlink()) == f"gemma/{OLD}/x.gguf"
    assert (tmp_path / "model.gguf").read_bytes() == DATA
    hub.lie = {}
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_bytes() == DATA[::-1]


def test_a_disk_too_small_is_refused_before_the_first_byte(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=len(DATA))
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    need = len(DATA) + len(b"projector")
    with pytest.raises(SystemExit, match=rf"{need} bytes .*{len(DATA)} bytes .*are free"):
        hf_models_sync.sync(wanted(hub, tmp_path))
    assert hub.requests == []
    # What a broken-off download has fetched already needs no room any more.
    part = tmp_path / "gemma" / f"{OLD}.partial" / "x.gguf"
    part.parent.mkdir(parents=True)
    part.write_bytes(DATA[:50_000])
    hf_models_sync.sync(wanted(hub, tmp_path))
    # And what is there needs none at all.
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=0))
    (tmp_path / "model.gguf").unlink()
    hf_models_sync.sync(wanted(hub, tmp_path))


def test_without_a_lock_the_first_commit_is_kept(hub: SmallHub, tmp_path: Path) -> None:
    document = wanted(hub, tmp_path, lock=False)
    hf_models_sync.sync(document)
    hub.commit, hub.files["x.gguf"] = NEW, b"moved"
    before = len(hub.requests)
    hf_models_sync.sync(document)
    assert len(hub.requests) == before
    assert str((tmp_path / "model.gguf").readlink()) == f"gemma/{OLD}/x.gguf"


def test_without_a_lock_the_hubs_hash_is_checked(hub: SmallHub, tmp_path: Path) -> None:
    hub.lie["x.gguf"] = bytes(len(DATA))
    with pytest.raises(SystemExit, match="download is wrong"):
        hf_models_sync.sync(wanted(hub, tmp_path, lock=False))


def test_the_same_content_in_a_new_commit_is_not_downloaded_again(
    hub: SmallHub, tmp_path: Path
) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    hub.commit, hub.files["mm.gguf"] = NEW, b"another"
    given = hub.given
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert hub.given == given + len(b"another")
    assert str((tmp_path / "model.gguf").readlink()) == f"gemma/{NEW}/x.gguf"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: os.truncate(path, 10), "10 bytes instead of"),
        (lambda path: path.write_bytes(DATA[::-1]), "touched"),
    ],
)
def test_a_damaged_file_is_seen_and_healed(
    hub: SmallHub, tmp_path: Path, damage: Any, words: str
) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    damage(tmp_path / "gemma" / OLD / "x.gguf")
    assert words in observed(tmp_path)["models"]["gemma"][OLD]["faults"]["x.gguf"]
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert observed(tmp_path)["models"]["gemma"][OLD]["faults"] == {}
    assert (tmp_path / "model.gguf").read_bytes() == DATA


def test_a_touched_file_that_is_whole_is_not_downloaded(hub: SmallHub, tmp_path: Path) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    os.utime(tmp_path / "gemma" / OLD / "x.gguf", (1, 1))
    assert observed(tmp_path)["models"]["gemma"][OLD]["faults"]
    given = hub.given
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert hub.given == given
    assert observed(tmp_path)["models"]["gemma"][OLD]["faults"] == {}


@pytest.mark.parametrize(("mode", "shown"), [(0, "mode 0 "), (0o600, "mode 600 "), (0o666, "666")])
def test_a_file_that_engines_cannot_read_or_all_may_write(
    hub: SmallHub, tmp_path: Path, mode: int, shown: str
) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    path = tmp_path / "gemma" / OLD / "x.gguf"
    path.chmod(mode)
    assert shown in observed(tmp_path)["models"]["gemma"][OLD]["faults"]["x.gguf"]
    given = hub.given
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert hub.given == given
    assert path.stat().st_mode & 0o777 == 0o644
    assert observed(tmp_path)["models"]["gemma"][OLD]["faults"] == {}


def test_links_no_longer_wanted_go_and_foreign_ones_stay(hub: SmallHub, tmp_path: Path) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    (tmp_path / "theirs").symlink_to("somewhere/else")
    (tmp_path / "absolute").symlink_to(tmp_path / "gemma" / OLD / "x.gguf")
    hf_models_sync.sync(wanted(hub, tmp_path, links={"new.gguf": "x.gguf"}))
    assert hf_models.links(str(tmp_path)) == {"new.gguf": f"gemma/{OLD}/x.gguf"}
    assert (tmp_path / "theirs").is_symlink()
    assert (tmp_path / "absolute").is_symlink()


def test_a_foreign_file_in_a_links_place_is_refused(hub: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("mine")
    assert observed(tmp_path)["taken"] == ["model.gguf"]
    with pytest.raises(SystemExit, match="is in the way"):
        hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_text() == "mine"


def test_a_strange_link_in_a_links_place_is_replaced(hub: SmallHub, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").symlink_to("/etc/hostname")
    state = observed(tmp_path)
    assert (state["taken"], state["links"]) == ([], {"model.gguf": "/etc/hostname"})
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert (tmp_path / "model.gguf").read_bytes() == DATA


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"repo": "no/such"}, 0, "answers 404.*check `repo`"),
        ({"revision": "nope"}, 0, "answers 404.*`revision`"),
        ({"patterns": ["*.bin"]}, 0, r"no file matches '\*\.bin'; it has: mm.gguf, x.gguf"),
        ({}, 403, "wants a token"),
        ({}, 503, "try again later"),
    ],
)
def test_the_hubs_refusals_are_in_clear_words(
    hub: SmallHub, tmp_path: Path, changes: dict[str, Any], status: int, words: str
) -> None:
    hub.status = status
    with pytest.raises(SystemExit, match=words):
        hf_models_sync.sync(wanted(hub, tmp_path, lock=False, **changes))


def test_a_hub_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hf_models_hub, "WAIT_S", 0)
    gone = SmallHub()
    gone.close()
    for lock in (True, False):
        gone.files = {"x.gguf": DATA}
        with pytest.raises(SystemExit, match=f"the Hub at {gone.endpoint} does not answer"):
            hf_models_sync.sync(wanted(gone, tmp_path, lock=lock))


def test_progress_is_one_line_of_json(
    hub: SmallHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hf_models_sync.sync(wanted(hub, tmp_path))
    lines = [line.partition(" ") for line in capsys.readouterr().out.splitlines()]
    assert {first for first, _, _ in lines} == {"homeport-progress"}
    last = json.loads(lines[-1][2])
    assert last == {"what": "verify gemma/mm.gguf", "done": 9, "total": 9}


def test_check_needs_no_hub_and_finds_what_a_quick_look_cannot(
    hub: SmallHub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = wanted(hub, tmp_path)
    hf_models_sync.sync(document)
    hub.close()
    monkeypatch.setattr(hf_models, "load", lambda: document)
    assert hf_models.check([]) == 0
    whole = tmp_path / "gemma" / OLD / "x.gguf"
    times = whole.stat()
    with open(whole, "r+b") as file:
        file.write(bytes([DATA[0] ^ 1]))
    os.utime(whole, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hf_models.check(["--quick"]) == 0
    capsys.readouterr()
    assert hf_models.check([]) == 2
    assert "gemma/x.gguf" in json.loads(capsys.readouterr().out)["faults"]


def test_prune_waits_for_the_new_commit_and_for_open_files(
    hub: SmallHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = wanted(hub, tmp_path)
    hf_models_sync.sync(document)
    hub.commit, hub.files["x.gguf"] = NEW, b"newer"
    document = wanted(hub, tmp_path)
    monkeypatch.setattr(hf_models, "load", lambda: document)
    hf_models.prune([])  # the new one is not even there
    assert (tmp_path / "gemma" / OLD / "x.gguf").exists()
    hf_models_sync.sync(document)
    with open(tmp_path / "gemma" / OLD / "x.gguf", "rb"):
        assert observed(tmp_path)["in_use"] == [OLD]
        hf_models.prune([])
        assert (tmp_path / "gemma" / OLD / "x.gguf").exists()
    hf_models.prune([])
    assert sorted(path.name for path in (tmp_path / "gemma").iterdir()) == [NEW, f"{NEW}.json"]


def test_an_abandoned_download_is_removed(hub: SmallHub, tmp_path: Path) -> None:
    hub.cut = [100_000] + [0] * hf_models_hub.ATTEMPTS
    with pytest.raises(SystemExit):
        hf_models_sync.sync(wanted(hub, tmp_path))
    hub.cut, hub.commit = [], NEW
    hf_models_sync.sync(wanted(hub, tmp_path))
    assert not (tmp_path / "gemma" / f"{OLD}.partial").exists()
