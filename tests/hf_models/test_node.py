"""The models, on a live node: links, content, and that no download is needed to check them."""

import json
import re
from typing import Any

import pytest

from deploys.node import Node

pytestmark = pytest.mark.node

ENTRY = "/opt/homeport/current/bin/homeport-node"


@pytest.fixture(scope="module")
def links(host: Any, node: Node) -> dict[str, tuple[str, str]]:
    """Of each wanted link: its own text, and where it ends."""
    if node.hf_models is None:
        pytest.skip("the inventory wants no models")
    found = {}
    for model in node.hf_models.models:
        for link in model.links:
            path = f"{node.hf_models.directory}/{link}"
            text, end = host.run("readlink %s; readlink -e %s", path, path).stdout.splitlines()
            found[link] = (text, end)
    return found


def test_links_are_relative_and_lead_to_the_wanted_file(
    node: Node, links: dict[str, tuple[str, str]]
) -> None:
    assert node.hf_models is not None
    for model in node.hf_models.models:
        commit = model.source.commit or "[0-9a-f]{40}"
        for link, file in model.links.items():
            text, end = links[link]
            assert not text.startswith("/")
            tail = f"{re.escape(model.name)}/{commit}/{re.escape(file)}"
            assert re.fullmatch(rf"(\.\./)*{tail}", text)
            assert re.fullmatch(f"{re.escape(node.hf_models.directory)}/{tail}", end)


def test_files_have_the_locked_content(
    host: Any, node: Node, links: dict[str, tuple[str, str]]
) -> None:
    assert node.hf_models is not None
    for model in node.hf_models.models:
        locked = {file.path: file for file in model.source.files}
        for link, file in model.links.items():
            if file in locked:
                end = links[link][1]
                assert host.run("stat -c %%s %s", end).stdout.strip() == str(locked[file].size)
                assert host.run("sha256sum %s", end).stdout.split()[0] == locked[file].sha256


def test_the_check_aboard_agrees_without_a_network(
    host: Any, links: dict[str, tuple[str, str]]
) -> None:
    done = host.run(f"unshare --net {ENTRY} hf_models check")
    assert json.loads(done.stdout) == {"ok": True, "faults": {}}
    assert done.rc == 0


def test_nothing_is_left_of_a_download(
    host: Any, node: Node, links: dict[str, tuple[str, str]]
) -> None:
    assert node.hf_models is not None
    found = host.run("find %s -name '*.partial' -o -name '*.new'", node.hf_models.directory)
    assert found.stdout == ""
