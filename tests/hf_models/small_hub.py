"""A Hub for tests: a few files in memory, and faults on demand. It counts the bytes it gives away.

It answers the requests that `homeport_node.hf_models_hub` and `homeport.resolve` make, with the
fields that huggingface_hub 2.4 reads.
"""

import hashlib
import json
import re
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class SmallHub:
    """Files by path, served as the repository `repo` at `commit`; faults are attributes.

    `cut` holds how many bytes each coming answer gives before the connection drops; `lie` is
    served in the place of a file; `ignore_range` answers every request from the first byte;
    `status` refuses every request.
    """

    def __init__(self, repo: str = "owner/name", address: str = "127.0.0.1", port: int = 0) -> None:
        self.repo, self.commit = repo, "a" * 40
        self.files: dict[str, bytes] = {}
        self.plain: set[str] = set()  # paths that are not in LFS
        self.cut: list[int] = []
        self.lie: dict[str, bytes] = {}
        self.ignore_range = False
        self.status = 0
        self.given = 0
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer((address, port), self._handler())
        self.endpoint = f"http://{address}:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def info(self) -> dict[str, Any]:
        """What /api/models says of the repository with blobs=true."""
        siblings = []
        for path, data in self.files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(data), "blobId": "0" * 40}
            if path not in self.plain:
                digest = hashlib.sha256(data).hexdigest()
                entry["lfs"] = {"size": len(data), "sha256": digest, "pointerSize": 130}
            siblings.append(entry)
        return {"id": self.repo, "sha": self.commit, "siblings": siblings, "tags": []}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.requests.append(self.path)
                path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
                asked = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", path)
                if hub.status:
                    self.refuse(hub.status, "Refused")
                elif path.startswith("/api/models/"):
                    self.metadata(path.removeprefix("/api/models/"))
                elif asked and asked[1] == hub.repo and asked[3] in hub.files:
                    self.content(hub.lie.get(asked[3], hub.files[asked[3]]))
                else:
                    self.refuse(404, "EntryNotFound")

            def refuse(self, status: int, code: str) -> None:
                self.send_response(status)
                self.send_header("X-Error-Code", code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def metadata(self, path: str) -> None:
                repo, _, revision = path.partition("/revision/")
                if repo != hub.repo:
                    self.refuse(404, "RepoNotFound")
                elif revision not in ("main", hub.commit):
                    self.refuse(404, "RevisionNotFound")
                else:
                    data = json.dumps(hub.info()).encode()
                    self.send_response(200)
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)

            def content(self, data: bytes) -> None:
                span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
                begin = int(span[1]) if span and not hub.ignore_range else 0
                self.send_response(206 if begin else 200)
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
                self.send_header("Content-Length", str(len(data) - begin))
                self.end_headers()
                end = begin + hub.cut.pop(0) if hub.cut else len(data)
                hub.given += len(data[begin:end])
                self.wfile.write(data[begin:end])
                if end < len(data):
                    self.close_connection = True

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
