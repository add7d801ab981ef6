"""Makes the models on the node what is wanted: downloaded, verified, and linked at the very end."""

import contextlib
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homeport_node.common import write_whole
from homeport_node.hf_models import (
    MODE,
    Document,
    chosen,
    fault,
    link_text,
    links,
    manifest_path,
    manifests,
    wrong_mode,
)
from homeport_node.hf_models_hub import LARGEST, MIB, Hub, sha256_progress

LOCK_WAIT_S = 600


def used_bytes(directory: str) -> int:
    """The bytes of all regular files below `directory`; those that vanish meanwhile count as 0."""
    total = 0
    for path in Path(directory).rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total


@contextlib.contextmanager
def exclusive(directory: str) -> Iterator[None]:
    """Hold the directory: a run whose connection broke may still be downloading."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        began, size = time.monotonic(), -1
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                waited = time.monotonic() - began
                now = used_bytes(directory)
                if now != size:  # it goes on: as long as it does, so do we
                    size, began = now, time.monotonic()
                if waited > LOCK_WAIT_S:
                    text = f"{directory}: another sync has got nothing for {LOCK_WAIT_S} s"
                    raise SystemExit(f"{text}: wait for it, or end it") from None
                value = {"what": "waiting for another sync, which has", "done": now, "total": 0}
                print(f"homeport-progress {json.dumps(value)}", flush=True)
                time.sleep(1)
        yield
    finally:
        fcntl.flock(handle, fcntl.LOCK_UN)
        os.close(handle)


class Plan:
    """What one model needs: its manifest, and the files that are not there yet."""

    def __init__(self, directory: str, model: Document, hub: Hub) -> None:
        self.directory, self.model, self.hub = directory, model, hub
        self.name = model["name"]
        commits = manifests(directory, self.name)
        commit = chosen(model, commits, links(directory))
        entry = commits.get(commit)
        asked = {"repo": model["repo"], "revision": model["revision"]}
        asked["patterns"] = sorted(model["patterns"])
        if model["commit"]:
            known = entry["files"] if entry else {}
            files = {f["path"]: self._locked(f, known) for f in model["files"]}
            entry = {**asked, "locked": True, "files": files}
        elif entry is None or sorted(entry["patterns"]) != asked["patterns"]:
            entry = {**hub.resolve(model, commit or model["revision"]), **asked}
            commit = entry.pop("commit")
            print(f"{self.name}: without a lock, {model['revision']} is {commit} here from now on")
        self.commit, self.manifest = commit, entry
        self.folder = Path(directory, self.name, commit)
        self.partial = Path(directory, self.name, f"{commit}.partial")
        self.others = {c: e["files"] for c, e in commits.items() if c != commit}

    @staticmethod
    def _locked(file: Document, known: dict[str, Document]) -> Document:
        record = {"size": file["size"], "sha256": file["sha256"], "mtime_ns": None}
        old = known.get(file["path"], {})
        if (old.get("size"), old.get("sha256")) == (file["size"], file["sha256"]):
            record["mtime_ns"] = old["mtime_ns"]
        return record

    def write(self) -> None:
        path = manifest_path(self.directory, self.name, self.commit)
        write_whole(path, f"{json.dumps(self.manifest, indent=1)}\n".encode(), 0o644)

    def twin(self, record: Document) -> Path | None:
        """A verified file with the same content in another commit of this model."""
        for commit, files in self.others.items():
            for path, other in files.items():
                whole = Path(self.directory, self.name, commit, path)
                if other["sha256"] == record["sha256"] and not fault(whole, other):
                    return whole
        return None

    def missing(self) -> int:
        """Bytes that are still to be downloaded. Refuses what the Hub does not serve this way."""
        total = 0
        for path, record in self.manifest["files"].items():
            if record["size"] > LARGEST:
                raise SystemExit(
                    f"{self.name}/{path}: {record['size']} bytes: the Hub serves files up to "
                    f"{LARGEST} bytes over HTTP: choose a variant that is split into parts"
                )
            whole, part = self.folder / path, self.partial / path
            if whole.is_file():
                whole.chmod(MODE)
                if wrong_mode(whole):
                    raise SystemExit(
                        f"{whole}: {wrong_mode(whole)}, and its file system keeps it so: mount "
                        "that with umask=022, or choose another `hf_models.directory`"
                    )
            if not fault(whole, record) or self.verified(whole, path, record):
                continue
            if not (record["sha256"] and self.twin(record)):
                total += record["size"] - (part.stat().st_size if part.exists() else 0)
        return max(total, 0)

    def verified(self, whole: Path, path: str, record: Document) -> bool:
        """Whether a file of the right size, whose time alone is strange, has the right hash."""
        if not whole.is_file() or whole.stat().st_size != record["size"] or not record["sha256"]:
            return False
        if sha256_progress(whole, f"{self.name}/{path}", record["size"]) != record["sha256"]:
            return False
        self.record(whole, record)
        return True

    def record(self, whole: Path, record: Document) -> None:
        record["mtime_ns"] = whole.stat().st_mtime_ns
        self.write()

    def fetch(self) -> None:
        """Bring every file, each verified before it is where readers look."""
        for path, record in self.manifest["files"].items():
            whole = self.folder / path
            if not fault(whole, record):
                continue
            whole.parent.mkdir(parents=True, exist_ok=True)
            twin = self.twin(record) if record["sha256"] else None
            part = self.partial / path
            if twin:
                part.parent.mkdir(parents=True, exist_ok=True)
                part.unlink(missing_ok=True)
                os.link(twin, part)
            else:
                self.download(part, path, record)
            part.replace(whole)
            self.record(whole, record)
        shutil.rmtree(self.partial, ignore_errors=True)

    def download(self, part: Path, path: str, record: Document) -> None:
        """Download and verify one file. One that is wrong is removed, and the run ends."""
        what, wanted = f"{self.name}/{path}", record["sha256"]
        resumed = part.exists() and part.stat().st_size > 0
        self.hub.fetch(self.model, self.commit, path, part, record["size"])
        size = part.stat().st_size
        got = sha256_progress(part, what, record["size"])
        if size == record["size"] and got == (wanted or got):
            record["sha256"] = got
            part.chmod(MODE)
            return
        part.unlink()
        if resumed:
            # What an earlier run had fetched may be what was wrong: once more, from nothing.
            print(
                f"{what}: the resumed download is wrong; starting from the first byte", flush=True
            )
            self.download(part, path, record)
            return
        raise SystemExit(
            f"{what}: the download is wrong and was removed: wanted {record['size']} bytes, "
            f"sha256 {wanted or 'unknown'}, got {size} bytes, sha256 {got}: the links stay as "
            "they were; converge again, and if it stays wrong make the lock anew with "
            "`bin/homeport lock`"
        )

    def drop_abandoned(self) -> None:
        """Remove what a download of another commit, no longer wanted, left behind."""
        for path in Path(self.directory, self.name).glob("*.partial"):
            if path != self.partial:
                shutil.rmtree(path, ignore_errors=True)


def check_disk(directory: str, need: int, headroom_mib: int) -> None:
    """Refuse, before the first byte, what the file system of `directory` cannot hold."""
    free = shutil.disk_usage(directory).free
    wanted = need + headroom_mib * MIB
    if need and free < wanted:
        raise SystemExit(
            f"{directory}: the disk is too small: {need} bytes ({need / MIB:.0f} MiB) are to be "
            f"downloaded and {headroom_mib} MiB stay free, which needs {wanted} bytes; "
            f"{free} bytes ({free / MIB:.0f} MiB) are free: make room for {wanted - free} bytes, "
            "or choose another `hf_models.directory`"
        )


def relink(directory: str, wanted: dict[str, str]) -> None:
    """Point every wanted link where it belongs, each in one step, and remove our other ones."""
    ours = links(directory)
    for link, text in wanted.items():
        if ours.get(link) == text:
            continue
        path = Path(directory, link)
        if path.exists() and not path.is_symlink():
            raise SystemExit(f"{path}: is in the way: it is no link: move it away")
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(text)
        temporary.replace(path)
    for link in ours.keys() - wanted.keys():
        Path(directory, link).unlink(missing_ok=True)


def sync(document: dict[str, Any]) -> int:
    """Make the node's models what `document` wants. Raises `SystemExit` saying why it could not."""
    os.umask(0o022)  # under sudo it may be stricter, and the engine does not run as root
    directory = document["directory"]
    try:
        Path(directory).mkdir(parents=True, exist_ok=True)
        with exclusive(directory):
            _sync(directory, document)
    except OSError as error:
        raise SystemExit(f"{directory}: {error}: the links stay as they were") from error
    return 0


def _sync(directory: str, document: dict[str, Any]) -> None:
    hub = Hub(document["endpoint"])
    plans = [Plan(directory, model, hub) for model in document["models"]]
    for plan in plans:
        plan.drop_abandoned()
    check_disk(directory, sum(plan.missing() for plan in plans), document["headroom_mib"])
    wanted = {}
    for plan in plans:
        plan.write()
        plan.fetch()
        for link, file in plan.model["links"].items():
            wanted[link] = link_text(link, plan.name, plan.commit, file)
    relink(directory, wanted)
