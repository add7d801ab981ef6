"""A package index for the lab: a directory of wheels as a simple repository (PEP 503), over TLS.

    python3 index.py --root DIR --port N --cert C --key K

Every link carries the file's sha256. Standard library only: it runs in the sources' container.
"""

import argparse
import functools
import hashlib
import html
import http.server
import re
import ssl
import urllib.parse
from http import HTTPStatus
from pathlib import Path


def normalized(name: str) -> str:
    """A project's name as the index spells it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def project_of(file: str) -> str:
    """The normalized project that a wheel or sdist `file` belongs to."""
    stem = file.split("-", 1)[0] if file.endswith(".whl") else file.rsplit("-", 1)[0]
    return normalized(stem)


@functools.lru_cache(maxsize=1024)
def sha256_of(path: Path, size: int, modified: int) -> str:
    """The sha256 of the file; `size` and `modified` (ns) tell a changed one from the old."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def page(links: dict[str, str]) -> bytes:
    """An HTML page of links: text to address."""
    body = "\n".join(
        f'<a href="{html.escape(to)}">{html.escape(text)}</a><br>' for text, to in links.items()
    )
    return f"<!DOCTYPE html>\n<html><body>\n{body}\n</body></html>\n".encode()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers /simple/, /simple/PROJECT/ and /files/NAME from `root`."""

    root: Path
    protocol_version = "HTTP/1.1"

    def files(self) -> list[Path]:
        return sorted(p for p in self.root.iterdir() if p.name.endswith((".whl", ".tar.gz")))

    def do_GET(self) -> None:
        parts = [part for part in urllib.parse.unquote(self.path).split("?")[0].split("/") if part]
        if parts == ["simple"]:
            names = sorted({project_of(file.name) for file in self.files()})
            self.answer(page({name: f"/simple/{name}/" for name in names}))
        elif len(parts) == 2 and parts[0] == "simple":
            self.project(normalized(parts[1]))
        elif len(parts) == 2 and parts[0] == "files":
            wanted = [file for file in self.files() if file.name == parts[1]]
            if wanted:
                self.answer(wanted[0].read_bytes(), "application/octet-stream")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def project(self, name: str) -> None:
        links = {}
        for file in self.files():
            if project_of(file.name) == name:
                about = file.stat()
                digest = sha256_of(file, about.st_size, about.st_mtime_ns)
                links[file.name] = f"/files/{urllib.parse.quote(file.name)}#sha256={digest}"
        if links:
            self.answer(page(links))
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    def answer(self, body: bytes, kind: str = "text/html; charset=utf-8") -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def serve(root: Path, port: int, certificate: str, key: str) -> None:
    """Serve `root` on `port` for ever."""
    handler = type("Rooted", (Handler,), {"root": root})
    server = http.server.ThreadingHTTPServer(("", port), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # The handshake is each connection's own thread's work, so that one client cannot stop others.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cert", required=True)
    parser.add_argument("--key", required=True)
    given = parser.parse_args()
    serve(given.root, given.port, given.cert, given.key)


if __name__ == "__main__":
    main()
