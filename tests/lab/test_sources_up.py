"""The lab's sources as a machine sees them: by name, over TLS, with the lab's authority."""

import json

import pytest

from homeport.lab import LabError
from homeport.lab.images import node_image
from tests.lab.conftest import Lab

pytestmark = pytest.mark.container

CA = "/root/lab-ca.crt"


@pytest.fixture(scope="module", autouse=True)
def _certificate(lab: Lab) -> None:
    lab.machine.put(CA, lab.sources.authority.certificate.encode())


def get(lab: Lab, url: str) -> str:
    return lab.machine.succeed(f"curl --silent --show-error --fail --cacert {CA} {url}")


def test_only_the_labs_authority_vouches(lab: Lab) -> None:
    url = "https://registry.lab.internal:5000/v2/"
    assert get(lab, url) == "{}"
    assert "certificate" in lab.machine.fail(f"curl --silent --show-error {url}")


def test_package_index(lab: Lab) -> None:
    assert "lab-sample" in get(lab, f"{lab.sources.pypi}/")
    assert "#sha256=" in get(lab, f"{lab.sources.pypi}/lab_sample/")
    file = "https://pypi.lab.internal:8443/files/lab_sample-1.0-py3-none-any.whl"
    assert get(lab, file) == "a wheel to be served"
    assert "404" in lab.machine.fail(f"curl -sSf --cacert {CA} {lab.sources.pypi}/absent/")


def test_pushed_image_is_the_same_image(lab: Lab) -> None:
    reference = node_image(lab.engine)
    name = "ghcr.io/homeport-test/node:1"
    digest = lab.sources.push(reference, name)
    assert lab.sources.push(reference, name) == digest
    path = "https://registry.lab.internal:5000/v2/homeport-test/node"
    kind = "Accept: application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.loads(get(lab, f"-H '{kind}' {path}/manifests/{digest}"))
    assert manifest["config"]["digest"] == lab.engine.image_id(reference)
    size = get(
        lab, f"-o /dev/null -w '%{{size_download}}' {path}/blobs/" + manifest["layers"][0]["digest"]
    )
    assert int(size) == manifest["layers"][0]["size"] > 1 << 20


def test_a_registry_that_the_lab_does_not_stand_for_is_refused(lab: Lab) -> None:
    with pytest.raises(LabError, match="stands in for"):
        lab.sources.push("x", "quay.io/a/b:1")


def test_registry_can_be_away(lab: Lab) -> None:
    url = "https://registry.lab.internal:5000/v2/"
    lab.sources.stop("registry")
    try:
        assert "connect" in lab.machine.fail(f"curl -sS --cacert {CA} {url}").lower()
    finally:
        lab.sources.start("registry")
    assert get(lab, url) == "{}"
