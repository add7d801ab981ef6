"""Models at the desk: the spec's rules, the differences as cases, what the operations yield."""

import copy
import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from deploys import hf_models
from deploys.hf_models import HfModels, Model, difference, document, prunable
from homeport.lock import LockedFile
from homeport.observe import program
from homeport.pins import HubRepo
from homeport.spec import SpecError
from tests.operations import Words, is_refusal, said, yielded

A, B = "a" * 40, "b" * 40
REPO = HubRepo(repo="owner/gemma", patterns=("*Q4_0.gguf", "mmproj.gguf"))
LOCKED = dataclasses.replace(
    REPO,
    commit=A,
    files=(
        LockedFile(path="x-Q4_0.gguf", size=7, sha256="1" * 64),
        LockedFile(path="mmproj.gguf", size=5, sha256="2" * 64),
    ),
)
LINKS = {"model.gguf": "x-Q4_0.gguf", "mmproj.gguf": "mmproj.gguf"}
ENTRY: dict[str, Any] = {
    "repo": "owner/gemma",
    "revision": "main",
    "patterns": ["*Q4_0.gguf", "mmproj.gguf"],
    "locked": True,
    "files": {
        "x-Q4_0.gguf": {"size": 7, "sha256": "1" * 64, "mtime_ns": 1},
        "mmproj.gguf": {"size": 5, "sha256": "2" * 64, "mtime_ns": 1},
    },
    "faults": {},
}
WHOLE: dict[str, Any] = {
    "links": {"model.gguf": f"gemma/{A}/x-Q4_0.gguf", "mmproj.gguf": f"gemma/{A}/mmproj.gguf"},
    "taken": [],
    "models": {"gemma": {A: ENTRY}},
    "in_use": [],
    "elsewhere": {},
}


def spec(source: HubRepo = LOCKED, **changes: Any) -> HfModels:
    return HfModels(models=(Model(name="gemma", source=source, links=LINKS),), **changes)


def observed(**changes: Any) -> dict[str, Any]:
    """A node where all is as wanted, but for `changes`; `faults` are of commit A."""
    state = copy.deepcopy(WHOLE)
    state["models"]["gemma"][A]["faults"] = changes.pop("faults", {})
    return {**state, **changes}


@pytest.mark.parametrize(
    ("links", "words"),
    [
        ({"/model.gguf": "x-Q4_0.gguf"}, "relative path inside the models' directory"),
        ({"../model.gguf": "x-Q4_0.gguf"}, "relative path inside the models' directory"),
        ({"a/../../m": "x-Q4_0.gguf"}, "relative path inside the models' directory"),
        ({"": "x-Q4_0.gguf"}, "relative path inside the models' directory"),
        ({"a//b": "x-Q4_0.gguf"}, "relative path inside the models' directory"),
        ({"model.gguf": "/etc/shadow"}, "by its path in the repository"),
        ({"model.gguf": "../x-Q4_0.gguf"}, "by its path in the repository"),
        ({"model.gguf": "other.gguf"}, "no pattern of the source matches it"),
        ({"model.gguf": "y-Q4_0.gguf"}, "the lock has no such file of owner/gemma"),
    ],
)
def test_links_that_are_refused(links: dict[str, str], words: str) -> None:
    with pytest.raises(SpecError, match=rf"^hf_models\.model\.links: .*{words}"):
        Model(name="gemma", source=LOCKED, links=links)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", ".hidden"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(SpecError, match=r"^hf_models\.model\.name: .*one plain directory name"):
        Model(name=name, source=REPO, links={})


GEMMA = Model(name="gemma", source=REPO, links={"model.gguf": "x-Q4_0.gguf"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"directory": "srv/models"}, "directory: .*must be an absolute path"),
        ({"directory": "/srv"}, "directory: .*below a top-level directory"),
        ({"directory": "/srv/../etc/x"}, "directory: .*must be an absolute path"),
        ({"headroom_mib": -1}, "headroom_mib: -1 must be 0 MiB or more"),
        ({"models": (GEMMA, dataclasses.replace(GEMMA, links={}))}, "models: .*same name twice"),
        ({"models": (GEMMA, dataclasses.replace(GEMMA, name="b"))}, "'model.gguf' twice"),
        (
            {"models": (dataclasses.replace(GEMMA, links={"gemma/x": "x-Q4_0.gguf"}),)},
            "a model's directory has that name",
        ),
    ],
)
def test_specs_that_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=rf"^hf_models\..*{words}"):
        HfModels(**{"models": (GEMMA,), **changes})


def test_a_pattern_that_names_a_folder_matches_what_is_in_it() -> None:
    source = HubRepo(repo="owner/gemma", patterns=("folder/",))
    assert Model(name="gemma", source=source, links={"m": "folder/x"}).links == {"m": "folder/x"}


@pytest.mark.parametrize(
    ("state", "source", "expected"),
    [
        (observed(), LOCKED, []),
        (observed(), REPO, []),  # without a lock: the commit that is there is kept
        (observed(models={}, links={}), REPO, [("gemma/main: downloaded", "not downloaded")]),
        (observed(models={}, links={}), LOCKED, [(f"gemma/{A}: downloaded", "not downloaded")]),
        (
            observed(),
            dataclasses.replace(LOCKED, commit=B),
            [(f"gemma/{B}: downloaded", "not downloaded")],
        ),
        (
            observed(faults={"mmproj.gguf": "missing"}),
            LOCKED,
            [(f"gemma/{A}/mmproj.gguf: whole, as verified", "missing")],
        ),
        (
            observed(),
            dataclasses.replace(
                LOCKED, files=(LOCKED.files[0], dataclasses.replace(LOCKED.files[1], size=6))
            ),
            [(f"gemma/{A}: the files that the lock names", "other files")],
        ),
        (
            observed(),
            dataclasses.replace(REPO, patterns=("*.gguf",)),
            [(f"gemma/{A}: files like *.gguf", "*Q4_0.gguf, mmproj.gguf")],
        ),
        (
            observed(),
            dataclasses.replace(REPO, revision="v2"),
            [("gemma/v2: downloaded", "not downloaded")],
        ),
        (
            observed(links={"mmproj.gguf": f"gemma/{A}/mmproj.gguf"}),
            LOCKED,
            [(f"model.gguf: leads to gemma/{A}/x-Q4_0.gguf", "no such link")],
        ),
        (
            observed(links={**WHOLE["links"], "model.gguf": f"gemma/{B}/x-Q4_0.gguf"}),
            LOCKED,
            [
                (
                    f"model.gguf: leads to gemma/{A}/x-Q4_0.gguf",
                    f"leads to gemma/{B}/x-Q4_0.gguf",
                )
            ],
        ),
        (
            observed(links={**WHOLE["links"], "old.gguf": f"gemma/{A}/x-Q4_0.gguf"}),
            LOCKED,
            [("old.gguf: no such link", f"leads to gemma/{A}/x-Q4_0.gguf")],
        ),
    ],
)
def test_difference(
    state: dict[str, Any], source: HubRepo, expected: list[tuple[str, str]]
) -> None:
    whole = [(f"/srv/homeport/models/{wanted}", there) for wanted, there in expected]
    assert difference(spec(source), state) == whole
    assert said(hf_models.sync, state, spec=spec(source)) == whole
    done = yielded(hf_models.sync, state, spec=spec(source))
    assert len(done) == bool(expected)
    if expected:
        assert "/opt/homeport/current/bin/homeport-node hf_models sync" in done[0]


def test_without_a_lock_the_commit_that_serves_goes_first() -> None:
    both = {A: ENTRY, B: ENTRY}
    links = {name: text.replace(A, B) for name, text in WHOLE["links"].items()}
    assert difference(spec(REPO), observed(models={"gemma": both}, links=links)) == []


def test_a_foreign_file_in_a_links_place_is_refused() -> None:
    done = yielded(hf_models.sync, observed(taken=["model.gguf"]), spec=spec())
    assert len(done) == 1
    assert is_refusal(done[0])
    assert "/srv/homeport/models/model.gguf is in the way" in done[0]


@pytest.mark.parametrize(
    ("state", "changes", "expected"),
    [
        (observed(), {}, []),
        (observed(models={"gemma": {A: ENTRY, B: ENTRY}}), {}, [f"gemma/{B}"]),
        (observed(models={"gemma": {A: ENTRY, B: ENTRY}}, in_use=[B]), {}, []),
        # The wanted one is not whole, or not linked: what may still serve stays.
        (
            observed(models={"gemma": {A: {**ENTRY, "faults": {"x": "missing"}}, B: ENTRY}}),
            {},
            [],
        ),
        (observed(models={"gemma": {A: ENTRY, B: ENTRY}}, links={}), {}, []),
        (observed(models={"gemma": {B: ENTRY}}), {}, []),
        # Data of a model that is no longer listed stay unless that was asked for.
        (observed(models={"gemma": {A: ENTRY}, "gone": {B: ENTRY}}), {}, []),
        (
            observed(models={"gemma": {A: ENTRY}, "gone": {B: ENTRY}}),
            {"prune": True},
            [f"gone/{B}"],
        ),
    ],
)
def test_prunable(state: dict[str, Any], changes: dict[str, Any], expected: list[str]) -> None:
    assert prunable(spec(**changes), state) == expected
    done = yielded(hf_models.remove_spare, state, spec=spec(**changes))
    assert len(done) == bool(expected)


def test_links_in_a_directory_used_before_are_removed() -> None:
    state = observed(elsewhere={"/old dir": ["model.gguf"]})
    done = yielded(hf_models.unlink_elsewhere, state, spec=None)
    assert done == ["rm -f -- '/old dir/model.gguf'"]
    assert yielded(hf_models.unlink_elsewhere, observed(), spec=spec()) == []


def test_the_document_is_the_same_for_the_same_spec_and_holds_no_secret() -> None:
    value = document(spec(), "https://hub.example")
    assert value == document(spec(), "https://hub.example")
    assert value["models"][0]["files"][0] == {"path": "x-Q4_0.gguf", "size": 7, "sha256": "1" * 64}
    assert "token" not in str(value)


def test_the_fact_runs_where_nothing_is_installed() -> None:
    text = program("hf_models", {"directory": "/nonexistent", "wanted": ["model.gguf"]})
    ran = subprocess.run([sys.executable, "-ISc", text], capture_output=True, check=True)
    assert '"models": {}' in ran.stdout.decode()


# What drift says --------------------------------------------------------------------------------

MODELS = "/srv/homeport/models"
WORDS: list[Words] = [
    (
        hf_models.sync,
        [observed(faults={"x-Q4_0.gguf": "3 bytes instead of 7"})],
        {"spec": spec()},
        [(f"{MODELS}/gemma/{A}/x-Q4_0.gguf: whole, as verified", "3 bytes instead of 7")],
    ),
    (
        hf_models.sync,
        [observed(taken=["model.gguf"])],
        {"spec": spec()},
        [("its name", f"{MODELS}/model.gguf is in the way: it is no link")],
    ),
    (
        hf_models.unlink_elsewhere,
        [observed(elsewhere={"/old": ["model.gguf"]})],
        {"spec": None},
        [("/old/model.gguf: no such link", "a link of ours")],
    ),
    (
        hf_models.remove_spare,
        [observed(models={"gemma": {A: ENTRY, B: ENTRY}})],
        {"spec": spec()},
        [(f"{MODELS}/gemma/{B}: no such directory", "a commit that nothing needs")],
    ),
]
