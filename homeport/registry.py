"""Which digest an image's tag stands for, asked of its registry.

The OCI distribution specification 1.1: HEAD /v2/<name>/manifests/<tag>, after the token that the
registry's `WWW-Authenticate: Bearer` names, as ghcr.io and docker.io ask for it. No library of
PyPI does this one question more simply than the HTTP client that huggingface_hub brings along.
"""

import hashlib
import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from pyinfra.api.exceptions import PyinfraError

from homeport.pins import IMAGE_NAME
from homeport.targets import Sources

TIMEOUT_S = 30
# An index first: its digest stands for the image on every platform.
MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class ResolveError(PyinfraError):
    """A name of the inventory that its registry or Hub does not resolve, and what to do."""


def tls(sources: Sources) -> ssl.SSLContext:
    """Trusts what this machine trusts and the certificates of `sources` besides."""
    context = ssl.create_default_context()
    for number, text in enumerate(sources.ca_certificates):
        try:
            context.load_verify_locations(cadata=text)
        except ssl.SSLError as error:
            what = f"sources.ca_certificates: certificate {number + 1} is not PEM: {error}"
            raise ResolveError(f"{what}: give files that begin with BEGIN CERTIFICATE") from error
    return context


def _api(registry: str) -> str:
    """The address of a registry's API."""
    # Docker Hub is named docker.io everywhere and answers elsewhere.
    host = {"docker.io": "registry-1.docker.io"}.get(registry, registry)
    # Docker itself takes loopback registries without TLS.
    name = host.partition(":")[0]
    plain = name == "localhost" or name.startswith("127.")
    return f"{'http' if plain else 'https'}://{host}/v2"


def _token(client: httpx2.Client, challenge: str) -> str:
    """The token that a `WWW-Authenticate` header sends us for. Raises `ResolveError`."""
    scheme, _, rest = challenge.partition(" ")
    fields = dict(re.findall(r'(\w+)="([^"]*)"', rest))
    realm = fields.pop("realm", "")
    if scheme.lower() != "bearer" or not realm:
        raise ResolveError(f"it asks for {scheme or 'no known kind of'} authentication")
    answer = client.get(realm, params=fields)
    answer.raise_for_status()
    body = answer.json()
    return str(body.get("token") or body.get("access_token") or "")


def _digest(client: httpx2.Client, url: str) -> str:
    headers = {"Accept": ", ".join(MANIFESTS)}
    answer = client.head(url, headers=headers)
    if answer.status_code == 401:
        token = _token(client, answer.headers.get("WWW-Authenticate", ""))
        headers["Authorization"] = f"Bearer {token}"
        answer = client.head(url, headers=headers)
    answer.raise_for_status()
    digest = answer.headers.get("Docker-Content-Digest", "")
    if not digest:
        # The header is optional; the digest is by definition the hash of the manifest's bytes.
        answer = client.get(url, headers=headers)
        answer.raise_for_status()
        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
    if not DIGEST.fullmatch(digest):
        raise ResolveError(f"it answered {digest!r}, which is no sha256 digest")
    return digest


@contextmanager
def _in_words(what: str, registry: str) -> Iterator[None]:
    try:
        yield
    except httpx2.HTTPStatusError as error:
        status = error.response.status_code
        remedy = {
            401: "Homeport locks images that need no login: check the name",
            403: "Homeport locks images that need no login: check the name",
            404: "there is no such image or tag: check the name",
            429: "it has had too many requests from here: try again later",
        }.get(status, "try again later")
        raise ResolveError(f"{what}: {registry} answers {status}: {remedy}") from error
    except httpx2.HTTPError as error:
        remedy = "check this machine's network, or `sources.registries` in the targets file"
        raise ResolveError(f"{what}: {registry} does not answer ({error}): {remedy}") from error
    except (ValueError, ResolveError) as error:
        remedy = "check that `sources.registries` names a registry"
        raise ResolveError(f"{what}: {registry}: {error}: {remedy}") from error


def resolve_image(name: str, sources: Sources) -> str:
    """The digest ("sha256:…") that the image `name`, registry/path:tag, stands for now.

    Raises `ResolveError` with the cause and the remedy.
    """
    match = IMAGE_NAME.fullmatch(name)
    assert match is not None, "Image.validate lets nothing else pass"
    registry = sources.registries.get(match["registry"], match["registry"])
    path = match["path"]
    if registry == "docker.io" and "/" not in path:
        path = f"library/{path}"
    with (
        _in_words(f"image {name}", registry),
        httpx2.Client(verify=tls(sources), timeout=TIMEOUT_S, follow_redirects=True) as client,
    ):
        return _digest(client, f"{_api(registry)}/{path}/manifests/{match['tag']}")
