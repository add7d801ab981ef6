"""Makes the lock: asks registries and the Hub what the names of an inventory stand for now."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import httpx2
from huggingface_hub import HfApi, close_session, constants, hf_hub_url, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoSibling
from huggingface_hub.utils import (
    build_hf_headers,
    filter_repo_objects,
    get_session,
    hf_raise_for_status,
)

from homeport.lock import Lock, LockedFile, LockedRepo
from homeport.pins import HubRepo, Image, find
from homeport.registry import TIMEOUT_S, ResolveError, resolve_image, tls
from homeport.spec import Spec, SpecError, fail
from homeport.targets import Sources, Target

__all__ = ["ResolveError", "make_lock", "resolve_image", "resolve_repo"]

# Bytes. The Hub tells the sha256 of LFS files only; others are small by its own rule (10 MiB),
# and are fetched to be hashed.
LARGEST_PLAIN = 16 << 20


@contextmanager
def _hub(what: str, endpoint: str, sources: Sources) -> Iterator[None]:
    """The Hub's client with the certificates of `sources`, and its refusals in clear words."""
    context = tls(sources)
    set_client_factory(
        lambda: httpx2.Client(verify=context, timeout=TIMEOUT_S, follow_redirects=True)
    )
    try:
        yield
    except GatedRepoError as error:
        remedy = "accept its terms on the Hub and set HF_TOKEN to a token of that account"
        raise ResolveError(f"{what}: its owner gives it to those who ask only: {remedy}") from error
    except RepositoryNotFoundError as error:
        remedy = "check `repo`; a private one needs a token in HF_TOKEN"
        raise ResolveError(f"{what}: {endpoint} has no such repository: {remedy}") from error
    except RevisionNotFoundError as error:
        remedy = "check `revision`"
        raise ResolveError(f"{what}: the repository has no such revision: {remedy}") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ResolveError(f"{what}: {endpoint} answers {status}: try again later") from error
    except (httpx2.HTTPError, ValueError) as error:
        remedy = "check this machine's network, or `sources.hub` in the targets file"
        raise ResolveError(f"{what}: {endpoint} does not answer ({error}): {remedy}") from error
    finally:
        close_session()


def _chosen(what: str, repo: HubRepo, siblings: list[RepoSibling]) -> list[RepoSibling]:
    """The files that `repo` asks for. Raises `ResolveError` for a pattern that matches none."""
    names = sorted(file.rfilename for file in siblings)
    for pattern in repo.patterns:
        if not list(filter_repo_objects(names, allow_patterns=pattern)):
            shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
            raise ResolveError(f"{what}: patterns: no file matches {pattern!r}; it has: {shown}")
    wanted = list(repo.patterns)
    return list(filter_repo_objects(siblings, allow_patterns=wanted, key=lambda s: s.rfilename))


def _locked(what: str, repo: HubRepo, commit: str, endpoint: str, file: RepoSibling) -> LockedFile:
    size = (file.lfs.size if file.lfs else file.size) or 0
    if size > constants.MAX_HTTP_DOWNLOAD_SIZE:
        limit = f"the Hub serves at most {constants.MAX_HTTP_DOWNLOAD_SIZE} bytes over HTTP"
        remedy = "choose a variant that is split into parts"
        raise ResolveError(f"{what}: {file.rfilename} has {size} bytes: {limit}: {remedy}")
    if file.lfs:
        return LockedFile(path=file.rfilename, size=size, sha256=file.lfs.sha256)
    if size > LARGEST_PLAIN:
        cause = f"{file.rfilename} has {size} bytes, and the Hub tells no sha256 of it"
        raise ResolveError(f"{what}: {cause}: leave it out of `patterns`")
    url = hf_hub_url(repo.repo, file.rfilename, revision=commit, endpoint=endpoint)
    answer = get_session().get(url, headers=build_hf_headers())
    hf_raise_for_status(answer)
    digest = hashlib.sha256(answer.content).hexdigest()
    return LockedFile(path=file.rfilename, size=len(answer.content), sha256=digest)


def resolve_repo(repo: HubRepo, sources: Sources) -> LockedRepo:
    """The commit that `repo` stands for now, and its files with size and sha256.

    A gated or private repository needs a token in HF_TOKEN, or one that `hf auth login` left.
    Raises `ResolveError` with the cause and the remedy.
    """
    endpoint = sources.hub or constants.ENDPOINT
    what = f"repository {repo.repo}@{repo.revision}"
    with _hub(what, endpoint, sources):
        info = HfApi(endpoint=endpoint).model_info(
            repo.repo, revision=repo.revision, files_metadata=True
        )
        commit = str(info.sha)
        chosen = _chosen(what, repo, info.siblings or [])
        files = [_locked(what, repo, commit, endpoint, file) for file in chosen]
    ordered = tuple(sorted(files, key=lambda file: file.path))
    return LockedRepo(commit=commit, patterns=repo.patterns, files=ordered)


def _silent(text: str) -> None:
    pass


def make_lock(
    nodes: Mapping[str, Spec],
    targets: Mapping[str, Target],
    say: Callable[[str], None] = _silent,
) -> Lock:
    """The lock of an inventory's `nodes`, by host name, each asked of its target's sources.

    `say` is told each name before it is looked up. Raises `SpecError` for two nodes that want
    different files of one repository under one name, `ResolveError` for what is not found.
    """
    images: dict[str, str] = {}
    repos: dict[str, LockedRepo] = {}
    for host, node in nodes.items():
        if host not in targets:
            raise SpecError(
                f"hosts.{host}: is missing in the targets file: "
                f"`bin/homeport probe HOST --inventory INVENTORY --name {host} --write`"
            )
        sources = targets[host].sources
        for image in find(node, Image):
            if image.name not in images:
                say(image.name)
                images[image.name] = resolve_image(image.name, sources)
        for repo in find(node, HubRepo):
            known = repos.get(repo.key)
            if known is None:
                say(repo.key)
                repos[repo.key] = resolve_repo(repo, sources)
            elif set(known.patterns) != set(repo.patterns):
                fail(
                    f"{repo.key}: patterns",
                    repo.patterns,
                    f"must be {known.patterns!r}, as elsewhere in this inventory: the lock holds "
                    "one set of files per repository and revision",
                )
    return Lock(images=images, repos=repos)
