"""The lab's Open WebUI image: the real server and the real pages, from PyPI.

It keeps the interface of ghcr.io/open-webui/open-webui (its Dockerfile and backend/start.sh): the
program in /app/backend, `bash start.sh` as the command, data in /app/backend/data, the pages in
/app/build, port 8080, curl and jq for the health check.

It is a tenth of the published image's size, because a rehearsal pulls it into an empty Docker each
time. Left out are packages that the server loads only for work which the lab does not do (they are
named in open_webui_requirements.txt), and of the pages the source maps, Python in the browser
(Pyodide), speech in the browser (ONNX) and the pictures of emojis. OFFLINE_MODE, HF_HUB_OFFLINE and
RAG_EMBEDDING_ENGINE are set in the image, so that a deploy need not know of the lab: without them
the server would fetch an embedding model from the Hub as it starts.

The byte code is made by starting the server once, inside the image; an image whose server does not
become healthy is never finished.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from homeport.lab import LabError
from homeport.lab.cache import Progress
from homeport.lab.content.root import (
    Tree,
    import_image,
    key_of,
    lean_root,
    run,
)

VERSION = "0.12.4"
# Open WebUI wants Python below 3.13, and its own image is of the same Debian.
RELEASE = "bookworm"
PYTHON = "3.11.2"
GLIBC = 36
PACKAGES = ("python3", "libstdc++6", "ca-certificates", "curl", "jq")

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "open_webui_requirements.txt"
START = HERE / "open_webui_start.sh"

CHANGES = (
    "ENV ENV=prod PORT=8080 DOCKER=true HOME=/root USE_OLLAMA_DOCKER=false USE_CUDA_DOCKER=false",
    "ENV OLLAMA_BASE_URL=/ollama OPENAI_API_BASE_URL= OPENAI_API_KEY= WEBUI_SECRET_KEY=",
    "ENV SCARF_NO_ANALYTICS=true DO_NOT_TRACK=true ANONYMIZED_TELEMETRY=false",
    "ENV OFFLINE_MODE=true HF_HUB_OFFLINE=1 RAG_EMBEDDING_ENGINE=openai",
    "ENV PYTHONDONTWRITEBYTECODE=1",
    "WORKDIR /app/backend",
    "EXPOSE 8080",
    "HEALTHCHECK CMD curl --silent --fail http://localhost:${PORT:-8080}/health "
    "| jq -ne 'input.status == true' || exit 1",
    'CMD ["bash", "start.sh"]',
)

SITE = "usr/local/lib/python3.11/dist-packages"
UNWANTED_IN_SITE = (
    "open_webui/*",  # goes to /app
    "bin/*",
    "include/*",
    "zstandard/_cffi.*",  # the other of its two backends is the one in use
    "share/*",
    "*/tests/*",
    "numpy/f2py/*",
    "*.pyi",
    "*.pyx",
    "*.pxd",
    "*.h",
    "*.c",
    "*.a",
    "*.map",
    "*.dist-info/RECORD",
    "*.dist-info/licenses/*",
    # Descriptions of some 400 cloud services; object storage is the one that Open WebUI speaks to.
    "botocore/data/[!s_]*/*",
    "botocore/data/s[!3t]*/*",
    "botocore/data/s3[!/]*/*",
    "botocore/data/st[!s]*/*",
)
UNWANTED_IN_PAGES = ("*.map", "pyodide/*", "wasm/*", "assets/emojis/*", "assets/welcome.mp4")

# Starts the server as the image would, waits for its health, and writes a tar of the byte code to
# standard output.
COMPILE = """
export WEBUI_SECRET_KEY=none DATA_DIR=/tmp/data PYTHONDONTWRITEBYTECODE=
mkdir -p /tmp/data
bash start.sh >/tmp/log 2>&1 & server=$!
for _ in $(seq 600); do
  curl --silent --fail http://localhost:8080/health >/dev/null && healthy=1 && break
  kill -0 $server 2>/dev/null || break
  sleep 0.2
done
kill $server 2>/dev/null
[ -n "${healthy:-}" ] || { tail -c 1500 /tmp/log >&2; exit 1; }
cd / && find app usr/local/lib -name '*.pyc' -print0 | tar -c --null -T - --owner=0 --group=0
"""


def recipe_key() -> str:
    """Changes when the recipe does: this module, the packages' versions, the start script."""
    return key_of(Path(__file__), HERE / "root.py", REQUIREMENTS, START)


def pip_command(target: Path) -> list[str]:
    """pip, told to lay the requirements out in `target` for the image's Python, not for this one.

    It runs at the desk, so that it uses this machine's own configuration of pip, whatever that is.
    """
    machine = os.uname().machine
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(GLIBC, 16, -1)]
    platforms += [f"manylinux2014_{machine}", f"linux_{machine}"]
    if machine == "x86_64":
        platforms += [f"manylinux2010_{machine}", f"manylinux1_{machine}"]
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    command += ["--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}"]
    command += [f"--platform={platform}" for platform in platforms]
    return [*command, f"--target={target}", f"--requirement={REQUIREMENTS}"]


def install(workdir: Path, progress: Progress) -> Path:
    """The packages, laid out under `workdir` (about 650 MB); once they are, they are kept."""
    site = workdir / f"open-webui-site-{key_of(REQUIREMENTS)}"
    if not site.exists():
        progress("Open WebUI image: packages from PyPI")
        part = site.with_suffix(".part")
        run(["rm", "-rf", str(part)])
        run(pip_command(part))
        part.rename(site)
    return site


def layout(workdir: Path, site: Path) -> list[Tree]:
    """What goes where in the image."""
    program, extra = site / "open_webui", workdir / "open-webui-extra"
    (extra / "backend" / "data").mkdir(parents=True, exist_ok=True)
    (extra / "backend" / "start.sh").write_bytes(START.read_bytes())
    # The server reads its version there.
    (extra / "package.json").write_text(f'{{"name": "open-webui", "version": "{VERSION}"}}\n')
    (extra / "CHANGELOG.md").write_bytes((program / "CHANGELOG.md").read_bytes())
    return [
        Tree(source=site, at=SITE, unwanted=UNWANTED_IN_SITE),
        Tree(source=program, at="app/backend/open_webui", unwanted=("frontend/*", "*.pyi")),
        Tree(source=program / "frontend", at="app/build", unwanted=UNWANTED_IN_PAGES),
        Tree(source=extra, at="app"),
    ]


def compile_in(tag: str, tar: Path, env: Mapping[str, str] | None) -> None:
    """Start the server of image `tag` once; the byte code that this made is written to `tar`."""
    command = ["docker", "run", "--rm", "--network=none", tag, "bash", "-c", COMPILE]
    part = tar.with_suffix(".part")
    with part.open("wb") as out:
        done = subprocess.run(
            command, env=env, stdout=out, stderr=subprocess.PIPE, timeout=300, check=False
        )
    if done.returncode != 0:
        words = done.stderr.decode(errors="replace").strip()[-2000:]
        raise LabError(f"Open WebUI did not become healthy in its new image: {words}")
    part.replace(tar)


def build_open_webui_image(
    workdir: Path, tag: str, progress: Progress, env: Mapping[str, str] | None = None
) -> None:
    """Build the image `tag` in the Docker daemon that `env` names (DOCKER_HOST).

    `workdir` holds what was fetched (about 0.8 GB), which is used again when it is there. Needs
    mmdebstrap, pip and docker. Raises `LabError`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    key = recipe_key()
    root = workdir / f"open-webui-root-{key_of(RELEASE, *PACKAGES, HERE / 'root.py')}.tar"
    if not root.exists():
        progress(f"Open WebUI image: Python {PYTHON} from Debian {RELEASE}")
        lean_root(root, release=RELEASE, packages=PACKAGES)
    trees = layout(workdir, install(workdir, progress))
    code = workdir / f"open-webui-code-{key}.tar"
    links = {"usr/local/bin/python": "/usr/bin/python3"}
    if not code.exists():
        progress("Open WebUI image: first start, for its byte code")
        draft = f"{tag}-draft"
        import_image(draft, tars=[root], trees=trees, links=links, changes=CHANGES, env=env)
        try:
            compile_in(draft, code, env)
        finally:
            run(["docker", "rmi", "--no-prune", draft], env=env)
    progress("Open WebUI image: import")
    import_image(tag, tars=[root, code], trees=trees, links=links, changes=CHANGES, env=env)
