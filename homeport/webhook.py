"""A webhook: an address that takes JSON by POST, and may hold a token in any part of it.

The address is never printed whole: messages show its scheme, host and port. Proxies and
certificates are those of the desk (`https_proxy`, `no_proxy`, `SSL_CERT_FILE`, the system's CAs).
"""

import re
from typing import Any

import gevent
import httpx2

from homeport.spec import SpecError, is_port

# Seconds for everything that one check has to say, from looking up the name to the last answer.
PATIENCE = 10.0
# The answers 4xx that are not about the one message, but about the address, the token or the time.
CLOSED = (401, 403, 404, 408, 410, 429)


class Webhook:
    """The webhook at an address. Raises `SpecError` for what is not an http(s) address."""

    def __init__(self, text: str) -> None:
        try:
            self.url = httpx2.URL(text)
            host, port = self.url.host, self.url.port
        except (httpx2.InvalidURL, ValueError):
            raise _wrong() from None  # what it says quotes the address
        plain = text.isprintable() and " " not in text and re.fullmatch(r"[\w.:-]+", host)
        if not plain or self.url.scheme not in ("http", "https"):
            raise _wrong()
        if port is not None and not is_port(port):
            raise _wrong()
        host = f"[{host}]" if ":" in host else host
        self.shown = f"{self.url.scheme}://{host}{f':{port}' if port else ''}/…"

    def client(self) -> httpx2.Client:
        """A client to `post` with. Raises what `FAULTS` names when the desk's settings are wrong.

        A redirect is not followed: it would turn the POST into a GET.
        """
        return httpx2.Client(timeout=PATIENCE, follow_redirects=False)

    def post(self, client: httpx2.Client, message: dict[str, Any]) -> int:
        """Send `message`; the status of the answer, any 2xx when it was taken.

        Its caller bounds the time, with `deadline`.
        """
        with client.stream("POST", self.url, json=message) as answer:  # its body is not wanted
            return answer.status_code


def was_taken(status: int) -> bool:
    """Whether a webhook that answers `status` took the message."""
    return 200 <= status < 300


def is_closed(status: int) -> bool:
    """Whether a webhook that did not take a message, answering `status`, would take no other."""
    return not 400 <= status < 500 or status in CLOSED


# What can go wrong with a client and a POST: the network, TLS, a proxy's address, its scheme.
FAULTS = (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError, ImportError)


def words_of(fault: Exception) -> str:
    """What to say of one of `FAULTS`.

    The words of the system and of TLS are shown. Those of others may quote the address, or a
    proxy's with its password.
    """
    name = type(fault).__name__
    return f"{name}: {fault}" if isinstance(fault, (httpx2.NetworkError, OSError)) else name


def deadline(seconds: float) -> Any:
    """A context that ends what waits in it after `seconds`, silently.

    The client's own timeout is for each read: a webhook that sends byte by byte would hold a
    check for ever, and so would a name server.
    """
    return gevent.Timeout(seconds, False)


def _wrong() -> SpecError:
    return SpecError(
        "--tell: must be an address such as https://hooks.example/…: http or https, a host, "
        "no spaces; it is not shown here, for it may hold a token"
    )
