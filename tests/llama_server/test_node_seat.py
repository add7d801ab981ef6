"""The API from a client's seat: by name, over HTTPS, with the CA that the node offers."""

import base64
import struct
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2
import openai
import pytest

from deploys.node import Node
from tests.conftest import Seat
from tests.llama_server.streaming import stream

pytestmark = pytest.mark.node


def site(node: Node) -> str:
    """The host name under which the API is served, or the test is skipped."""
    names = [s.name for s in node.caddy.sites if s.to == "llama_server"] if node.caddy else []
    if not names or node.llama_server is None:
        pytest.skip("the inventory serves no llama_server by name")
    return names[0]


def api_key(host: Any) -> str:
    key: str = host.check_output("cat /etc/homeport/secrets/llama_server.api_key")
    return key.strip()


@pytest.fixture(scope="module")
def client(node: Node, host: Any, seat: Seat) -> Iterator[openai.OpenAI]:
    with seat.client() as http:
        yield openai.OpenAI(
            base_url=f"https://{site(node)}/v1", api_key=api_key(host), http_client=http
        )


def alias(node: Node) -> str:
    assert node.llama_server is not None
    return node.llama_server.alias


def test_a_completion(client: openai.OpenAI, node: Node) -> None:
    answer = client.chat.completions.create(
        model=alias(node), messages=[{"role": "user", "content": "Say hello."}], max_tokens=8
    )
    assert answer.usage is not None
    assert answer.usage.completion_tokens > 0


def test_the_ca_of_this_machine_alone_does_not_do(node: Node, seat: Seat) -> None:
    """The answer above was verified: without the node's own CA there is none."""
    with seat.client(verify=True) as http, pytest.raises(httpx2.ConnectError, match="CERTIFICATE"):
        http.get(f"https://{site(node)}/health")


@pytest.mark.parametrize(("key", "status"), [("wrong", 401), ("", 401), ("right", 200)])
def test_the_key_decides(node: Node, host: Any, seat: Seat, key: str, status: int) -> None:
    headers = {}
    if key:
        headers["Authorization"] = f"Bearer {api_key(host) if key == 'right' else key}"
    with seat.client() as http:
        answer = http.post(
            f"https://{site(node)}/v1/chat/completions",
            headers=headers,
            json={
                "model": alias(node),
                "messages": [{"role": "user", "content": "x"}],
                "max_tokens": 1,
            },
        )
    assert answer.status_code == status


def png(width: int = 64, height: int = 64) -> str:
    """A red picture as a data: URL."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + b"\xff\0\0" * width for _ in range(height))
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    picture = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, data) for kind, data in parts)
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def test_an_image_is_accepted_and_answered(client: openai.OpenAI, node: Node) -> None:
    def ask(*parts: Any) -> int:
        answer = client.chat.completions.create(
            model=alias(node), messages=[{"role": "user", "content": list(parts)}], max_tokens=8
        )
        assert answer.usage is not None
        assert answer.usage.completion_tokens > 0
        return answer.usage.prompt_tokens

    text: dict[str, Any] = {"type": "text", "text": "What colour is this?"}
    image: dict[str, Any] = {"type": "image_url", "image_url": {"url": png()}}
    # The picture reached the model, and was not just dropped: it costs tokens of the prompt.
    assert ask(text, image) > ask(text)


def test_a_stream_streams(client: openai.OpenAI, node: Node) -> None:
    assert stream(client, alias(node)).complaint() == ""


class _Buffering(BaseHTTPRequestHandler):
    """A proxy that reads the whole answer before it passes any of it on."""

    upstream: httpx2.Client
    base: str

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.upstream.post(
            f"{self.base}{self.path}",
            content=body,
            headers={
                "Authorization": self.headers["Authorization"],
                "Content-Type": "application/json",
            },
            timeout=300,  # the whole answer comes at once, on a slow machine late
        )
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers["Content-Type"])
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_buffering_proxy_between_is_found(node: Node, host: Any, seat: Seat) -> None:
    """The check above can fail: the same stream through a proxy that buffers is refused."""
    with seat.client() as http:
        handler = type(
            "Handler", (_Buffering,), {"upstream": http, "base": f"https://{site(node)}"}
        )
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            through = openai.OpenAI(
                base_url=f"http://127.0.0.1:{server.server_port}/v1", api_key=api_key(host)
            )
            assert stream(through, alias(node)).complaint().endswith("buffered")
        finally:
            server.shutdown()
            server.server_close()
