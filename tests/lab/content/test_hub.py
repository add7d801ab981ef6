"""The lab's Hub as the real client sees it: huggingface_hub against a server in this process."""

import hashlib
import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from homeport.lab.content import hub
from homeport.lab.content.repository import write_repo

REPO = "owner/name-GGUF"
WEIGHTS = bytes(range(256)) * 8192  # 2 MiB: eight pieces
README = b"# Hello\n"


class Running:
    """The hub under test: its address, its root, its control endpoint."""

    def __init__(self, root: Path, source: Path, address: str) -> None:
        self.root, self.source, self.address = root, source, address

    def write(self, weights: bytes = WEIGHTS, revision: str = "main") -> str:
        self.source.mkdir(exist_ok=True)
        files = {"model-Q4_0.gguf": weights, "README.md": README}
        for name, contents in files.items():
            (self.source / name).unlink(missing_ok=True)
            (self.source / name).write_bytes(contents)
        return write_repo(self.root, REPO, {n: self.source / n for n in files}, revision)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def stats(self, name: str = "model-Q4_0.gguf") -> dict[str, Any]:
        # The last piece is counted just after the client has it.
        threading.Event().wait(0.02)
        return dict(self.call("GET", "/_stats").get(f"{REPO}/{name}", {}))

    def faults(self, **fault: object) -> None:
        self.call("POST", "/_faults", {"*.gguf": fault} if fault else {})


@pytest.fixture
def running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    # The client reads these as it is imported, so its own names are set.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS", True)
    server = hub.server(tmp_path / "root", address="127.0.0.1")
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield Running(tmp_path / "root", tmp_path / "source", f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.fixture
def download(running: Running, tmp_path: Path) -> Callable[..., Path]:
    def fetch(name: str = "model-Q4_0.gguf", **more: Any) -> Path:
        where = tmp_path / "here"
        return Path(hf_hub_download(REPO, name, endpoint=running.address, local_dir=where, **more))

    return fetch


def test_model_information_says_commit_sizes_and_hashes(running: Running) -> None:
    commit = running.write()
    info = HfApi(endpoint=running.address).model_info(REPO, files_metadata=True)
    assert info.sha == commit
    assert len(commit) == 40
    assert info.siblings is not None
    by_name = {sibling.rfilename: sibling for sibling in info.siblings}
    weights = by_name["model-Q4_0.gguf"]
    assert weights.size == len(WEIGHTS)
    assert weights.lfs is not None
    assert weights.lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert by_name["README.md"].lfs is None


def test_a_snapshot_at_a_commit_takes_what_was_asked_for(running: Running, tmp_path: Path) -> None:
    commit = running.write()
    place = snapshot_download(
        REPO,
        revision=commit,
        allow_patterns=["*Q4_0.gguf"],
        endpoint=running.address,
        local_dir=tmp_path / "here",
    )
    files = [path for path in Path(place).iterdir() if path.is_file()]
    assert [path.name for path in files] == ["model-Q4_0.gguf"]
    assert files[0].read_bytes() == WEIGHTS
    assert running.stats()["bytes"] == len(WEIGHTS)


def test_a_tree_is_listed(running: Running) -> None:
    running.write()
    tree = {item.path for item in HfApi(endpoint=running.address).list_repo_tree(REPO)}
    assert tree == {"model-Q4_0.gguf", "README.md"}


def test_main_moves_on_and_the_old_commit_stays(
    running: Running, download: Callable[..., Path]
) -> None:
    old = running.write()
    assert running.write() == old, "the same files are the same commit"
    new = running.write(WEIGHTS[::-1])
    assert new != old
    assert download(revision="main").read_bytes() == WEIGHTS[::-1]
    assert download(revision=old).read_bytes() == WEIGHTS


def test_a_broken_download_resumes_where_it_broke(
    running: Running, download: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece, broke_at = 1 << 18, 900_000
    # The client writes, and so keeps, whole pieces: of 10 MB, were it not told otherwise.
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", piece)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    running.write()
    running.faults(break_after=broke_at, times=1)
    assert download().read_bytes() == WEIGHTS
    stats = running.stats()
    resumed_at = broke_at // piece * piece
    assert stats["ranges"] == [[0, broke_at], [resumed_at, len(WEIGHTS) - resumed_at]]
    assert stats["bytes"] - len(WEIGHTS) < piece, "at most the broken piece was sent twice"


def test_wrong_bytes_come_with_the_right_hash(
    running: Running, download: Callable[..., Path]
) -> None:
    running.write()
    running.faults(corrupt=True)
    path = download()
    assert path.stat().st_size == len(WEIGHTS)
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    info = HfApi(endpoint=running.address).model_info(REPO, files_metadata=True)
    assert info.siblings is not None
    wanted = [s.lfs.sha256 for s in info.siblings if s.lfs]
    assert found not in wanted
    running.faults()
    assert download(force_download=True).read_bytes() == WEIGHTS


def test_a_status_and_a_pace_can_be_set(running: Running) -> None:
    running.write()
    path = f"/{REPO}/resolve/main/model-Q4_0.gguf"
    running.faults(status=503, times=1)
    with pytest.raises(urllib.error.HTTPError, match="503"):
        urllib.request.urlopen(running.address + path, timeout=10)
    running.faults(bytes_per_s=1_000_000)
    begun = time.monotonic()
    request = urllib.request.Request(running.address + path, headers={"Range": "bytes=100-200099"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 206
        assert answer.headers["Content-Range"] == f"bytes 100-200099/{len(WEIGHTS)}"
        assert answer.read() == WEIGHTS[100:200100]
    assert time.monotonic() - begun >= 0.18


def test_what_is_not_there_is_named(running: Running, download: Callable[..., Path]) -> None:
    running.write()
    api = HfApi(endpoint=running.address)
    with pytest.raises(RevisionNotFoundError):
        api.model_info(REPO, revision="f" * 40)
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("owner/nothing")
    with pytest.raises(EntryNotFoundError):
        download("absent.gguf")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        running.call("GET", "/api/models/../..")
