"""Models from the Hugging Face Hub, each commit in its own directory, behind stable links.

Ensures that the files of every model are on the node, verified by size and sha256, and that the
links the engine reads (`model.gguf`) lead to them, relatively, so that they mean the same inside
a container that mounts the directory. The node downloads by itself (`homeport-node hf_models
sync`): what broke off is resumed, the free disk is checked before the first byte, and the links
move only when everything is verified. So a failure of any kind leaves the old model serving.

Without a lock a revision such as `main` is looked up once and then kept, hashes come from the
Hub's own metadata, and the run says so.

The commits that nothing needs any more are removed by `prune`, at the end of a run, when the new
one serves: every link leads to it, it is whole, and no process has the old one's files open.

How it fails: disk too small, Hub away, hash wrong: the program's words, and the next converge
goes on where this one stopped. Undo: `None` removes the links and the list; data stay. A model
that is no longer listed loses its links; with `prune=True` its data go too.
"""

import dataclasses
import io
import json
import shlex
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation
from pyinfra.operations import files

from deploys.aboard import ENTRY
from deploys.secrets import Secret
from homeport.capability import Capability
from homeport.differs import Pair, differs, listed
from homeport.observe import NodeFact
from homeport.pins import HubRepo
from homeport.refuse import refuse
from homeport.spec import Spec, is_inside
from homeport.targets import Target
from homeport_node import hf_models as node

HEADER = "Managed by Homeport (hf_models). Changes are replaced by the next converge."


def _glob(pattern: str) -> str:
    """`pattern` as huggingface_hub reads it: `folder/` stands for what is in the folder."""
    return f"{pattern}*" if pattern.endswith("/") else pattern


@dataclass(frozen=True, kw_only=True, slots=True)
class Model(Spec):
    """One model: files of a repository, and the links that lead to them.

    `name` is its directory's name. `links` maps a link, relative to the models' directory, to a
    file of the repository.
    """

    STEM = "hf_models.model"

    name: str
    source: HubRepo
    links: dict[str, str]

    def validate(self) -> None:
        single = len(PurePosixPath(self.name).parts) == 1 and not self.name.startswith(".")
        self.require(
            "name",
            single and is_inside(self.name) and "\0" not in self.name,
            "must be one plain directory name, because the model's commits lie under it",
        )
        for link, file in self.links.items():
            self._require_link(link, file)

    def _require_link(self, link: str, file: str) -> None:
        self.require(
            "links",
            is_inside(link) and str(PurePosixPath(link)) == link,
            f"must not hold the link {link!r}: a link is a relative path inside the models' "
            "directory, because containers see that directory alone",
        )
        self.require(
            "links",
            is_inside(file) and str(PurePosixPath(file)) == file,
            f"must not lead to {file!r}: a link leads to a file by its path in the repository",
        )
        self.require(
            "links",
            any(fnmatchcase(file, _glob(pattern)) for pattern in self.source.patterns),
            f"must not lead to {file!r}: no pattern of the source matches it, so it would not "
            "be downloaded",
        )
        locked = [known.path for known in self.source.files]
        self.require(
            "links",
            not locked or file in locked,
            f"must not lead to {file!r}: the lock has no such file of {self.source.repo}, "
            f"it has {', '.join(locked)}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HfModels(Spec):
    """The models under `directory`.

    `headroom_mib` (MiB) stays free on its file system. `prune` also removes the data of models
    that are no longer listed.
    """

    STEM = "hf_models"

    directory: str = "/srv/homeport/models"
    models: tuple[Model, ...]
    headroom_mib: int = 1024
    prune: bool = False

    def validate(self) -> None:
        path = PurePosixPath(self.directory)
        self.require(
            "directory",
            path.is_absolute() and len(path.parts) > 2 and ".." not in path.parts,
            "must be an absolute path below a top-level directory, because it is ours alone",
        )
        self.require(
            "directory",
            not set(self.directory) & set(":$\n"),
            "must not hold ':', '$' or a line break, which mean something else to Compose",
        )
        self.require("headroom_mib", self.headroom_mib >= 0, "must be 0 MiB or more")
        names = [model.name for model in self.models]
        self.require(
            "models",
            len(set(names)) == len(names),
            "must not hold the same name twice: a directory",
        )
        links = [link for model in self.models for link in model.links]
        for link in links:
            self.require(
                "models",
                links.count(link) == 1,
                f"must not hold the link {link!r} twice: it can lead to one file only",
            )
            self.require(
                "models",
                PurePosixPath(link).parts[0] not in names,
                f"must not hold the link {link!r}: a model's directory has that name",
            )

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """A token for gated or private repositories, which only the desk can give."""
        return (Secret(name="hf_models.token", made=False),)


class HfModelsState(NodeFact):
    """{"links": {"model.gguf": "gemma/<commit>/x.gguf"}, "taken": [], "models": {…},
    "in_use": [], "elsewhere": {}}: see `homeport_node.hf_models.observe`.
    """

    stem = "hf_models"
    absent = {"links": {}, "taken": [], "models": {}, "in_use": [], "elsewhere": {}}  # noqa: RUF012


def document(spec: HfModels, endpoint: str) -> dict[str, Any]:
    """What the node's programs read: `spec` as plain data, the same text for the same spec."""
    return {
        "managed": HEADER,
        "directory": spec.directory,
        "headroom_mib": spec.headroom_mib,
        "endpoint": endpoint,
        "prune": spec.prune,
        "models": [
            {
                "name": model.name,
                "repo": model.source.repo,
                "revision": model.source.revision,
                "patterns": list(model.source.patterns),
                "commit": model.source.commit,
                "files": [dataclasses.asdict(file) for file in model.source.files],
                "links": model.links,
            }
            for model in spec.models
        ],
    }


def wanted_links(spec: HfModels) -> list[str]:
    """The names of every link that `spec` wants."""
    return [link for model in spec.models for link in model.links]


def _model_difference(
    directory: str, model: dict[str, Any], observed: dict[str, Any]
) -> Iterator[Pair]:
    name, linked = model["name"], observed["links"]
    commits = observed["models"].get(name, {})
    commit = node.chosen(model, commits, linked)
    path = f"{directory}/{name}/{commit or model['revision']}"
    if commit not in commits:
        yield Pair(f"{path}: downloaded", "not downloaded")
        return
    entry = commits[commit]
    for file, text in entry["faults"].items():
        yield Pair(f"{path}/{file}: whole, as verified", text)
    if model["commit"]:
        have = {(file, f["size"], f["sha256"]) for file, f in entry["files"].items()}
        if have != {(f["path"], f["size"], f["sha256"]) for f in model["files"]}:
            yield Pair(f"{path}: the files that the lock names", "other files")
    elif sorted(entry["patterns"]) != sorted(model["patterns"]):
        yield Pair(f"{path}: files like {listed(model['patterns'])}", listed(entry["patterns"]))
    for link, file in model["links"].items():
        text = node.link_text(link, name, commit, file)
        if linked.get(link) != text:
            there = f"leads to {linked[link]}" if link in linked else "no such link"
            yield Pair(f"{directory}/{link}: leads to {text}", there)


def difference(spec: HfModels, observed: dict[str, Any]) -> list[Pair]:
    """What the node's models lack or have too much; empty when they are as wanted."""
    found: list[Pair] = []
    for model in document(spec, "")["models"]:
        found += _model_difference(spec.directory, model, observed)
    for link in sorted(observed["links"].keys() - set(wanted_links(spec))):
        there = f"leads to {observed['links'][link]}"
        found.append(Pair(f"{spec.directory}/{link}: no such link", there))
    return found


def prunable(spec: HfModels, observed: dict[str, Any]) -> list[str]:
    """The commits that nothing needs, as "name/commit", without those still in use."""
    spare = node.spare(document(spec, ""), observed["models"], observed["links"])
    return [
        f"{name}/{commit}"
        for name, commits in sorted(spare.items())
        for commit in commits
        if commit not in observed["in_use"]
    ]


def _observed(spec: HfModels | None) -> dict[str, Any]:
    directory = spec.directory if spec else ""
    wanted = wanted_links(spec) if spec else []
    state: dict[str, Any] = host.get_fact(HfModelsState, directory=directory, wanted=wanted)
    return state


@operation()
def unlink_elsewhere(spec: HfModels | None) -> Generator[Any, None, None]:
    """Remove our links from a directory that was used before."""
    elsewhere = _observed(spec)["elsewhere"]
    paths = [f"{directory}/{link}" for directory, links in elsewhere.items() for link in links]
    differs(Pair(f"{path}: no such link", "a link of ours") for path in paths)
    if paths:
        yield StringCommand("rm -f -- " + " ".join(shlex.quote(path) for path in paths))
    else:
        host.noop("no links of ours are in another directory")


@operation()
def sync(spec: HfModels) -> Generator[Any, None, None]:
    """Download, verify and link what is missing."""
    observed = _observed(spec)
    if observed["taken"]:
        path = f"{spec.directory}/{observed['taken'][0]}"
        yield refuse(f"{path} is in the way: it is no link", "move it away")
        return
    found = difference(spec, observed)
    differs(found)
    if found:
        yield StringCommand(f"{ENTRY} hf_models sync")
    else:
        host.noop("the models are as wanted")


@operation()
def remove_spare(spec: HfModels) -> Generator[Any, None, None]:
    """Remove the commits that nothing needs any more."""
    spare = prunable(spec, _observed(spec))
    paths = [f"{spec.directory}/{commit}" for commit in spare]
    differs(Pair(f"{path}: no such directory", "a commit that nothing needs") for path in paths)
    if spare:
        yield StringCommand(f"{ENTRY} hf_models prune")
    else:
        host.noop("no commit is spare")


@deploy("Models")
def apply(spec: HfModels | None, target: Target) -> None:
    """Bring the node's models to `spec`, from the Hub that `target` names."""
    unlink_elsewhere(name="Remove links from a directory no longer used", spec=spec)
    if spec is None:
        files.file(name="Remove the list of models", path=node.SPEC, present=False)
        return
    files.directory(
        name="Make the directory of models",
        path=spec.directory,
        user="root",
        group="root",
        mode="755",  # engines do not run as root
    )
    text = json.dumps(document(spec, target.sources.hub), indent=2) + "\n"
    files.put(
        name="Write the list of models",
        src=io.StringIO(text),
        dest=node.SPEC,
        user="root",
        group="root",
        mode="644",
    )
    sync(name="Download and link the models", spec=spec)


@deploy("Spare models")
def prune(spec: HfModels | None) -> None:
    """Remove the commits that nothing needs. To be called when the new ones serve."""
    if spec is not None:
        remove_spare(name="Remove the commits that nothing needs", spec=spec)


CAPABILITY = Capability(
    summary="models from the Hugging Face Hub, verified, resumed, behind stable relative links",
    proof="container",
    unproven="the public Hub: files come from the lab's own",
)
