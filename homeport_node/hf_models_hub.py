"""The Hub as a node sees it: what a revision holds, and files, resumed where they broke off.

huggingface_hub 2.4 finds names and addresses, and words the Hub's refusals. The bytes are fetched
here: its own `hf_hub_download` writes to a temporary file with a random name and deletes it on
failure (`file_download._download_to_tmp_and_move`), so it never resumes what another process
began, and hands over 10 MiB at a time. Plain HTTP with Range is used, not Xet, for the same
reason; the Hub serves files up to 50 GB that way (`constants.MAX_HTTP_DOWNLOAD_SIZE`).

Progress is a line about every second, with bytes done and in total:
homeport-progress {"what": "download gemma/x.gguf", "done": 1048576, "total": 4194304}
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (
    build_hf_headers,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
)

from homeport_node.common import SECRETS, read
from homeport_node.hf_models import Document

TOKEN = f"{SECRETS}/hf_models.token"
MIB = 1 << 20
LARGEST = constants.MAX_HTTP_DOWNLOAD_SIZE
TIMEOUT_S = 30
# Attempts in a row that bring no byte before a download gives up; waits are 1, 2, 4, 8 times this.
ATTEMPTS = 5
WAIT_S = 1


class Progress:
    """Prints how far one long step is, at most once a second and at its end."""

    def __init__(self, what: str, done: int, total: int) -> None:
        self.what, self.done, self.total, self.last = what, done, total, 0.0

    def at(self, done: int) -> None:
        self.done = done
        if time.monotonic() - self.last >= 1 or done >= self.total:
            self.last = time.monotonic()
            line = {"what": self.what, "done": done, "total": self.total}
            print("homeport-progress", json.dumps(line), flush=True)


class Hub:
    """The Hub at `endpoint`, in clear words when it refuses or does not answer."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint or constants.ENDPOINT
        token = (read(TOKEN) or "").strip()
        # False: never a token that lies about in some account's home.
        self.token: str | bool = token or False

    @contextlib.contextmanager
    def in_words(self, what: str) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            raise SystemExit(self._refusal(what, error)) from error
        except httpx2.TransportError as error:
            text = f"{what}: the Hub at {self.endpoint} does not answer ({error})"
            remedy = "check the node's network, or `sources.hub` in the targets file; "
            raise SystemExit(f"{text}: {remedy}what was fetched so far is kept") from error

    def _refusal(self, what: str, error: HfHubHTTPError) -> str:
        status = error.response.status_code
        text = f"{what}: the Hub at {self.endpoint} answers {status}"
        said = error.server_message or str(error).splitlines()[0]
        if status in (401, 403):
            have = "refused the token" if self.token else "wants a token"
            remedy = f"it {have}: accept the repository's terms on the Hub and give a token"
            return f"{text} ({said}): {remedy} as the secret hf_models.token"
        if status == 404:
            return f"{text} ({said}): check `repo` and `revision` in the inventory"
        return f"{text} ({said}): try again later; what was fetched so far is kept"

    def resolve(self, model: Document, revision: str) -> Document:
        """The manifest of `model` at `revision`, from the Hub's own metadata."""
        what = f"{model['name']}: {model['repo']}@{revision}"
        with self.in_words(what):
            api = HfApi(endpoint=self.endpoint, token=self.token)
            info = api.model_info(
                model["repo"], revision=revision, files_metadata=True, timeout=TIMEOUT_S
            )
        siblings = info.siblings or []
        for pattern in model["patterns"]:
            if not list(
                filter_repo_objects([s.rfilename for s in siblings], allow_patterns=pattern)
            ):
                names = ", ".join(sorted(s.rfilename for s in siblings)[:8])
                raise SystemExit(f"{what}: no file matches {pattern!r}; it has: {names}")
        files = {
            s.rfilename: {
                "size": s.lfs.size if s.lfs else s.size,
                # The Hub knows the sha256 of LFS files only; others get theirs when they arrive.
                "sha256": s.lfs.sha256 if s.lfs else None,
                "mtime_ns": None,
            }
            for s in filter_repo_objects(
                siblings, allow_patterns=model["patterns"], key=lambda s: s.rfilename
            )
        }
        return {"commit": info.sha, "locked": False, "files": files}

    def fetch(self, model: Document, commit: str, path: str, part: Path, size: int) -> None:
        """Complete `part`, which holds the first bytes of the file or does not exist yet."""
        what = f"{model['name']}/{path}"
        url = hf_hub_url(model["repo"], path, revision=commit, endpoint=self.endpoint)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        failed = 0
        while (have := part.stat().st_size) < size:
            try:
                self._receive(url, part, have, Progress(f"download {what}", have, size))
                problem: Exception = httpx2.RemoteProtocolError("the connection ended early")
            except httpx2.TransportError as error:
                problem = error
            except HfHubHTTPError as error:
                if error.response.status_code not in (408, 429, 500, 502, 503, 504):
                    with self.in_words(what):
                        raise
                problem = error
            if part.stat().st_size < size:
                failed = 1 if part.stat().st_size > have else failed + 1
                if failed >= ATTEMPTS:
                    with self.in_words(what):
                        raise problem
                time.sleep(WAIT_S * 2 ** (failed - 1))

    def _receive(self, url: str, part: Path, have: int, progress: Progress) -> None:
        headers = build_hf_headers(token=self.token)
        # Compressed, the bytes could neither be counted nor resumed.
        headers["Accept-Encoding"] = "identity"
        if have:
            headers["Range"] = f"bytes={have}-"
        with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S) as response:
            hf_raise_for_status(response)
            span = response.headers.get("Content-Range", "")
            resumed = response.status_code == 206 and span.startswith(f"bytes {have}-")
            with open(part, "ab" if resumed else "wb") as file:
                # Chunks as they arrive: a larger size would lose what it had gathered.
                for chunk in response.iter_bytes():
                    file.write(chunk)
                    progress.at(file.tell())
                    if file.tell() > progress.total:
                        break
                file.flush()
                os.fsync(file.fileno())


def sha256_progress(path: Path, what: str, size: int) -> str:
    """The sha256 of the file at `path`, in hex, with progress."""
    digest, progress = hashlib.sha256(), Progress(f"verify {what}", 0, size)
    with open(path, "rb") as file:
        while chunk := file.read(4 * MIB):
            digest.update(chunk)
            progress.at(file.tell())
    return digest.hexdigest()
