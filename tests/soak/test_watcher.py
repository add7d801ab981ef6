"""What the watcher takes for a stage; the relay that is cut; and what the results say."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.soak import results
from tests.soak.relay import Relay
from tests.soak.watcher import downloaded, look, seen

APT = ("apt-get", ["apt-get", "-q", "-y", "-o", "x=y", "install", "curl"])
ACT = "sh -c 'python3 - <<END\n_module = _load(...)\nsys.exit(_module.wait(**_arguments) or 0)'"


@pytest.mark.parametrize(
    ("stage", "running", "said"),
    [
        ("apt", APT, "apt-get install"),
        ("apt", ("apt-get", ["apt-get", "-q", "update"]), "apt-get update"),
        ("apt", ("apt-get", ["apt-get", "-s", "install", "curl"]), ""),
        ("apt", ("dpkg-query", ["dpkg-query", "-W"]), ""),
        ("download", APT, ""),
        (
            "download",
            ("python3", ["/opt/h/bin/python3", "/opt/h/bin/homeport-node", "hf_models", "sync"]),
            "homeport-node hf_models sync",
        ),
        ("download", ("python3", ["python3", "/bin/homeport-node", "hf_models", "prune"]), ""),
        ("start", ("docker", ["docker", "compose", "-p", "iona", "up"]), "docker compose up"),
        (
            "start",
            ("docker-compose", ["/usr/libexec/docker/docker-compose", "-p", "iona", "up"]),
            "docker compose up",
        ),
        ("start", ("docker-compose", ["docker-compose", "-p", "iona", "config"]), ""),
        ("start", ("bash", ["bash", "-c", ACT]), "waiting for the services"),
        ("start", ("sh", ["sh", "-c", ACT.replace("wait", "up")]), "starting the services"),
        ("start", ("python3", ["python3", ACT]), ""),
        ("start", APT, ""),
    ],
)
def test_what_runs_says_the_stage(stage: str, running: tuple[str, list[str]], said: str) -> None:
    assert seen(stage, [("init", ["/sbin/init"]), running]) == said


def test_a_file_with_two_names_is_one_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.soak.watcher.MODELS", tmp_path)
    (tmp_path / "a").write_bytes(b"x" * 3 * (1 << 20))
    (tmp_path / "b").hardlink_to(tmp_path / "a")
    assert downloaded()[0] == 3 << 20
    assert look("download", 0)["at"] == 3 << 20


async def _cut() -> tuple[bytes, bool, bool]:
    """What came through, whether the client was reset, whether a new connection is refused."""
    ended = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(100):
                writer.write(chunk)
        except ConnectionResetError:
            ended.set()

    behind = await asyncio.start_server(echo, "127.0.0.1", 0)
    made = Relay("127.0.0.1", behind.sockets[0].getsockname()[1])
    port = await made.serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    came = await reader.readexactly(5)
    made.cut()
    try:
        reset = await reader.read() is None
    except ConnectionResetError:
        reset = True
    await asyncio.wait_for(ended.wait(), 5)
    try:
        await asyncio.open_connection("127.0.0.1", port)
        refused = False
    except OSError:
        refused = True
    behind.close()
    return came, reset, refused


def test_a_relay_that_is_cut_resets_both_ends() -> None:
    assert asyncio.run(_cut()) == (b"hello", True, True)


def test_results_of_earlier_code_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path)
    line = {"date": "2026-11-20T21:00:00+00:00", "stage": "apt", "way": "kill"}
    lines = [{**line, "code": "old", "seed": 1}, {**line, "code": "new", "seed": 2}]
    (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    monkeypatch.setattr(results, "code", lambda: "new")
    assert results.passed("x") == {2}
    assert results.summary("x", "new") == [
        "x: 1 with old (earlier code), 2026-11-20: 1 apt kill",
        "x: 1 with new (the code as it is), 2026-11-20: 1 apt kill",
    ]
    assert results.summary("y", "new") == ["y: none"]
