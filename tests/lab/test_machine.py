"""A lab machine is bare, whole, and cannot reach its host."""

import subprocess

import pytest

from homeport.lab import LabError
from homeport.lab.machine import Machine, machine
from tests.lab.conftest import Lab

pytestmark = pytest.mark.container


def ssh(lab: Lab, command: str, host_key: str) -> "subprocess.CompletedProcess[str]":
    known = lab.ssh_key.with_name("known_hosts")
    known.write_text(f"{lab.machine.address} {host_key}\n")
    return subprocess.run(
        [
            *("ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
            *("-o", f"UserKnownHostsFile={known}", "-i", str(lab.ssh_key)),
            *(f"root@{lab.machine.address}", command),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_ssh_with_the_promised_host_key(lab: Lab) -> None:
    assert ssh(lab, "hostname", lab.machine.host_key).stdout.strip() == "iona"
    other = lab.machine.host_key[:-8] + "AAAAAAAA"
    assert ssh(lab, "hostname", other).returncode == 255


def test_machine_is_bare(lab: Lab) -> None:
    for program in ("docker", "caddy", "nmcli", "pip3", "compose"):
        lab.machine.fail(f"command -v {program}")
    assert lab.machine.succeed("ls -A /var/lib/docker /srv") == "/srv:\n\n/var/lib/docker:"
    assert lab.machine.succeed("systemctl --failed --no-legend --plain") == ""
    assert lab.machine.succeed("systemctl is-system-running") == "running"


def test_ordinary_files(lab: Lab) -> None:
    for name in ("hosts", "resolv.conf", "hostname"):
        lab.machine.fail(f"mountpoint -q /etc/{name}")
    hosts = lab.machine.succeed("cat /etc/hosts")
    assert f"{lab.sources.address}\tregistry.lab.internal" in hosts


def test_succeed_fail_and_waiting_can_fail(lab: Lab) -> None:
    with pytest.raises(LabError, match="exit 3: words"):
        lab.machine.succeed("echo words >&2; exit 3")
    with pytest.raises(LabError, match="should have failed"):
        lab.machine.fail("true")
    with pytest.raises(LabError, match="not active"):
        lab.machine.wait_for_unit("no-such-thing.service", timeout=0.5)
    with pytest.raises(LabError, match="port 81"):
        lab.machine.wait_for_open_port(81, timeout=0.5)
    lab.machine.wait_for_unit("ssh.service", timeout=5)


@pytest.mark.parametrize(
    "attempt",
    [
        "date -s '2001-01-01'",
        "echo 1 > /proc/sys/kernel/panic",
        "echo b > /proc/sysrq-trigger",
        "mknod /tmp/disk b 254 0 && head -c 1 /tmp/disk",
        "mknod /tmp/memory c 1 1 && head -c 1 /tmp/memory",
        "mount -t sysfs sysfs /mnt && echo 1 > /mnt/class/net/lo/no-such",
        "dmesg --clear",
    ],
)
def test_host_is_out_of_reach(lab: Lab, attempt: str) -> None:
    try:
        lab.machine.fail(attempt)
    finally:
        lab.machine.run("rm -f /tmp/disk /tmp/memory; umount /mnt")


def test_own_sysctls_are_ours(lab: Lab) -> None:
    lab.machine.succeed(
        "sysctl -q net.ipv4.conf.all.route_localnet=1 || "
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet"
    )
    assert lab.machine.succeed("cat /proc/sys/net/ipv4/conf/all/route_localnet") == "1"
    with open("/proc/sys/net/ipv4/conf/all/route_localnet") as file:
        assert file.read().strip() == "0"


def test_reboot_keeps_the_disk_and_ends_the_processes(lab: Lab) -> None:
    lab.machine.succeed("echo kept > /root/kept; echo '192.0.2.9 mine' >> /etc/hosts")
    lab.machine.succeed("touch /run/gone; systemd-run --quiet sleep 3600")
    lab.machine.reboot()
    assert lab.machine.succeed("cat /root/kept") == "kept"
    assert "192.0.2.9 mine" in lab.machine.succeed("cat /etc/hosts")
    lab.machine.fail("test -e /run/gone")
    assert lab.machine.succeed("ps -e -o args= 2>/dev/null | grep -c '[s]leep 3600' || true") in (
        "0",
        "",
    )


def test_power_cut(lab: Lab) -> None:
    lab.machine.succeed("echo kept > /root/cut")
    lab.machine.power_cut()
    with pytest.raises(LabError):
        lab.machine.succeed("true")
    lab.machine.start()
    assert lab.machine.succeed("cat /root/cut") == "kept"


def test_neighbour_reaches_the_machine_and_routes_through_it(lab: Lab) -> None:
    # An answer that nobody else gives: beyond the lab, anything might accept a connection.
    answer = (
        "import socket; s = socket.create_server(('', 8123)); "
        "[c.sendall(b'the node') or c.close() for c, _ in iter(s.accept, None)]"
    )
    ask = (
        "import socket, sys\n"
        "try: print(socket.create_connection((sys.argv[1], 8123), 3).recv(64).decode())\n"
        "except OSError as error: print(error)"
    )
    lab.machine.succeed(f'systemd-run --quiet --unit=answer python3 -c "{answer}"')
    lab.machine.wait_for_open_port(8123, timeout=10)
    lab.machine.succeed("ip link add inside type veth && ip address add 10.213.9.1/24 dev inside")
    try:
        assert lab.neighbour.python(ask, lab.machine.address) == "the node"
        assert lab.neighbour.python(ask, "10.213.9.1") != "the node"
        lab.neighbour.route("10.213.9.0/24", lab.machine.address)
        assert lab.neighbour.python(ask, "10.213.9.1") == "the node"
    finally:
        lab.machine.succeed("systemctl stop answer; ip link delete inside")


def docker_sees_gpus(node: Machine) -> None:
    """Install the distribution's Docker and start containers with and without GPUs."""
    install = "DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends"
    node.succeed("apt-get update", timeout=120)
    node.succeed(
        f"{install} docker.io iptables $(apt-cache --names-only search '^docker-cli$' "
        "| cut -d' ' -f1)",
        timeout=300,
    )
    node.wait_for_unit("docker.service")
    assert node.succeed("docker info --format '{{.Driver}}'") == "overlay2"
    node.succeed(
        "cd / && tar -ch --hard-dereference bin/sh bin/cat bin/sed bin/tr "
        "$(ldd /bin/sh /bin/sed | grep -o '/[^ ]*' | grep '\\.so' | sed 's,^/,,' | sort -u) "
        "2>/dev/null | docker import - small"
    )
    left, right = node.gpus
    both = node.succeed("docker run --rm --gpus all small nvidia-smi -L")
    assert [line[-41:-1] for line in both.splitlines()] == [left.uuid, right.uuid]
    one = node.succeed(f"docker run --rm --gpus device={right.uuid} small nvidia-smi -L")
    assert one == f"GPU 0: {right.name} (UUID: {right.uuid})"
    node.fail("docker run --rm small nvidia-smi -L")
    asked = f"docker run --rm --gpus device={left.uuid} small nvidia-smi -L"
    node.unplug("left")
    assert f"{left.uuid}: unknown device" in node.fail(asked)
    assert left.uuid not in node.succeed("nvidia-smi -L")
    node.plug_all()
    node.succeed(asked)


def test_gpus_in_docker_26(lab: Lab) -> None:
    docker_sees_gpus(lab.machine)


def test_gpus_in_docker_20(lab: Lab) -> None:
    with machine(
        lab.engine,
        lab.network,
        "old",
        ssh_key=lab.ssh_key,
        ssh_public=lab.ssh_public,
        release="bookworm",
        gpus=("left", "right"),
    ) as old:
        assert lab.machine.gpus[0].uuid != old.gpus[0].uuid
        docker_sees_gpus(old)
