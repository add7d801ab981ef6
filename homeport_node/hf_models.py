"""The models on the node: what is there, whether it is whole, which links point where.

    <directory>/<link>                      relative link to <name>/<commit>/<file>
    <directory>/<name>/<commit>/<file>      only files that were verified
    <directory>/<name>/<commit>.json        the manifest: sizes, sha256, times when verified
    <directory>/<name>/<commit>.partial/    what a download has fetched so far

A manifest is written before its commit's first file, so it also remembers which commit a branch
stood for. What is wanted is the file /etc/homeport/hf_models.json, which `deploys/hf_models.py`
writes. `homeport_node.hf_models_sync` downloads.
"""

import contextlib
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homeport_node.common import read, sha256_file

SPEC = "/etc/homeport/hf_models.json"
MODE = 0o644  # engines do not run as root
COMMIT = re.compile(r"[0-9a-f]{40}")
Document = dict[str, Any]


def manifest_path(directory: str, name: str, commit: str) -> Path:
    """Where the manifest of `commit` is."""
    return Path(directory, name, f"{commit}.json")


def manifests(directory: str, name: str) -> dict[str, Document]:
    """Every readable manifest of the model `name`, by commit."""
    found = {}
    for path in sorted(Path(directory, name).glob("*.json")):
        try:
            value = json.loads(read(path) or "")
        except ValueError:
            continue
        if COMMIT.fullmatch(path.stem) and isinstance(value.get("files"), dict):
            found[path.stem] = value
    return found


def fault(path: Path, record: Document) -> str:
    """What a look at its size, time and mode finds wrong with a file; "" when nothing."""
    try:
        status = path.stat()
    except OSError:
        return "missing"
    if status.st_size != record["size"]:
        return f"{status.st_size} bytes instead of {record['size']}"
    if record["mtime_ns"] is None:
        return "not verified"
    if status.st_mtime_ns != record["mtime_ns"]:
        return "touched since it was verified"
    return wrong_mode(path)


def wrong_mode(path: Path) -> str:
    """What is wrong with the mode of a file that all may read and its owner alone may write."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return "" if mode & 0o446 == 0o444 else f"mode {mode:o} instead of {MODE:o}"


def faults(directory: str, name: str, commit: str, manifest: Document) -> dict[str, str]:
    """The `fault` of each file of a manifest that has one."""
    folder = Path(directory, name, commit)
    found = {path: fault(folder / path, record) for path, record in manifest["files"].items()}
    return {path: text for path, text in found.items() if text}


def _walk(directory: str) -> Iterator[str]:
    """Paths of the symbolic links under `directory`, outside the commits' own folders."""
    for folder, folders, names in os.walk(directory):
        for name in sorted(folders + names):
            if Path(folder, name).is_symlink():
                yield os.path.relpath(f"{folder}/{name}", directory)
        folders[:] = [name for name in folders if not COMMIT.match(name)]


def links(directory: str) -> dict[str, str]:
    """The links of ours under `directory` and their own text: those that lead into a commit."""
    found = {}
    for path in _walk(directory):
        text = str(Path(directory, path).readlink())
        inside = os.path.normpath(f"{Path(path).parent}/{text}").split("/")
        if not text.startswith("/") and len(inside) > 2 and COMMIT.fullmatch(inside[1]):
            found[path] = text
    return found


def link_text(link: str, name: str, commit: str, file: str) -> str:
    """The relative text of the link at `link` (relative to the directory) to a model's file."""
    return os.path.relpath(f"{name}/{commit}/{file}", Path(link).parent)


def chosen(model: Document, commits: dict[str, Document], linked: dict[str, str]) -> str:
    """The commit that `model` stands for: the locked one, else the one that was kept; or "".

    Without a lock a branch is looked up once. Afterwards the node keeps that commit, whatever
    the Hub says, until a lock or another revision asks for another. A linked one goes first.
    """
    if model["commit"]:
        return str(model["commit"])
    asked = (model["repo"], model["revision"])
    kept = [c for c, entry in commits.items() if (entry["repo"], entry["revision"]) == asked]
    serving = [c for c in kept if any(f"{model['name']}/{c}/" in text for text in linked.values())]
    return (serving or kept or [""])[0]


def _open_files(process: Path) -> Iterator[str]:
    """The paths that a process has mapped or open; what has vanished meanwhile is left out."""
    yield read(process / "maps") or ""
    with contextlib.suppress(OSError):
        for entry in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(entry.readlink())


def in_use(commits: set[str]) -> list[str]:
    """Those of `commits` whose files some process has open or mapped, in whatever container."""
    used: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        text = "\n".join(_open_files(process))
        used |= {commit for commit in commits - used if f"/{commit}/" in text}
    return sorted(used)


def _tree(directory: str) -> dict[str, dict[str, Document]]:
    names = {path.parent.name for path in Path(directory).glob("*/*.json")} if directory else set()
    tree = {}
    for name in sorted(names):
        commits = manifests(directory, name)
        for commit, entry in commits.items():
            entry["faults"] = faults(directory, name, commit, entry)
        if commits:
            tree[name] = commits
    return tree


def _document(path: str) -> Document | None:
    try:
        value = json.loads(read(path) or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) and "directory" in value else None


def observe(directory: str, wanted: list[str], spec: str = SPEC) -> Document:
    """What is under `directory` ("" when no models are wanted).

    {"links": {"model.gguf": "gemma/<commit>/x.gguf"},
     "taken": ["mmproj.gguf"],               wanted link names that a file or directory occupies
     "models": {"gemma": {"<commit>": {"repo": …, "revision": …, "patterns": […],
                "files": {"x.gguf": {"size": 1, "sha256": "…", "mtime_ns": 1}},
                "faults": {"x.gguf": "missing"}}}},
     "in_use": ["<commit>"],                 of the commits that no link leads to
     "elsewhere": {"/old": ["model.gguf"]}}  links of ours in a directory used before
    """
    ours = links(directory) if directory else {}
    # Whatever link has a wanted name is shown too: it holds no data, and may be replaced.
    strange = [name for name in wanted if name not in ours and Path(directory, name).is_symlink()]
    shown = {**ours, **{name: str(Path(directory, name).readlink()) for name in strange}}
    taken = [name for name in wanted if name not in shown and Path(directory, name).exists()]
    models = _tree(directory)
    unlinked = {
        commit
        for commits in models.values()
        for commit in commits
        if not any(f"{commit}/" in text for text in ours.values())
    }
    before = (_document(spec) or {}).get("directory", directory)
    return {
        "links": shown,
        "taken": taken,
        "models": models,
        "in_use": in_use(unlinked) if unlinked else [],
        "elsewhere": {} if before == directory else {before: sorted(links(before))},
    }


def load(path: str = SPEC) -> Document:
    """What is wanted. Raises `SystemExit` when there is no such file."""
    document = _document(path)
    if document is None:
        raise SystemExit(f"{path}: no models are set up here: converge this node first")
    return document


def check(arguments: list[str]) -> int:
    """Check the wanted models without a network; `--quick` compares sizes and times only.

    Prints {"ok": …, "faults": {"name/file": "…"}}; the status is 2 when something differs.
    """
    document = load()
    directory = document["directory"]
    linked = links(directory)
    found = {}
    for model in document["models"]:
        name, commits = model["name"], manifests(directory, model["name"])
        commit = chosen(model, commits, linked)
        if commit not in commits:
            found[name] = "not downloaded"
            continue
        files = commits[commit]["files"]
        quick = faults(directory, name, commit, commits[commit])
        for path, record in files.items():
            text = quick.get(path, "")
            whole = Path(directory, name, commit, path)
            # A wrong size is told without a hash, and a changed time is none if the hash is right.
            if "--quick" not in arguments and whole.is_file() and "bytes" not in text:
                got = sha256_file(whole)
                text = "" if got == record["sha256"] else f"sha256 {got}, not {record['sha256']}"
            if text:
                found[f"{name}/{path}"] = text
        for link, file in model["links"].items():
            if linked.get(link) != link_text(link, name, commit, file):
                found[link] = f"leads to {linked.get(link, 'nothing')}"
    print(json.dumps({"ok": not found, "faults": found}, indent=2))
    return 2 if found else 0


def spare(
    document: Document, models: dict[str, dict[str, Document]], linked: dict[str, str]
) -> dict[str, list[str]]:
    """The commits, by model, that nothing wanted needs; none while a wanted one is incomplete."""
    wanted = {model["name"]: model for model in document["models"]}
    found = {}
    for name, commits in models.items():
        if name not in wanted:
            found[name] = sorted(commits) if document["prune"] else []
            continue
        keep = chosen(wanted[name], commits, linked)
        served = keep in commits and not commits[keep]["faults"]
        for link, file in wanted[name]["links"].items():
            served = served and linked.get(link) == link_text(link, name, keep, file)
        found[name] = sorted(set(commits) - {keep}) if served else []
    return {name: commits for name, commits in found.items() if commits}


def remove_commit(directory: str, name: str, commit: str) -> None:
    """Remove a commit's files, the manifest last, so that an interrupted removal goes on later."""
    for folder in (commit, f"{commit}.partial"):
        shutil.rmtree(Path(directory, name, folder), ignore_errors=True)
    manifest_path(directory, name, commit).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty: another commit, or something foreign
        Path(directory, name).rmdir()


def prune(arguments: list[str]) -> int:
    """Remove the commits that nothing wanted needs and no process has open."""
    document = load()
    directory = document["directory"]
    for name, commits in spare(document, _tree(directory), links(directory)).items():
        used = in_use(set(commits))
        for commit in commits:
            if commit in used:
                print(f"{name}: {commit} is kept: a process still has it open", file=sys.stderr)
            else:
                remove_commit(directory, name, commit)
                print(f"{name}: {commit} is removed")
    return 0


def sync(arguments: list[str]) -> int:
    """Download, verify and link what is wanted."""
    # Imported here, because the fact runs on nodes that have no huggingface_hub yet.
    from homeport_node import hf_models_sync

    return hf_models_sync.sync(load())


VERBS = {"sync": sync, "check": check, "prune": prune}
