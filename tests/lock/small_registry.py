"""A registry for tests that knows one image, with or without the token that ghcr.io asks for."""

import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MANIFEST = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
DIGEST = f"sha256:{hashlib.sha256(MANIFEST).hexdigest()}"


class SmallRegistry:
    """Serves owner/name:tag. `token` "" asks for none; `challenge` overrides the 401's words."""

    def __init__(self) -> None:
        self.token = ""
        self.challenge = ""
        self.tell_digest: str | None = DIGEST
        self.status = 0
        self.seen: list[str] = []
        self.accepted = ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.name = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                registry.seen.append(f"{self.command} {self.path}")
                address = urllib.parse.urlsplit(self.path)
                if address.path == "/token":
                    asked = urllib.parse.parse_qs(address.query)
                    right = asked.get("scope") == ["repository:owner/name:pull"]
                    self.answer(
                        200 if right else 403, json.dumps({"token": registry.token}).encode()
                    )
                elif registry.status:
                    self.answer(registry.status)
                elif registry.token and not self.authorised():
                    self.answer(401, challenge=registry.challenge or self.bearer())
                elif address.path == "/v2/owner/name/manifests/tag":
                    registry.accepted = self.headers["Accept"]
                    self.answer(200, MANIFEST, digest=registry.tell_digest)
                else:
                    self.answer(404)

            def authorised(self) -> bool:
                return self.headers.get("Authorization") == f"Bearer {registry.token}"

            def bearer(self) -> str:
                return (
                    f'Bearer realm="http://{registry.name}/token",service="small",'
                    'scope="repository:owner/name:pull"'
                )

            def answer(
                self,
                status: int,
                body: bytes = b"",
                challenge: str = "",
                digest: str | None = None,
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if challenge:
                    self.send_header("WWW-Authenticate", challenge)
                if digest is not None:
                    self.send_header("Docker-Content-Digest", digest)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        return Handler
