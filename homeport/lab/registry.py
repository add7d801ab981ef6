"""Putting images into the lab's registry, uncompressed.

`docker push` compresses every layer, and every lab node would unpack it again on its two cores. On
the lab's own network bytes are cheaper than that: the layers go in as the plain tar archives that
`docker save` gives, whose digest is the one in the image's own configuration.
"""

import hashlib
import http.client
import json
import socket
import ssl
import tarfile
from collections.abc import Iterator
from typing import IO, Any

from homeport.lab import LabError
from homeport.lab.engine import Engine

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar"
LAYER_GZIP = f"{LAYER}.gzip"
PIECE = 4 << 20  # bytes


class Connection(http.client.HTTPSConnection):
    """HTTPS to `address`, whose certificate must be for `name`."""

    def __init__(self, name: str, address: str, port: int, certificate: str) -> None:
        context = ssl.create_default_context(cadata=certificate)
        super().__init__(name, port, context=context, timeout=120)
        self._address = address
        self._ssl = context

    def connect(self) -> None:
        plain = socket.create_connection((self._address, self.port), timeout=120)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = self._ssl.wrap_socket(plain, server_hostname=self.host)


class Registry:
    """The lab's registry, as whoever fills it sees it."""

    def __init__(self, name: str, address: str, port: int, certificate: str) -> None:
        self._connection = Connection(name, address, port, certificate)

    def _ask(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> http.client.HTTPResponse:
        given = {key.replace("_", "-"): value for key, value in headers.items()}
        try:
            self._connection.request(method, path, body, given)
            answer = self._connection.getresponse()
            answer.data = answer.read()  # type: ignore[attr-defined]
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise LabError(f"the lab's registry: {method} {path}: {error}") from error
        if answer.status >= 400 and not (method == "HEAD" and answer.status == 404):
            said = answer.data.decode(errors="replace")  # type: ignore[attr-defined]
            raise LabError(f"the lab's registry: {method} {path}: {answer.status} {said[:500]}")
        return answer

    def digest(self, path: str, tag: str) -> str:
        """The digest of the manifest that `path:tag` stands for, or ""."""
        answer = self._ask("HEAD", f"/v2/{path}/manifests/{tag}", Accept=MANIFEST)
        return answer.headers.get("Docker-Content-Digest", "") if answer.status == 200 else ""

    def push(self, engine: Engine, image: str, path: str, tag: str) -> str:
        """Put `image` of `engine` in as `path:tag`; returns the manifest's digest."""
        blobs: dict[str, dict[str, Any]] = {}
        links: dict[str, str] = {}
        texts: dict[str, bytes] = {}
        with engine.stream("save", image) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.issym() or member.islnk():
                    links[member.name] = _beside(member)
                if not member.isfile():
                    continue
                file = tar.extractfile(member)
                assert file is not None
                if member.name.endswith((".json", "VERSION", "repositories", "oci-layout")):
                    texts[member.name] = file.read()
                else:
                    blobs[member.name] = self._upload(path, file)
            stream.read()
        return self._manifest(path, tag, blobs, links, texts)

    def _manifest(
        self,
        path: str,
        tag: str,
        blobs: dict[str, dict[str, Any]],
        links: dict[str, str],
        texts: dict[str, bytes],
    ) -> str:
        saved = json.loads(texts["manifest.json"])[0]
        config = blobs.get(saved["Config"])
        if config is None:
            config = self._upload(path, _Bytes(texts[saved["Config"]]))
        layers = [blobs[links.get(name, name)] for name in saved["Layers"]]
        body = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": {**config, "mediaType": CONFIG},
                "layers": layers,
            },
            sort_keys=True,
        ).encode()
        self._ask("PUT", f"/v2/{path}/manifests/{tag}", body, Content_Type=MANIFEST)
        return f"sha256:{hashlib.sha256(body).hexdigest()}"

    def _upload(self, path: str, file: "IO[bytes] | _Bytes") -> dict[str, Any]:
        """Upload what `file` holds as a blob of the repository `path`: its descriptor."""
        where = self._ask("POST", f"/v2/{path}/blobs/uploads/").headers["Location"]
        digest, size, kind = hashlib.sha256(), 0, LAYER

        def pieces() -> Iterator[bytes]:
            nonlocal size, kind
            while piece := file.read(PIECE):
                if size == 0 and piece[:2] == b"\x1f\x8b":
                    kind = LAYER_GZIP  # an engine with containerd's store keeps them compressed
                digest.update(piece)
                size += len(piece)
                yield piece

        kind_of_body = "application/octet-stream"
        answer = self._ask("PATCH", _local(where), pieces(), Content_Type=kind_of_body)
        name = f"sha256:{digest.hexdigest()}"
        where = _local(answer.headers["Location"])
        self._ask("PUT", f"{where}{'&' if '?' in where else '?'}digest={name}")
        return {"mediaType": kind, "size": size, "digest": name}


class _Bytes:
    """Bytes with a `read`, as a file has it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece


def _beside(member: tarfile.TarInfo) -> str:
    """The name in the archive that a link, as `docker save` writes it, stands for."""
    if member.islnk():
        return member.linkname
    parts = member.name.split("/")[:-1]
    for part in member.linkname.split("/"):
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def _local(address: str) -> str:
    """The path and query of `address`."""
    return "/" + address.split("/", 3)[3] if "://" in address else address
