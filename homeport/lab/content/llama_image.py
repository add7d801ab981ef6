"""The lab's llama-server image: the real program, from Debian unstable's package `llama.cpp`.

It keeps the interface of ghcr.io/ggml-org/llama.cpp:server-cuda (its .devops/cuda.Dockerfile): the
entry point is /app/llama-server, LLAMA_ARG_HOST=0.0.0.0, curl is there, and so is the health check.
It computes on the CPU: the package has no CUDA.
"""

from collections.abc import Mapping
from pathlib import Path

from homeport.lab.cache import Progress
from homeport.lab.content.root import import_image, key_of, lean_root

RELEASE = "unstable"
PACKAGES = ("llama.cpp", "ca-certificates", "curl")
CHANGES = (
    "ENV LLAMA_ARG_HOST=0.0.0.0",
    # The lab's alone: several threads wait for each other, and on a busy machine they crawl.
    "ENV LLAMA_ARG_THREADS=1",
    "WORKDIR /app",
    'HEALTHCHECK CMD ["curl", "-f", "http://localhost:8080/health"]',
    'ENTRYPOINT ["/app/llama-server"]',
)


def recipe_key() -> str:
    """Changes when the recipe does. Unstable moves on without it: that is the cache's to age."""
    here = Path(__file__)
    return key_of(here, here.with_name("root.py"))


def build_llama_image(
    workdir: Path, tag: str, progress: Progress, env: Mapping[str, str] | None = None
) -> None:
    """Build the image `tag` in the Docker daemon that `env` names (DOCKER_HOST).

    `workdir` holds the intermediate tar (about 150 MB), which is used again when it is there.
    Needs mmdebstrap and docker. Raises `LabError`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    tar = workdir / f"llama-{recipe_key()}.tar"
    if not tar.exists():
        progress("llama-server image: packages from Debian unstable")
        lean_root(tar, release=RELEASE, packages=PACKAGES, stale=True)
    progress("llama-server image: import")
    import_image(
        tag,
        tars=[tar],
        trees=[],
        links={"app/llama-server": "/usr/bin/llama-server"},
        changes=CHANGES,
        env=env,
    )
