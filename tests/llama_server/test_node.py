"""On a live node: llama-server answers to the key alone, with the inventory's model."""

import json
from typing import Any

import pytest

from deploys.node import Node
from homeport.targets import Target

pytestmark = pytest.mark.node

KEY_FILE = "/etc/homeport/secrets/llama_server.api_key"
# The key goes to curl over standard input: an argument would show in `ps`.
WITH_KEY = f'printf \'header = "Authorization: Bearer %s"\' "$(cat {KEY_FILE})" | curl -s -K -'


@pytest.fixture(scope="module")
def base(node: Node) -> str:
    if node.llama_server is None:
        pytest.skip("the inventory wants no llama_server")
    return f"http://127.0.0.1:{node.llama_server.port}"


def _chat(node: Node) -> str:
    assert node.llama_server is not None
    body = {
        "model": node.llama_server.alias,
        "messages": [{"role": "user", "content": "Hello"}],
        "max_tokens": 4,
    }
    return f"-H 'Content-Type: application/json' -d '{json.dumps(body)}'"


def test_refused_without_the_key_and_answered_with_it(node: Node, base: str, host: Any) -> None:
    status = "-o /dev/null -w '%{http_code}'"
    url = f"{base}/v1/chat/completions {_chat(node)}"
    assert host.check_output(f"curl -s {status} {url}") == "401"
    assert host.check_output(f"{WITH_KEY} {status} {url}") == "200"


def test_it_serves_the_alias_of_the_inventory(node: Node, base: str, host: Any) -> None:
    assert node.llama_server is not None
    listed = json.loads(host.check_output(f"{WITH_KEY} {base}/v1/models"))
    assert [model["id"] for model in listed["data"]] == [node.llama_server.alias]


def test_context_and_slots_are_those_of_the_inventory(node: Node, base: str, host: Any) -> None:
    assert node.llama_server is not None
    slots = json.loads(host.check_output(f"{WITH_KEY} {base}/props"))
    assert slots["total_slots"] == node.llama_server.parallel
    per_slot = node.llama_server.ctx_size // node.llama_server.parallel
    assert slots["default_generation_settings"]["n_ctx"] == per_slot


def test_the_container_sees_exactly_its_gpus(node: Node, host: Any) -> None:
    assert node.llama_server is not None
    wanted = {gpu.uuid for gpu in node.llama_server.gpus}
    if not wanted:
        pytest.skip("the inventory gives it no GPU")
    service = "label=com.docker.compose.service=llama-server"
    listed = host.check_output(f"docker exec $(docker ps -q --filter {service}) nvidia-smi -L")
    assert {line.split("UUID: ")[1].rstrip(")") for line in listed.splitlines()} == wanted


def test_the_engine_computes_on_each_of_its_gpus(node: Node, target: Target, host: Any) -> None:
    """A driver older than the image's CUDA lets it serve from the CPU, without a word."""
    assert node.llama_server is not None
    wanted = {gpu.uuid for gpu in node.llama_server.gpus}
    if not wanted:
        pytest.skip("the inventory gives it no GPU")
    if "cuda" in target.lacks:
        pytest.skip(f"not exercised here: no cuda: {target.lacks['cuda']}")
    service = "label=com.docker.compose.service=llama-server"
    top = host.check_output(f"docker top $(docker ps -q --filter {service}) -o pid")
    processes = {line.strip() for line in top.splitlines()[1:]}
    query = "nvidia-smi --query-compute-apps=gpu_uuid,pid --format=csv,noheader"
    pairs = [line.split(", ") for line in host.check_output(query).splitlines() if ", " in line]
    assert {uuid for uuid, pid in pairs if pid in processes} >= wanted
