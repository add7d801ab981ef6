"""The base of a live node: packages, zone, clock, trusted CAs."""

import ssl
import tempfile
from typing import Any

import pytest

from deploys.base import CLOCKS, PACKAGES
from deploys.node import Node
from homeport.targets import Target

pytestmark = pytest.mark.node


def test_packages_are_installed(host: Any, node: Node) -> None:
    names = [*PACKAGES, *node.base.packages]
    shown = host.check_output("dpkg -s " + " ".join(names) + " | grep -c 'install ok installed'")
    assert int(shown) == len(names)


def test_timezone(host: Any, node: Node) -> None:
    zone = host.check_output("realpath /etc/localtime")
    assert zone == host.check_output(f"realpath /usr/share/zoneinfo/{node.base.timezone}")


def test_a_clock_keeper_is_enabled(host: Any) -> None:
    asked = " ".join(CLOCKS.values())
    # One by one: systemd 252 prints nothing at all when one of several does not exist.
    states = host.run(f"for unit in {asked}; do systemctl is-enabled $unit; done").stdout
    assert "enabled" in states.split()


def test_the_clock_is_in_step(host: Any) -> None:
    if host.run("systemd-detect-virt --container --quiet").rc == 0:
        pytest.skip("a container has its host's clock")
    assert host.check_output("timedatectl show -p NTPSynchronized --value") == "yes"


def test_the_sources_are_trusted(host: Any, target: Target) -> None:
    """What the node's own OpenSSL trusts, read back as certificates."""
    bundle = host.check_output("cat /etc/ssl/certs/ca-certificates.crt")
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(bundle + "\n")
        file.flush()
        trusted = set(ssl.create_default_context(cafile=file.name).get_ca_certs(binary_form=True))
    for text in target.sources.ca_certificates:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=text)
        assert set(context.get_ca_certs(binary_form=True)) <= trusted
