"""Cases: llama-server's arguments, what is refused at the desk, and a node without its GPUs."""

import dataclasses
import re
from typing import Any

import pytest

from deploys.llama_server import API_KEY, LlamaServer, command, missing, preflight, service
from homeport.pins import Gpu, Image
from homeport.spec import SpecError
from tests.operations import Words

LEFT = Gpu(handle="left", uuid="GPU-aaaa")
RIGHT = Gpu(handle="right", uuid="GPU-bbbb")
SPEC = LlamaServer(
    image=Image(name="ghcr.io/ggml-org/llama.cpp:server-cuda"),
    gpus=(LEFT, RIGHT),
    model="model.gguf",
    mmproj="mmproj.gguf",
    alias="gemma-4-26b-a4b",
    ctx_size=131072,
    cache_type_k="q4_0",
    cache_type_v="q4_0",
    fit_target=(2048, 1024),
    batch_size=1024,
    ubatch_size=256,
)


def changed(**changes: Any) -> LlamaServer:
    return dataclasses.replace(SPEC, **changes)


def value(spec: LlamaServer, name: str) -> str | None:
    arguments = command(spec)
    return arguments[arguments.index(name) + 1] if name in arguments else None


def test_iona() -> None:
    wanted = {
        "--host": "0.0.0.0",
        "--port": "8080",
        "-m": "/models/model.gguf",
        "--mmproj": "/models/mmproj.gguf",
        "--alias": "gemma-4-26b-a4b",
        "--api-key-file": "/run/secrets/llama_server.api_key",
        "--ctx-size": "131072",
        "--parallel": "1",
        "--cache-type-k": "q4_0",
        "--cache-type-v": "q4_0",
        "--split-mode": "layer",
        "--fit": "on",
        "--fit-target": "2048,1024",
        "--batch-size": "1024",
        "--ubatch-size": "256",
        "--flash-attn": "auto",
    }
    assert command(SPEC) == tuple(part for pair in wanted.items() for part in pair)


def test_options() -> None:
    assert value(changed(mmproj=None), "--mmproj") is None
    layers = changed(fit_target=(), n_gpu_layers=0, threads=4)
    assert value(layers, "--n-gpu-layers") == "0"
    assert value(layers, "--fit") == "off"
    assert value(layers, "--threads") == "4"
    more = changed(metrics=True, extra_arguments=("--jinja",))
    assert command(more)[-2:] == ("--metrics", "--jinja")


def test_service() -> None:
    one = service(SPEC, "/srv/models", "c" * 40)
    assert [(port.host, port.container) for port in one.ports] == [(8080, 8080)]
    assert one.binds[0].source == "/srv/models"
    assert one.secrets == (API_KEY,)
    assert one.gpus == (LEFT, RIGHT)
    assert one.reads == ("/srv/models/model.gguf", "/srv/models/mmproj.gguf")
    assert one.health is not None
    assert one.health.start_period == SPEC.start_timeout
    # The order of fit_target, whatever order CUDA would choose.
    assert one.environment == {"CUDA_VISIBLE_DEVICES": "GPU-aaaa,GPU-bbbb"}
    assert one != service(SPEC, "/srv/models", "d" * 40)
    assert service(changed(port=9000), "/srv/models").ports[0].container == 8080


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": "/model.gguf"}, "model"),
        ({"model": "../model.gguf"}, "model"),
        ({"mmproj": "../m"}, "mmproj"),
        ({"alias": "two words"}, "alias"),
        ({"port": 0}, "port"),
        ({"ctx_size": 0}, "ctx_size"),
        ({"parallel": 0}, "parallel"),
        ({"batch_size": -1}, "batch_size"),
        ({"ubatch_size": 2048}, "ubatch_size"),
        ({"start_timeout": 0}, "start_timeout"),
        ({"cache_type_k": "q3_0"}, "cache_type_k"),
        ({"cache_type_v": "q9_0"}, "cache_type_v"),
        ({"flash_attn": "off"}, "flash_attn"),
        ({"split_mode": "rows"}, "split_mode"),
        ({"gpus": (LEFT, LEFT)}, "gpus"),
        ({"fit_target": (1024,)}, "fit_target"),
        ({"fit_target": (1024, -1)}, "fit_target"),
        ({"n_gpu_layers": 10}, "n_gpu_layers"),
        ({"n_gpu_layers": -1, "fit_target": ()}, "n_gpu_layers"),
        ({"threads": 0}, "threads"),
        ({"extra_arguments": ("--port=1",)}, "extra_arguments"),
        ({"extra_arguments": ("",)}, "extra_arguments"),
    ],
)
def test_wrong_input_names_the_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(SpecError, match=f"llama_server.{field}: "):
        changed(**changes)


SEEN = {
    "gpus": ["GPU-aaaa", "GPU-bbbb"],
    "driver_words": "",
    "hook": "/usr/bin/nvidia-container-runtime-hook",
    "way": "hook",
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"gpus": ["GPU-aaaa"]}, "does not list right (GPU-bbbb)"),
        ({"gpus": [], "driver_words": "no such command"}, "no such command"),
        ({"hook": ""}, "cannot hand them"),
        # Docker does not answer: that is said where it is so.
        ({"hook": "", "way": ""}, ""),
        ({"hook": "", "way": "runtime"}, ""),
        ({"hook": "", "way": "cdi"}, ""),
    ],
)
def test_a_node_without_its_gpus_is_refused(changes: dict[str, Any], words: str) -> None:
    problem = missing(SPEC.gpus, {**SEEN, **changes})
    if words:
        assert problem is not None
        assert words in problem[0]
    else:
        assert problem is None


def test_the_image_is_asked_for_its_gpus() -> None:
    asked = service(SPEC, "/srv/models").trial
    assert asked is not None
    assert (asked.count, asked.need) == (2, "cuda")
    listed = "Available devices:\n  CUDA0: NVIDIA GeForce RTX 2080 Ti (11264 MiB, 9 MiB free)\n"
    assert len(re.findall(asked.pattern, listed, re.MULTILINE)) == 1
    assert not re.findall(asked.pattern, "Available devices:\n  (none)\n", re.MULTILINE)
    without = service(changed(gpus=(), fit_target=()), "/srv/models")
    assert without.trial is None
    assert without.environment == {}


def test_the_proof_that_it_computes_there_needs_cuda() -> None:
    assert LlamaServer.CHECKS_NEED.keys() == {"cuda"}


def test_a_bare_node_is_refused_and_no_gpu_needs_none() -> None:
    assert missing(SPEC.gpus, {}) is not None
    assert missing((), {}) is None


# What drift says --------------------------------------------------------------------------------

GPUS = {"gpus": SPEC.gpus}
WORDS: list[Words] = [
    (preflight, [{"gpus": ["GPU-aaaa", "GPU-bbbb"], "hook": "x", "way": "hook"}], GPUS, []),
    (
        preflight,
        [{"gpus": ["GPU-aaaa"]}],
        GPUS,
        [
            (
                "GPUs for containers: left (GPU-aaaa), right (GPU-bbbb)",
                "llama_server.gpus: this node does not list right (GPU-bbbb); "
                "nvidia-smi -L says: GPU-aaaa",
            )
        ],
    ),
]
