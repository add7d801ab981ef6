"""A Hugging Face Hub for the lab: what huggingface_hub 2.4 asks of the real one, from a directory.

    python3 hub.py --root DIR --port N [--cert FILE --key FILE]

DIR/<owner>/<name>/<revision>/ holds the files of one revision: `main`, a tag, or an old commit by
its 40 hex digits. A commit's id is made from its files' names and contents, so the same files are
the same commit, and a changed file is a new one. DIR is read afresh for every request.

It serves model information, file trees, and files with ETag, X-Repo-Commit, X-Linked-Etag,
X-Linked-Size, Content-Length, Accept-Ranges and Range. Xet is not announced: clients then use plain
HTTP. Files named like weights, or larger than 1 MiB, are LFS files, whose ETag is their sha256.

For tests, POST /_faults takes {"<glob on owner/name/path>": {fault: value, …}, …}, which replaces
all faults; {} ends them:
  "break_after": N    close the connection after N bytes of a body; with "times": K, only K times
  "bytes_per_s": N    send no faster than this
  "corrupt": true     send wrong bytes under the right headers
  "status": 503       answer with this status instead; "times" counts here too
GET /_stats is {"<owner/name/path>": {"requests": …, "bytes": …, "ranges": [[first, sent], …]}};
DELETE /_stats forgets them. Standard library only: it runs where just Python is installed.
"""

import argparse
import hashlib
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

LFS_SUFFIXES = (".gguf", ".safetensors", ".bin", ".onnx", ".pt")
LFS_FROM = 1 << 20  # bytes
PIECE = 1 << 18  # bytes sent at a time, and at most so many beyond where a fault begins
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?")
RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")

_digests: dict[tuple[str, int, int], tuple[str, str]] = {}


def digests(path: Path) -> tuple[str, str]:
    """sha256 and git blob id of a file, remembered for as long as its size and time stay."""
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        sha256, blob = hashlib.sha256(), hashlib.sha1(f"blob {stat.st_size}\0".encode())
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                sha256.update(piece)
                blob.update(piece)
        _digests[key] = sha256.hexdigest(), blob.hexdigest()
    return _digests[key]


@dataclass
class File:
    """One file of a revision: its path in the repository and where it lies here."""

    name: str
    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    @property
    def lfs(self) -> bool:
        return self.name.endswith(LFS_SUFFIXES) or self.size > LFS_FROM

    @property
    def etag(self) -> str:
        sha256, blob = digests(self.path)
        return sha256 if self.lfs else blob

    def described(self, path_key: str) -> dict[str, Any]:
        """What the Hub's answers say of it; `path_key` is how they name it there."""
        sha256, blob = digests(self.path)
        entry: dict[str, Any] = {path_key: self.name, "size": self.size}
        entry["oid" if path_key == "path" else "blobId"] = blob
        if self.lfs:
            entry["lfs"] = {"size": self.size, "pointerSize": 134}
            entry["lfs"]["oid" if path_key == "path" else "sha256"] = sha256
        return entry


def files_of(revision: Path) -> list[File]:
    """The files of the revision that lies in this directory, sorted by name."""
    paths = (path for path in revision.rglob("*") if path.is_file() and path.suffix != ".part")
    return sorted(
        (File(p.relative_to(revision).as_posix(), p) for p in paths), key=lambda f: f.name
    )


def commit_of(revision: Path) -> str:
    """The commit id of the revision that lies in this directory: 40 hex digits."""
    contents = "".join(f"{digests(file.path)[0]} {file.name}\n" for file in files_of(revision))
    return hashlib.sha1(contents.encode()).hexdigest()


@dataclass
class State:
    """What all connections share: faults to play and counters of what was sent."""

    root: Path
    lock: threading.Lock = field(default_factory=threading.Lock)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    stats: dict[str, dict[str, Any]] = field(default_factory=dict)

    def revision(self, repo: str, name: str) -> Path | None:
        """The directory of revision `name`, which may also be a commit id."""
        base = (self.root / repo).resolve()
        if not base.is_relative_to(self.root.resolve()) or not base.is_dir():
            return None
        found = [path for path in sorted(base.iterdir()) if path.is_dir()]
        named = [path for path in found if path.name == name]
        return next(iter(named or [path for path in found if commit_of(path) == name]), None)

    def fault(self, name: str) -> dict[str, Any]:
        """The fault to play for a request of this file; one that is used up is not returned."""
        with self.lock:
            for pattern, fault in self.faults.items():
                if fnmatch(name, pattern) and fault.get("times", 1) > 0:
                    if "times" in fault:
                        fault["times"] -= 1
                    return dict(fault)
        return {}

    def sent(self, name: str, first: int) -> list[int]:
        """Begin counting one body of file `name` from byte `first`: [first, bytes sent so far]."""
        with self.lock:
            entry = self.stats.setdefault(name, {"requests": 0, "bytes": 0, "ranges": []})
            entry["requests"] += 1
            span = [first, 0]
            entry["ranges"].append(span)
            return span


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    timeout = 120
    state: State

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: the counters say what was asked."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        if path == "/_stats":
            return self.answer(self.state.stats)
        if path == "/health":
            return self.answer({"ok": True})
        if match := API.fullmatch(path):
            repo, verb, revision, below = match.groups()
            return self.describe(repo, verb or "revision", revision or "main", below, url.query)
        if match := RESOLVE.fullmatch(path):
            return self.resolve(*match.groups())
        return self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "no such address")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path != "/_faults":
            return self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", "no such address")
        with self.state.lock:
            self.state.faults = json.loads(body or b"{}")
        return self.answer({"faults": self.state.faults})

    def do_DELETE(self) -> None:
        with self.state.lock:
            self.state.stats.clear()
        self.answer({})

    def describe(self, repo: str, verb: str, name: str, below: str | None, query: str) -> None:
        """Model information, or a tree's listing."""
        revision = self.found(repo, name)
        if revision is None:
            return None
        if verb == "tree":
            prefix = f"{below.strip('/')}/" if below else ""
            files = [file for file in files_of(revision) if file.name.startswith(prefix)]
            return self.answer([{"type": "file", **file.described("path")} for file in files])
        detailed = "blobs" in parse_qs(query)
        siblings = [
            file.described("rfilename") if detailed else {"rfilename": file.name}
            for file in files_of(revision)
        ]
        about = {"id": repo, "modelId": repo, "author": repo.split("/")[0], "private": False}
        commit = commit_of(revision)
        return self.answer({**about, "sha": commit, "tags": [], "siblings": siblings})

    def resolve(self, repo: str, name: str, path: str) -> None:
        """A file, or its headers."""
        revision = self.found(repo, name)
        if revision is None:
            return None
        file = next((file for file in files_of(revision) if file.name == path), None)
        if file is None:
            return self.refuse(HTTPStatus.NOT_FOUND, "EntryNotFound", f"{path} is not in {repo}")
        counted = f"{repo}/{path}"
        fault = self.state.fault(counted) if self.command == "GET" else {}
        if "status" in fault:
            return self.refuse(HTTPStatus(fault["status"]), "Fault", "a fault, as told")
        size = file.size
        first, last = self.range(size)
        if first >= size > 0:
            self.send_response(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        partial = "Range" in self.headers
        self.send_response(HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK)
        if partial:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("ETag", f'"{file.etag}"')
        if file.lfs:
            self.send_header("X-Linked-Etag", f'"{file.etag}"')
            self.send_header("X-Linked-Size", str(size))
        self.send_header("X-Repo-Commit", commit_of(revision))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Disposition", f"inline; filename*=UTF-8''{quote(path)}")
        self.send_header("Content-Length", str(last - first + 1))
        self.end_headers()
        if self.command == "GET":
            self.send_body(file, first, last, fault, self.state.sent(counted, first))
        return None

    def range(self, size: int) -> tuple[int, int]:
        """First and last byte that were asked for; the whole file without a Range header."""
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "").strip())
        if not match or not any(match.groups()):
            return 0, size - 1
        first, last = match.groups()
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(size - 1, int(last)) if last else size - 1

    def send_body(
        self, file: File, first: int, last: int, fault: dict[str, Any], span: list[int]
    ) -> None:
        """The bytes, as the fault has it; `span` counts them."""
        budget = fault.get("break_after", last - first + 1)
        rate = fault.get("bytes_per_s")
        begun = time.monotonic()
        for piece in self.pieces(file.path, first, last, small=bool(rate)):
            piece = piece[: budget - span[1]]
            if fault.get("corrupt"):
                piece = bytes(byte ^ 0xFF for byte in piece[:64]) + piece[64:]
            try:
                self.wfile.write(piece)
            except OSError:
                self.close_connection = True
                break
            span[1] += len(piece)
            if rate:
                time.sleep(max(0.0, span[1] / rate - (time.monotonic() - begun)))
            if span[1] >= budget and "break_after" in fault:
                self.close_connection = True
                break
        with self.state.lock:
            name = urlsplit(self.path).path
            match = RESOLVE.fullmatch(unquote(name))
            assert match is not None
            entry = self.state.stats.get(f"{match[1]}/{match[3]}")
            if entry is not None:
                entry["bytes"] += span[1]

    @staticmethod
    def pieces(path: Path, first: int, last: int, *, small: bool) -> Iterator[bytes]:
        size = PIECE // 16 if small else PIECE
        left = last - first + 1
        with path.open("rb") as file:
            file.seek(first)
            while left > 0 and (piece := file.read(min(size, left))):
                left -= len(piece)
                yield piece

    def found(self, repo: str, name: str) -> Path | None:
        """The revision's directory; None when the client was told that there is none."""
        revision = self.state.revision(repo, name)
        if revision is None and (self.state.root / repo).is_dir():
            self.refuse(HTTPStatus.NOT_FOUND, "RevisionNotFound", f"no revision {name} of {repo}")
        elif revision is None:
            self.refuse(HTTPStatus.NOT_FOUND, "RepoNotFound", f"no repository {repo}")
        return revision

    def answer(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: HTTPStatus, code: str, words: str) -> None:
        body = json.dumps({"error": words}).encode()
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", words)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def server(
    root: Path, port: int = 0, address: str = "", cert: str = "", key: str = ""
) -> ThreadingHTTPServer:
    """A hub that listens on `port` (0: any free one) and is yet to be started."""
    handler = type("BoundHandler", (Handler,), {"state": State(root)})
    made = ThreadingHTTPServer((address, port), handler)
    made.daemon_threads = True
    if cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, key or None)
        # The handshake is for the connection's own thread: a silent client blocks no other.
        made.socket = context.wrap_socket(
            made.socket, server_side=True, do_handshake_on_connect=False
        )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description="a Hugging Face Hub for the lab")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert", default="")
    parser.add_argument("--key", default="")
    given = parser.parse_args()
    server(given.root, given.port, cert=given.cert, key=given.key).serve_forever()


if __name__ == "__main__":
    main()
