"""What a converge does to the node's Compose project. Each returns None, or what went wrong."""

import base64
import contextlib
import fcntl
import http.client
import json
import os
import re
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from homeport_node import docker_engine
from homeport_node.common import (
    COMPOSE_FILE,
    SECRETS,
    STACK,
    STACK_LOCK,
    Ran,
    compose_command,
    read,
    run,
)

PROJECT = "com.docker.compose.project"
PULL_TIMEOUT = 7200  # seconds: the images are gigabytes, the line may be slow
SILENCE = 300  # seconds without a word about a pull: then nobody is told of it any more
UP_TIMEOUT = 900
ABSENT_TIMEOUT = 30  # seconds: Compose makes every container before it ends
TRIAL = "homeport-trial"
GPU_REMEDY = "Docker started before NVIDIA's container toolkit was there: systemctl restart docker"
NOISE = re.compile(
    r"^\s*(Container|Network|Volume) \S+\s+\w+$|^\S+ (Pulling|Waiting|Downloading|Extracting)"
    r"|^(Creating|Starting|Recreating|Stopping|Removing) \S+ +\.\.\."
)


def masked(text: str) -> str:
    """`text` without any secret of this node, raw, base64 or URL-encoded."""
    for path in Path(SECRETS).glob("*"):
        value = (read(path) or "").strip()
        if len(value) < 4:
            continue
        encoded = base64.b64encode(value.encode()).decode()
        for form in (value, urllib.parse.quote(value, safe=""), encoded, encoded.rstrip("=")):
            text = text.replace(form, "********")
    return text


def words(text: str, lines: int = 12) -> str:
    """The last `lines` lines of what a program said, without its progress and without secrets."""
    kept = [line.rstrip() for line in text.splitlines() if line.strip() and not NOISE.match(line)]
    return masked("\n".join(kept[-lines:]))


@contextlib.contextmanager
def _alone(patience: float = UP_TIMEOUT) -> "Iterator[int]":
    """Let nobody else change the containers meanwhile; a descriptor for programs to inherit.

    Compose itself has no lock, and goes on when the connection over which it was started breaks:
    then it alone holds this one. Raises TimeoutError.
    """
    with open(STACK_LOCK, "ab") as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"somebody else changes the stack for more than {patience:g} s: "
                        f"see `fuser -v {STACK_LOCK}`, then converge again"
                    ) from None
                time.sleep(0.2)
        yield file.fileno()


def _compose(project: str, *arguments: str, keep: int) -> "str | None":
    command = compose_command()
    if not command:
        return "this node has no Docker Compose"
    ran = run(
        *command, "-p", project, "-f", COMPOSE_FILE, *arguments, timeout=UP_TIMEOUT, keep=(keep,)
    )
    if ran.ok:
        return None
    said = words(ran.err or ran.out)
    # Docker looks for NVIDIA's hook once, when it starts.
    remedy = f"\n{GPU_REMEDY}" if "could not select device driver" in said else ""
    return f"compose {arguments[0]} failed ({ran.status}):\n{said}{remedy}"


def fetch(images: "list[str]") -> "str | None":
    """Begin to pull the images in the background, for the `pull` that comes later.

    Docker downloads a layer once, whoever asks: `pull` joins what is going on, and begins anew
    what failed. So it does not matter here whether the unit could be started (it may be running
    already), nor how it ends.
    """
    script = 'for image; do docker pull --quiet "$image" >/dev/null 2>&1 & done; wait'
    unit = ("systemd-run", "--quiet", "--collect", "--unit=homeport-fetch")
    run(*unit, "sh", "-c", script, "sh", *images)
    return None


def _tell(image: str, layers: "dict[str, list[int]]", told: int) -> int:
    """Print how far the layers are, unless `told`, the last share in percent, is still right."""
    done, total = (sum(one[i] for one in layers.values()) for i in (0, 1))
    share = 100 * done // total if total else 0
    if share != told:
        name = image.split("@", 1)[0]
        line = json.dumps({"what": name, "done": done, "total": total})
        print(f"homeport-progress {line}", flush=True)
    return share


def _watched(image: str) -> None:
    """Pull `image` through Docker's API, which alone tells how many bytes are there.

    Raises OSError, ValueError or HTTPException for whatever goes wrong.
    """
    connection = docker_engine.Connection(timeout=SILENCE)
    query = urllib.parse.urlencode({"fromImage": image})
    connection.request("POST", f"/images/create?{query}")
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"HTTP {response.status}")
    layers: dict[str, list[int]] = {}
    told = -1
    for line in response:
        event = json.loads(line)
        if "error" in event:
            raise OSError(event["error"])
        detail = event.get("progressDetail") or {}
        if event.get("status") == "Downloading" and detail.get("total"):
            layers[event["id"]] = [detail["current"], detail["total"]]
        elif event.get("status") == "Download complete" and event["id"] in layers:
            layers[event["id"]][0] = layers[event["id"]][1]
        told = _tell(image, layers, told) if layers else told


def pull(images: "list[str]") -> "str | None":
    """Fetch the images that this node lacks, and print how far they are."""
    for image in images:
        # Whatever goes wrong here, `docker pull` says it in its own words: it has the node's
        # credentials too. When nothing did, it finds the image there.
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            _watched(image)
        ran = run("docker", "pull", "--quiet", image, timeout=PULL_TIMEOUT)
        if not ran.ok:
            registry = image.split("/", 1)[0]
            said = words(ran.err or ran.out, 4)
            return (
                f"the image {image} cannot be pulled from {registry}. Docker says: {said}\n"
                f"No service was touched: see that the node reaches {registry}, then converge again"
            )
    return None


def _gpu_options(gpus: "list[str]", way: str) -> "list[str]":
    """The very request that Compose makes for the service; `way` as the Compose file has it."""
    if not gpus:
        return []
    if way == "cdi":
        return [word for gpu in gpus for word in ("--device", f"nvidia.com/gpu={gpu}")]
    names = ",".join(gpus)
    if way == "runtime":
        return ["--runtime", "nvidia", "--env", f"NVIDIA_VISIBLE_DEVICES={names}"]
    return ["--gpus", f'driver=nvidia,"device={names}"']


def _try(
    image: str, gpus: "list[str]", way: str, environment: "dict[str, str]", trial: "Any"
) -> Ran:
    """The trial's run, in a container that is gone afterwards."""
    options = ["--rm", "--name", TRIAL, "--network", "none", "--pull", "never"]
    options += ["--security-opt", "no-new-privileges:true"]
    options += _gpu_options(gpus, way)
    for name, value in environment.items():
        options += ["--env", f"{name}={value}"]
    program, *arguments = trial["command"]
    options += ["--entrypoint", program]
    run("docker", "rm", "--force", TRIAL)  # a run that was killed may have left it
    ran = run("docker", "run", *options, image, *arguments, timeout=trial["timeout"])
    if ran.status == 124:
        run("docker", "rm", "--force", TRIAL)
    return ran


def attempt(
    image: str,
    gpus: "list[str]",
    way: str,
    environment: "dict[str, str]",
    trial: "dict[str, Any]",
) -> "str | None":
    """Run the image as `trial` (a `deploys.stack.Trial`) says, and see that it says what it must.

    A driver that is too old for the image shows here alone: nvidia-smi works, CUDA does not.
    """
    ran = _try(image, gpus, way, environment, trial)
    output = f"{ran.out}\n{ran.err}"
    found = len(re.findall(trial["pattern"], output, re.MULTILINE))
    if ran.ok and found >= trial["count"]:
        return None
    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    versions = sorted(set(run(*query).out.split()))
    driver = f" NVIDIA's driver is {', '.join(versions)}." if gpus and versions else ""
    said = words(output) or f"nothing, exit status {ran.status}"
    remedy = GPU_REMEDY if "could not select device driver" in said else trial["remedy"]
    return (
        f"{trial['cause']}: {found} of {trial['count']} found by {image}.{driver} It said:\n"
        f"{said}\nNo service was touched: {remedy}"
    )


def up(project: str, recreate: "list[str]") -> "str | None":
    """Make the project as the Compose file says; `recreate` are made anew whatever it says."""
    try:
        with _alone() as keep:
            if recreate:
                again = ("up", "--detach", "--force-recreate", "--no-deps", *recreate)
                problem = _compose(project, *again, keep=keep)
                if problem:
                    return problem
            return _compose(project, "up", "--detach", "--remove-orphans", keep=keep)
    except TimeoutError as error:
        return str(error)


def remove_containers(ids: "list[str]") -> "str | None":
    """Stop and remove containers that the inventory no longer wants; volumes stay."""
    try:
        with _alone() as keep:
            run("docker", "stop", *ids, timeout=300, keep=(keep,))
            ran = run("docker", "rm", "--force", *ids, timeout=120, keep=(keep,))
    except TimeoutError as error:
        return str(error)
    return None if ran.ok else f"docker rm failed: {words(ran.err)}"


def _state(project: str, service: str) -> "dict[str, Any]":
    names = (f"label={PROJECT}={project}", f"label=com.docker.compose.service={service}")
    filters = [part for name in names for part in ("--filter", name)]
    ids = run("docker", "ps", "-aq", *filters).out.split()
    found = json.loads(run("docker", "container", "inspect", *ids[:1]).out or "[]") if ids else []
    if not found:
        return {"ready": False, "status": "absent", "id": "", "restarts": 0}
    state = found[0]["State"]
    health = (state.get("Health") or {}).get("Status", "")
    return {
        "ready": state["Status"] == "running" and health in ("", "healthy"),
        # Docker calls a container unhealthy between two starts as well: those are counted instead.
        "failed": state["Status"] == "running" and health == "unhealthy",
        "status": f"{state['Status']}{f', {health}' if health else ''}",
        "id": found[0]["Id"],
        "restarts": found[0]["RestartCount"],
        "exit_code": state["ExitCode"],
    }


def _logs(container: str) -> str:
    ran = run("docker", "logs", "--tail", "25", container)
    return words(f"{ran.out}\n{ran.err}", 25)


def wait(project: str, services: "dict[str, int]") -> "str | None":
    """Wait until each service runs and is healthy; {name: seconds}.

    A service that crashes three times, that Docker calls unhealthy, or that has no container is
    not waited for further.
    """
    began = time.monotonic()
    waiting = dict(services)
    before = {service: _state(project, service)["restarts"] for service in services}
    while waiting:
        for service, limit in list(waiting.items()):
            state = _state(project, service)
            crashes = state["restarts"] - before[service]
            if state["ready"]:
                del waiting[service]
                continue
            waited = time.monotonic() - began
            gone = state["status"] == "absent" and waited > ABSENT_TIMEOUT
            if waited > limit or gone or state.get("failed") or crashes >= 3:
                logs = _logs(state["id"]) if state["id"] else "(no container)"
                return (
                    f"{service} is not ready after {waited:.0f} s: {state['status']}, started "
                    f"again {crashes} times. Its last words:\n{logs}"
                )
        if waiting:
            time.sleep(0.5)
    return None


def remove_files(paths: "list[str]") -> "str | None":
    """Remove mounted files that no service wants, and directories that this leaves empty."""
    for path in paths:
        Path(path).unlink()
    for directory, _, _ in os.walk(f"{STACK}/files", topdown=False):
        if not any(Path(directory).iterdir()):
            Path(directory).rmdir()
    return None


def down(project: str) -> "str | None":
    """Stop and remove the project's containers and network; volumes stay."""
    try:
        with _alone() as keep:
            return _compose(project, "down", "--remove-orphans", keep=keep)
    except TimeoutError as error:
        return str(error)
