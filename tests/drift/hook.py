"""A webhook for tests, which shows what it got and misbehaves when it is asked to."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# The part of its address that must show nowhere.
TOKEN = "t0ken"


class Hook:
    """A webhook on loopback: what it got, and what it answers; `drips` never comes to an end."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.requests: list[str] = []
        self.status, self.drips, self.dripping = 200, False, 0
        self.refuses = ""  # the host of which it takes no message
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.requests.append(self.requestline)
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                hook.dripping += hook.drips
                while hook.drips:
                    try:
                        self.wfile.write(b"H")
                    except OSError:
                        hook.dripping -= 1
                        return
                    time.sleep(0.02)
                status = 422 if body["host"] == hook.refuses else hook.status
                if status == 200:
                    hook.got.append(body)
                self.send_response(status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}/{TOKEN}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def states(self) -> list[str]:
        return [one["state"] for one in self.got]

    def close(self) -> None:
        self.drips = False
        self.server.shutdown()
        self.server.server_close()
