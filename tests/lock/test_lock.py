"""Making the lock: a registry and a Hub in this process, with what they refuse."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from homeport.lock import LockedFile, LockedRepo, read_lock
from homeport.pins import HubRepo, Image
from homeport.registry import MANIFESTS, _api, tls
from homeport.resolve import ResolveError, make_lock, resolve_image, resolve_repo
from homeport.spec import Spec, SpecError
from homeport.targets import Sources, Target
from tests.hf_models.small_hub import SmallHub
from tests.lock.small_registry import DIGEST, SmallRegistry

IMAGE = "ghcr.io/owner/name:tag"


@pytest.fixture
def registry() -> Iterator[SmallRegistry]:
    made = SmallRegistry()
    yield made
    made.close()


@pytest.fixture
def hub() -> Iterator[SmallHub]:
    made = SmallHub()
    made.files = {"b.gguf": b"weights", "README.md": b"words", "a.gguf": b"more"}
    made.plain = {"README.md"}
    yield made
    made.close()


def mirror(registry: SmallRegistry) -> Sources:
    return Sources(registries={"ghcr.io": registry.name})


def repo(*patterns: str, name: str = "owner/name", revision: str = "main") -> HubRepo:
    return HubRepo(repo=name, patterns=patterns or ("*",), revision=revision)


def test_an_image_without_a_token(registry: SmallRegistry) -> None:
    assert resolve_image(IMAGE, mirror(registry)) == DIGEST
    assert registry.seen == ["HEAD /v2/owner/name/manifests/tag"]
    assert all(kind in registry.accepted for kind in MANIFESTS)


def test_an_image_with_the_token_that_the_registry_names(registry: SmallRegistry) -> None:
    registry.token = "anonymous"
    assert resolve_image(IMAGE, mirror(registry)) == DIGEST
    assert len(registry.seen) == 3


def test_the_digest_is_computed_when_the_registry_does_not_tell_it(
    registry: SmallRegistry,
) -> None:
    registry.tell_digest = None
    assert resolve_image(IMAGE, mirror(registry)) == DIGEST


@pytest.mark.parametrize(
    ("name", "fault", "words"),
    [
        ("ghcr.io/owner/name:none", {}, "answers 404: there is no such image or tag"),
        (IMAGE, {"status": 429}, "answers 429: it has had too many requests"),
        (IMAGE, {"status": 500}, "answers 500: try again later"),
        (IMAGE, {"token": "x", "challenge": 'Basic realm="r"'}, "asks for Basic authentication"),
        (IMAGE, {"token": "x", "challenge": "Bearer"}, "asks for Bearer authentication"),
        (IMAGE, {"tell_digest": "md5:1"}, "answered 'md5:1', which is no sha256 digest"),
        ("ghcr.io/owner/other:tag", {"token": "x"}, "answers 404"),
    ],
)
def test_an_image_that_is_refused(
    registry: SmallRegistry, name: str, fault: dict[str, object], words: str
) -> None:
    for attribute, value in fault.items():
        setattr(registry, attribute, value)
    with pytest.raises(ResolveError, match=f"^image {name}: {registry.name}.*{words}") as failed:
        resolve_image(name, mirror(registry))
    assert "\n" not in str(failed.value)


def test_a_registry_that_is_away(registry: SmallRegistry) -> None:
    registry.close()
    words = "does not answer .*: check this machine's network, or `sources.registries`"
    with pytest.raises(ResolveError, match=words):
        resolve_image(IMAGE, mirror(registry))


@pytest.mark.parametrize(
    ("registry_name", "expected"),
    [
        ("ghcr.io", "https://ghcr.io/v2"),
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("registry.example:5000", "https://registry.example:5000/v2"),
        ("localhost:5000", "http://localhost:5000/v2"),
        ("localhost.example", "https://localhost.example/v2"),
    ],
)
def test_where_a_registry_answers(registry_name: str, expected: str) -> None:
    assert _api(registry_name) == expected


def test_a_certificate_that_is_none_is_refused() -> None:
    text = "-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"
    with pytest.raises(ResolveError, match="sources.ca_certificates: certificate 1 is not PEM"):
        tls(Sources(ca_certificates=(text,)))


def test_a_repository(hub: SmallHub) -> None:
    found = resolve_repo(repo("*.gguf", "README.md"), Sources(hub=hub.endpoint))
    files = tuple(
        LockedFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest())
        for path, data in sorted(hub.files.items())
    )
    assert found == LockedRepo(commit=hub.commit, patterns=("*.gguf", "README.md"), files=files)
    # Only what is not in LFS had to be fetched to be hashed.
    assert hub.given == len(b"words")


def test_a_large_file_whose_hash_the_hub_does_not_tell_is_refused(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeport.resolve.LARGEST_PLAIN", 4)
    with pytest.raises(ResolveError, match=r"README.md has 5 bytes, and the Hub tells no sha256"):
        resolve_repo(repo(), Sources(hub=hub.endpoint))


def test_a_file_that_the_hub_does_not_serve_over_http_is_refused(
    hub: SmallHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeport.resolve.constants.MAX_HTTP_DOWNLOAD_SIZE", 5)
    with pytest.raises(ResolveError, match=r"b.gguf has 7 bytes: the Hub serves at most 5 bytes"):
        resolve_repo(repo(), Sources(hub=hub.endpoint))


@pytest.mark.parametrize(
    ("wanted", "status", "words"),
    [
        (repo("*.gguf", "*.bin"), 0, r"patterns: no file matches '\*\.bin'; it has: README.md, a"),
        (repo(name="no/such"), 0, "has no such repository: check `repo`"),
        (repo(revision="nope"), 0, "the repository has no such revision: check `revision`"),
        (repo(), 503, "answers 503: try again later"),
    ],
)
def test_a_repository_that_is_refused(
    hub: SmallHub, wanted: HubRepo, status: int, words: str
) -> None:
    hub.status = status
    with pytest.raises(ResolveError, match=f"^repository {wanted.key}: .*{words}") as failed:
        resolve_repo(wanted, Sources(hub=hub.endpoint))
    assert "\n" not in str(failed.value)


def test_a_hub_that_is_away(hub: SmallHub) -> None:
    hub.close()
    with pytest.raises(ResolveError, match="does not answer .*or `sources.hub`"):
        resolve_repo(repo(), Sources(hub=hub.endpoint))


@dataclass(frozen=True, kw_only=True, slots=True)
class Thing(Spec):
    images: tuple[Image, ...] = ()
    repos: tuple[HubRepo, ...] = ()


def targets(sources: Sources) -> dict[str, Target]:
    target = Target(name="one", address="192.0.2.1", host_key="ssh-ed25519 A", sources=sources)
    return {"one": target, "two": target}


def test_a_lock_holds_each_name_once_and_reads_back(
    registry: SmallRegistry, hub: SmallHub, tmp_path: object
) -> None:
    sources = Sources(registries={"ghcr.io": registry.name}, hub=hub.endpoint)
    thing = Thing(images=(Image(name=IMAGE),), repos=(repo("*.gguf"),))
    said: list[str] = []
    made = make_lock({"one": thing, "two": thing}, targets(sources), said.append)
    assert said == [IMAGE, "owner/name@main"]
    assert len(registry.seen) == 1
    from pathlib import Path

    path = Path(str(tmp_path)) / "one.lock"
    path.write_text(made.to_json())
    again = read_lock(path)
    assert (again.images, again.repos) == (made.images, made.repos)
    assert again.images == {IMAGE: DIGEST}
    assert [file.path for file in again.repos["owner/name@main"].files] == ["a.gguf", "b.gguf"]


def test_two_sets_of_patterns_for_one_repository_are_refused(hub: SmallHub) -> None:
    thing = Thing(repos=(repo("*.gguf"), repo("a.gguf")))
    with pytest.raises(SpecError, match="owner/name@main: patterns: .* as elsewhere"):
        make_lock({"one": thing}, targets(Sources(hub=hub.endpoint)))
