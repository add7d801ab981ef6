"""llama-server: one model, served by llama.cpp in a container of the stack.

It is published on the node's loopback alone and asks for the API key of the node. Its GPUs are
reserved by UUID: a node that does not list them, or whose Docker cannot hand them over, is refused
before anything is started. It never serves from the CPU instead.

The port in the container is always given: llama-server's own default is moving from 8080 to 9931.
`--fit on` adjusts only what is not set, so the context of the inventory is kept; an explicit
number of GPU layers would end the fit. A quantised V cache needs flash attention.

With a driver older than the image's CUDA, nvidia-smi works, and llama-server serves from the CPU
without failing. So before its container is made, the image itself is asked for its CUDA devices.

The program reads the model's link when it starts. When the link leads to another file since, or the
lock names another commit (a label), the stack makes the container anew. Looking at the files that
the process has open would not do: llama.cpp unmaps a model that lies on the GPUs whole.

How it fails: with the log's last lines, when it is not healthy within `start_timeout`. /health is
503 while the model loads.
How to undo it: take it out of the inventory; the stack removes its container.

Sources: llama.cpp, tools/server/README.md; `llama-server --help` of build 0.7.0; the silent fall
back to the CPU: github.com/ggml-org/llama.cpp/issues/24418.
"""

import re
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from pyinfra import host
from pyinfra.api import StringCommand, deploy, operation

from deploys.secrets import Secret
from deploys.stack import Bind, HealthCheck, Port, Service, Trial
from homeport.capability import Capability
from homeport.observe import NodeFact
from homeport.pins import Gpu, Image
from homeport.refuse import refuse
from homeport.spec import Spec, is_inside, is_port

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"]
CACHE_TYPES = get_args(CacheType)
QUANTISED = frozenset(CACHE_TYPES) - {"f32", "f16", "bf16"}
SERVICE = "llama-server"
API_KEY = "llama_server.api_key"
CONTAINER_PORT = 8080
# What the spec writes itself; `extra_arguments` may not say it again.
OWN = frozenset(
    """-m --model --mmproj -a --alias --api-key --api-key-file --host --port -c --ctx-size -np
    --parallel -ctk --cache-type-k -ctv --cache-type-v -sm --split-mode -fit --fit -fitt
    --fit-target -b --batch-size -ub --ubatch-size -fa --flash-attn -t --threads -ngl
    --gpu-layers --n-gpu-layers --metrics""".split()  # noqa: SIM905
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LlamaServer(Spec):
    """llama-server and its model; names are llama.cpp's own.

    `model` and `mmproj` are paths below the models directory. `ctx_size`, `batch_size` and
    `ubatch_size` are in tokens. `fit_target` is the memory in MiB to leave free, one value per GPU
    in the order of `gpus`. `n_gpu_layers` None and `threads` None leave the choice to llama.cpp.
    `start_timeout` is in seconds: the time to load the model.
    """

    STEM = "llama_server"
    CHECKS_NEED: ClassVar[dict[str, str]] = {"cuda": "that the engine computes on its GPUs"}

    image: Image
    gpus: tuple[Gpu, ...]
    model: str
    alias: str
    mmproj: str | None = None
    port: int = 8080
    ctx_size: int = 8192
    parallel: int = 1
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    split_mode: Literal["none", "layer", "row"] = "layer"
    fit_target: tuple[int, ...] = ()
    batch_size: int = 2048
    ubatch_size: int = 512
    flash_attn: Literal["on", "off", "auto"] = "auto"
    n_gpu_layers: int | None = None
    threads: int | None = None
    metrics: bool = False
    start_timeout: int = 900
    extra_arguments: tuple[str, ...] = field(default=())

    def validate(self) -> None:
        inside = "must be relative, and stay inside the models directory, which is all it sees"
        self.require("model", is_inside(self.model), inside)
        self.require("mmproj", self.mmproj is None or is_inside(self.mmproj), inside)
        ok = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:/-]*", self.alias) is not None
        self.require("alias", ok, "must be letters, digits and . _ : / -: clients type it")
        self.require("port", is_port(self.port), "must be a port: 1 to 65535")
        for name in ("ctx_size", "parallel", "batch_size", "ubatch_size", "start_timeout"):
            self.require(name, getattr(self, name) > 0, "must be positive")
        fits = self.ubatch_size <= self.batch_size
        limit = f"must be at most batch_size, {self.batch_size}: a micro-batch is a part of a batch"
        self.require("ubatch_size", fits, limit)
        self._validate_cache()
        self._validate_gpus()
        self._validate_extra()

    def _validate_cache(self) -> None:
        known = f"must be a KV cache type of llama.cpp: {', '.join(CACHE_TYPES)}"
        for name in ("cache_type_k", "cache_type_v"):
            self.require(name, getattr(self, name) in CACHE_TYPES, known)
        ok = self.flash_attn != "off" or self.cache_type_v not in QUANTISED
        self.require("flash_attn", ok, "must be on or auto: a quantised V cache needs it")

    def _validate_gpus(self) -> None:
        handles = [gpu.handle for gpu in self.gpus]
        self.require("gpus", len(set(handles)) == len(handles), "must name each GPU once")
        count = len(self.gpus)
        ok = not self.fit_target or len(self.fit_target) == count
        self.require("fit_target", ok, f"must have one value in MiB per GPU: {count}")
        self.require("fit_target", all(value >= 0 for value in self.fit_target), "must not be < 0")
        layers = self.n_gpu_layers
        self.require("n_gpu_layers", layers is None or layers >= 0, "must not be < 0")
        fits = layers is None or not self.fit_target
        self.require("n_gpu_layers", fits, "must be left out beside fit_target: it ends the fit")
        threads = self.threads
        self.require("threads", threads is None or threads > 0, "must be positive")

    def _validate_extra(self) -> None:
        for argument in self.extra_arguments:
            name = argument.split("=", 1)[0]
            self.require("extra_arguments", bool(argument), "must not be empty")
            words = f"must not hold {name}: a field of this specification says it"
            self.require("extra_arguments", name not in OWN, words)

    @property
    def secrets(self) -> tuple[Secret, ...]:
        """What the node makes for it."""
        return (Secret(name=API_KEY),)


def command(spec: LlamaServer) -> tuple[str, ...]:
    """llama-server's arguments in the container."""
    options: dict[str, str | None] = {
        "--host": "0.0.0.0",
        "--port": str(CONTAINER_PORT),
        "-m": f"/models/{spec.model}",
        "--mmproj": spec.mmproj and f"/models/{spec.mmproj}",
        "--alias": spec.alias,
        "--api-key-file": f"/run/secrets/{API_KEY}",
        "--ctx-size": str(spec.ctx_size),
        "--parallel": str(spec.parallel),
        "--cache-type-k": spec.cache_type_k,
        "--cache-type-v": spec.cache_type_v,
        "--split-mode": spec.split_mode,
        "--fit": "on" if spec.n_gpu_layers is None else "off",
        "--fit-target": ",".join(map(str, spec.fit_target)) or None,
        "--batch-size": str(spec.batch_size),
        "--ubatch-size": str(spec.ubatch_size),
        "--flash-attn": spec.flash_attn,
        "--n-gpu-layers": None if spec.n_gpu_layers is None else str(spec.n_gpu_layers),
        "--threads": None if spec.threads is None else str(spec.threads),
    }
    pairs = [part for name, value in options.items() if value for part in (name, value)]
    return (*pairs, *(["--metrics"] if spec.metrics else []), *spec.extra_arguments)


def trial(spec: LlamaServer) -> Trial | None:
    """That CUDA in the image finds the GPUs; None without GPUs."""
    if not spec.gpus:
        return None
    return Trial(
        command=("/app/llama-server", "--list-devices"),
        pattern=r"^\s*CUDA\d+:",
        count=len(spec.gpus),
        need="cuda",
        cause="llama_server would compute on the CPU: CUDA in its image does not find its GPUs",
        remedy="install a newer NVIDIA driver, or give llama_server.image a tag for an older CUDA "
        "(server-cuda beside server-cuda13)",
    )


def service(spec: LlamaServer, models_directory: str, commit: str = "") -> Service:
    """The container; `commit` is the locked commit behind the model's link, "" without a lock."""
    pointers = [name for name in (spec.model, spec.mmproj) if name]
    health = ("curl", "--fail", "--silent", f"http://127.0.0.1:{CONTAINER_PORT}/health")
    # CUDA counts them in this order, which is that of fit_target; else in one of its own.
    order = ",".join(gpu.uuid for gpu in spec.gpus)
    return Service(
        name=SERVICE,
        capability="llama_server",
        image=spec.image,
        command=command(spec),
        environment={"CUDA_VISIBLE_DEVICES": order} if spec.gpus else {},
        labels={"homeport.model.commit": commit} if commit else {},
        ports=(Port(host=spec.port, container=CONTAINER_PORT),),
        binds=(Bind(source=models_directory, path="/models"),),
        secrets=(API_KEY,),
        gpus=spec.gpus,
        reads=tuple(f"{models_directory}/{name}" for name in pointers),
        health=HealthCheck(test=health, start_period=spec.start_timeout),
        trial=trial(spec),
        start_timeout=spec.start_timeout,
    )


class GpuState(NodeFact):
    """{"gpus": ["GPU-…"], "driver_words": "", "way": "cdi",
    "hook": "/usr/bin/nvidia-container-runtime-hook"}

    `way` is that of `homeport_node.docker_engine.gpu_way`, `hook` what a running dockerd finds.
    """

    stem = "llama_server"


def missing(gpus: tuple[Gpu, ...], seen: dict[str, Any]) -> tuple[str, str] | None:
    """(cause, remedy) when the node cannot give these GPUs to a container, else None."""
    if not gpus:
        return None
    absent = [gpu for gpu in gpus if gpu.uuid not in seen.get("gpus", [])]
    if absent:
        names = ", ".join(f"{gpu.handle} ({gpu.uuid})" for gpu in absent)
        listed = ", ".join(seen.get("gpus", [])) or seen.get("driver_words") or "none"
        return (
            f"llama_server.gpus: this node does not list {names}; nvidia-smi -L says: {listed}",
            "install NVIDIA's driver, or put the UUIDs that `bin/homeport probe` prints into the "
            "targets file",
        )
    # "" is a Docker that does not answer: `docker` and `stack` say so, and nobody knows of this.
    if not seen["hook"] and seen["way"] == "hook":
        return (
            "llama_server.gpus: the GPUs are there, but Docker cannot hand them to a container "
            "(no CDI, no runtime nvidia, and no nvidia-container-runtime-hook in its PATH)",
            "give the inventory nvidia_containers=NvidiaContainers()",
        )
    return None


@operation()
def preflight(gpus: tuple[Gpu, ...]) -> Generator[StringCommand, None, None]:
    """The node lists the GPUs, and Docker can hand them over; else the run stops here."""
    problem = missing(gpus, host.get_fact(GpuState, gpus=[gpu.uuid for gpu in gpus]))
    if problem:
        wanted = ", ".join(f"{gpu.handle} ({gpu.uuid})" for gpu in gpus)
        yield refuse(*problem, wanted=f"GPUs for containers: {wanted}")
    else:
        host.noop("the GPUs are there")


@deploy("llama-server")
def apply(spec: LlamaServer | None) -> None:
    """Refuse a node without the GPUs of the inventory. The stack runs the container."""
    if spec is not None and spec.gpus:
        preflight(name="Find the GPUs", gpus=spec.gpus)


CAPABILITY = Capability(
    summary="llama.cpp's server with its model, projector and API key, on GPUs reserved by UUID",
    proof="container",
    unproven="speed and memory on a real GPU",
)
