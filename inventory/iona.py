"""Iona: one machine, two RTX 2080 Ti (11 GB each), one model, one user or a small team.

The numbers were chosen by trial on that machine. "The limiting factor was the combined effect of
KV cache growth, context length, and the safety margin."
"""

from deploys.base import Base
from deploys.caddy import Caddy, Site
from deploys.docker import Docker
from deploys.hf_models import HfModels, Model
from deploys.hotspot import Hotspot
from deploys.llama_server import LlamaServer
from deploys.node import Node
from deploys.nvidia_containers import NvidiaContainers
from deploys.open_webui import OpenWebui
from homeport.inventory import inventory
from homeport.pins import HubRepo, gpu, image, radio

GEMMA = Model(
    name="gemma4-26b",
    source=HubRepo(
        repo="bartowski/google_gemma-4-26B-A4B-it-GGUF",
        patterns=("*Q4_0.gguf", "mmproj-google_gemma-4-26B-A4B-it-f16.gguf"),
    ),
    # Stable pointers: the engine reads these names whatever commit is behind them.
    links={
        "model.gguf": "google_gemma-4-26B-A4B-it-Q4_0.gguf",
        "mmproj.gguf": "mmproj-google_gemma-4-26B-A4B-it-f16.gguf",
    },
)

IONA = Node(
    name="iona",
    base=Base(timezone="Etc/UTC"),
    nvidia_containers=NvidiaContainers(),
    docker=Docker(),
    hf_models=HfModels(directory="/srv/homeport/models", models=(GEMMA,)),
    llama_server=LlamaServer(
        image=image("ghcr.io/ggml-org/llama.cpp:server-cuda"),
        gpus=(gpu("left"), gpu("right")),
        model="model.gguf",
        mmproj="mmproj.gguf",
        alias="gemma-4-26b-a4b",
        port=8080,
        ctx_size=131072,
        parallel=1,  # more slots fragment the KV cache and cost context
        cache_type_k="q4_0",
        cache_type_v="q4_0",
        split_mode="layer",
        fit_target=(2048, 1024),
        batch_size=1024,
        ubatch_size=256,
    ),
    open_webui=OpenWebui(
        image=image("ghcr.io/open-webui/open-webui:v0.12.4"),
        port=3000,
        volume="open-webui",
    ),
    caddy=Caddy(
        sites=(
            Site(name="iona.local.arpeggio.one", to="open_webui"),
            Site(name="iona-api.local.arpeggio.one", to="llama_server"),
        ),
        http="redirect",
    ),
    hotspot=Hotspot(radio=radio("hotspot"), ssid="MoonshotBridge", address="10.42.0.1/24"),
)

hosts = inventory(__file__, iona=IONA)
