"""Caddy at the desk: the spec's rules, the Caddyfile's text, and the differences as cases."""

import os
import pwd
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deploys.caddy import Caddy, Site, check_backends, operations, trust_lines
from deploys.caddy.facts import (
    overridden,
    refusal,
    removal_commands,
    service_steps,
    unserved,
)
from deploys.caddy.spec import CONFIG, DISTRIBUTION, DROPIN, dropin, render
from homeport.own_files import sha256
from homeport.spec import SpecError
from homeport_node import caddy as aboard
from homeport_node import docker_engine
from tests.operations import Words, yielded

UI = Site(name="iona.example.org", to="open_webui")
API = Site(name="iona-api.example.org", to="llama_server")
UNKNOWN: Any = "open"
BACKENDS = {"open_webui": 3000, "llama_server": 8080}
SPEC = Caddy(sites=(UI, API))
SHA = sha256(render(SPEC, BACKENDS))
FILE = {"mode": "644", "uid": 0, "gid": 0, "sha256": SHA, "link": None}
START = f"{{ path=/usr/bin/caddy ; argv[]=/usr/bin/caddy run --config {CONFIG} }}"
OVERRIDE = DROPIN.replace("homeport", "override")
UNIT = {
    "load": "loaded",
    "active": "active",
    "enabled": "enabled",
    "need_reload": False,
    "dropins": [DROPIN],
    "start": START,
    "pid": 354,
    "command": ["/usr/bin/caddy", "run", "--config", CONFIG],
}
GOOD: dict[str, Any] = {
    "version": "2.6.2-12",
    "config": FILE,
    "dropin": {**FILE, "sha256": sha256(dropin())},
    "own_sites": False,
    "unit": UNIT,
    "current": True,
    "adapt_error": "",
    "foreign": [],
    "untrusted": [],
    "root_sha256": "ab" * 32,
    "exposed": [],
}
ROOT_KEY = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.key"
BARE_UNIT = {
    "load": "not-found",
    "active": "inactive",
    "enabled": "",
    "need_reload": False,
    "dropins": [],
    "start": "",
    "pid": 0,
    "command": [],
}
BARE = {
    **GOOD,
    "version": "",
    "config": None,
    "dropin": None,
    "unit": BARE_UNIT,
    "current": None,
    "root_sha256": "",
}


def but(**changes: Any) -> dict[str, Any]:
    """The good state with `changes`; those of the unit as unit={…}."""
    unit = {**UNIT, **changes.pop("unit", {})}
    return {**GOOD, "unit": unit, **changes}


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Caddy(sites=()), "caddy.sites: () must name at least one site"),
        (lambda: Caddy(sites=(UI, UI)), "must name each host once"),
        (lambda: Caddy(sites=(UI,), http=UNKNOWN), "caddy.http: 'open' must be 'redirect' or"),
        (lambda: Caddy(sites=(UI,), max_body_mib=0), "caddy.max_body_mib: 0 must be between"),
        (lambda: Site(name="UI.example.org", to="x"), "caddy.sites.name: 'UI.example.org' must be"),
        (lambda: Site(name="a b {", to="x"), "caddy.sites.name: 'a b {' must be a host name"),
        (lambda: Site(name="192.0.2.1", to="x"), "caddy.sites.name: '192.0.2.1' must be"),
        (lambda: Site(name="a.example", to="127.0.0.1:80 {"), "caddy.sites.to: "),
    ],
)
def test_wrong_input_is_refused(build: Any, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        build()


def test_a_site_without_a_backend_is_refused() -> None:
    check_backends(SPEC, BACKENDS)
    words = "caddy.sites[iona.example.org].to: 'open_webui' must be a capability"
    with pytest.raises(SpecError, match=re.escape(words) + ".*known: llama_server"):
        check_backends(SPEC, {"llama_server": 8080})


def test_the_caddyfile_redirects_plain_http() -> None:
    text = render(SPEC, BACKENDS)
    assert text.startswith("# Managed by Homeport (caddy).")
    assert text.count("redir https://{host}{uri} 308") == 2
    assert text.count("reverse_proxy 127.0.0.1:3000 {") == 1
    assert text.count("reverse_proxy 127.0.0.1:8080 {") == 1
    assert "max_size 256MiB" in text
    # The site's own block is reached over HTTPS alone.
    assert "https://iona.example.org {\n\ttls internal\n\timport site-1\n}" in text
    assert text.count("import site-1") == 1


def test_the_caddyfile_serves_plain_http_where_wanted() -> None:
    text = render(Caddy(sites=(UI,), http="serve"), BACKENDS)
    assert "redir" not in text.replace("redirects", "")
    assert text.count("import site-1") == 2


def test_the_caddyfile_neither_buffers_nor_cuts_streams() -> None:
    settings = [line.strip() for line in render(SPEC, BACKENDS).splitlines()]
    words = {line.split()[0] for line in settings if line and not line.startswith("#")}
    assert not words & {"flush_interval", "encode", "write", "read_body"}


@pytest.mark.parametrize(
    ("observed", "steps"),
    [
        (GOOD, ()),
        (BARE, ("daemon-reload", "enable", "reissue")),
        ({}, ("daemon-reload", "enable", "reissue")),
        (but(current=False), ("reload",)),
        (but(current=None), ("reload",)),
        (but(config={**FILE, "sha256": "0" * 64}), ("reload",)),
        (but(config=None), ("reload",)),
        (but(unit={"need_reload": True}), ("daemon-reload",)),
        (but(unit={"enabled": "disabled"}), ("enable",)),
        (but(unit={"active": "failed", "pid": 0, "command": []}), ("restart",)),
        (
            but(unit={"load": "masked", "enabled": "masked", "dropins": []}),
            ("unmask", "daemon-reload", "enable"),
        ),
        (
            but(unit={"dropins": [], "command": ["caddy", "run", "--config", DISTRIBUTION]}),
            ("daemon-reload", "restart"),
        ),
        (but(root_sha256=""), ("reissue",)),
        (but(exposed=[ROOT_KEY]), ("protect",)),
        (but(untrusted=[UI.name]), ("reissue",)),
        # A name that is not loaded yet cannot have a certificate: that is no reason to reissue.
        (but(untrusted=[UI.name], current=False), ("reload",)),
    ],
)
def test_service_steps(observed: dict[str, Any], steps: tuple[str, ...]) -> None:
    assert service_steps(observed, SHA) == steps


PROXY = {"port": 80, "pid": 9, "program": "docker-proxy", "unit": "docker.service"}
NGINX = {"port": 80, "pid": 7, "program": "nginx", "unit": "nginx.service"}


@pytest.mark.parametrize(
    ("observed", "words"),
    [
        (GOOD, None),
        (BARE, None),
        ({}, None),
        ({**BARE, "own_sites": True}, f"{DISTRIBUTION} holds sites"),
        # Written after Homeport took over: it has no effect, and takes nothing off the air.
        (but(own_sites=True), None),
        (but(foreign=[NGINX]), r"port 80 is taken by nginx \(pid 7, nginx.service\)"),
        (but(foreign=[NGINX]), "systemctl disable --now nginx.service"),
        (but(foreign=[{**NGINX, "unit": "session-1.scope"}]), "`kill 7`"),
        (but(foreign=[{**PROXY, "container": "web"}]), "by the container web, .*`docker stop web`"),
        (
            but(foreign=[{**PROXY, "container": ""}]),
            "a container, .*`docker ps --filter publish=80`",
        ),
        (but(foreign=[{**NGINX, "pid": 0, "unit": ""}]), "a process out of sight.*ss -ltnp"),
    ],
)
def test_refusal(observed: dict[str, Any], words: str | None) -> None:
    reason = refusal(observed)
    if words is None:
        assert reason is None
    else:
        assert reason is not None
        assert re.search(words, ": ".join(reason))


@pytest.mark.parametrize(
    ("observed", "refused"),
    [
        (GOOD, False),
        (BARE, False),
        ({}, False),
        (but(unit={"dropins": [DROPIN, OVERRIDE], "start": f"caddy run {DISTRIBUTION}"}), True),
        (but(unit={"dropins": [DROPIN, OVERRIDE]}), False),
        (but(unit={"need_reload": True, "start": "old"}), False),
    ],
)
def test_another_drop_in_that_wins_is_named(observed: dict[str, Any], refused: bool) -> None:
    reason = overridden(observed)
    assert (reason is not None) is refused
    if reason:
        assert OVERRIDE in reason[0]
        assert DROPIN not in reason[0]


@pytest.mark.parametrize(
    ("mode", "theirs", "found"),
    [(0o600, False, 0), (0o400, False, 0), (0o644, False, 1), (0o000, False, 1), (0o600, True, 1)],
)
def test_a_key_of_the_ca_that_others_may_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, theirs: bool, found: int
) -> None:
    owner = SimpleNamespace(pw_uid=os.getuid() + theirs)
    monkeypatch.setattr(pwd, "getpwnam", lambda _: owner)
    assert aboard.exposed(tmp_path) == []
    key = tmp_path / "root.key"
    key.touch()
    key.chmod(mode)
    assert aboard.exposed(tmp_path) == [str(key)][:found]


def test_what_could_not_be_served_is_said() -> None:
    assert UI.name in unserved(("reissue",), but(untrusted=[UI.name]))[0]
    assert "reload" in unserved(("reload",), but(current=False))[0]


@pytest.mark.parametrize(
    ("observed", "commands"),
    [
        ({}, []),
        (BARE, []),
        ({**GOOD, "config": None, "dropin": None, "unit": {**UNIT, "dropins": []}}, []),
        (GOOD, ["systemctl disable --now caddy.service", "rm -f"]),
        (but(own_sites=True), ["rm -f", "systemctl try-restart caddy.service"]),
        # Interrupted after the files went, before systemd was told.
        (but(config=None, dropin=None), ["systemctl disable --now caddy.service", "rm -f"]),
        ({**GOOD, "unit": BARE_UNIT}, ["rm -f"]),
    ],
)
def test_removal(observed: dict[str, Any], commands: list[str]) -> None:
    found = removal_commands(observed)
    assert len(found) == len(commands)
    for command, start in zip(found, commands, strict=True):
        assert command.startswith(start)
        assert DISTRIBUTION not in command
        assert "pki" not in command


TEXT = render(SPEC, BACKENDS)
RELOAD, REISSUE = "systemctl reload caddy.service", "systemctl stop caddy.service; rm -rf"


@pytest.mark.parametrize(
    ("operation", "arguments", "answers", "commands"),
    [
        (operations.take_over, {"text": dropin(), "names": ()}, [GOOD], []),
        (operations.take_over, {"text": dropin(), "names": ()}, [BARE], ["FileUpload"]),
        (operations.take_over, {"text": dropin(), "names": ()}, [but(foreign=[NGINX])], ["printf"]),
        (operations.configure, {"text": TEXT, "names": ()}, [GOOD], []),
        (
            operations.configure,
            {"text": TEXT, "names": ()},
            [BARE],
            ["install -d", "", "chown 0:0"],
        ),
        (operations.serve, {"config_sha256": SHA, "names": SPEC.names}, [GOOD], []),
        (
            operations.serve,
            {"config_sha256": SHA, "names": SPEC.names},
            [but(current=False), GOOD],
            [RELOAD],
        ),
        # The start shows that the certificates are another CA's.
        (
            operations.serve,
            {"config_sha256": SHA, "names": SPEC.names},
            [but(current=False), but(untrusted=[UI.name]), GOOD],
            [RELOAD, REISSUE],
        ),
        # And what cannot be brought about fails the run.
        (
            operations.serve,
            {"config_sha256": SHA, "names": SPEC.names},
            [but(untrusted=[UI.name])],
            [REISSUE, REISSUE, "printf"],
        ),
        (operations.remove, {}, [BARE], []),
        (operations.remove, {}, [GOOD], ["systemctl disable --now", "rm -f"]),
    ],
)
def test_operations(
    operation: Any,
    arguments: dict[str, Any],
    answers: list[dict[str, Any]],
    commands: list[str],
) -> None:
    found = yielded(operation, *answers, **arguments)
    assert len(found) == len(commands)
    for command, start in zip(found, commands, strict=True):
        assert command.startswith(start or "FileUploadCommand(")


def test_a_new_caddyfile_is_validated_as_caddy_before_it_is_in_place() -> None:
    script = operations.PLACE
    assert "runuser -u caddy -- env -i HOME=/var/lib/caddy" in script
    assert script.index("caddy validate") < script.index("exit 1\n}") < script.index("mv -f")


def test_trust_lines_compare_before_they_install() -> None:
    lines = trust_lines(SPEC, "192.0.2.10", "ab" * 32)
    command = next(line for line in lines if "update-ca-certificates" in line)
    fetch, compare, install = (
        command.index(part) for part in ("http://192.0.2.10/ca.crt", "AB:AB:", "sudo install")
    )
    assert fetch < compare < install
    assert "\n" not in command
    assert "http://[2001:db8::1]/ca.crt" in " ".join(trust_lines(SPEC, "2001:db8::1", "ab" * 32))


def test_listeners_of_others_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """/proc/net/tcp as the kernel prints it: 443 is Caddy's, 80 a stranger's, 22 not asked for."""
    table = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        "   0: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  33 0 111 1\n"
        "   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000 990 0 222 1\n"
        "   2: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000   0 0 333 1\n"
        "   3: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000  33 0 444 1\n"
    )
    files = {
        "/proc/net/tcp": table,
        "/proc/7/comm": "nginx\n",
        "/proc/7/cgroup": "0::/system.slice/nginx.service\n",
    }
    monkeypatch.setattr(aboard, "read", files.get)
    held = {354: {"socket:[222]"}, 7: {"socket:[111]", "socket:[444]"}}
    monkeypatch.setattr(aboard, "_sockets_of", lambda pid: held.get(pid, set()))
    monkeypatch.setattr("os.listdir", lambda path: ["1", "7", "354", "net"])
    assert aboard.foreign_listeners(354) == [NGINX]


def test_a_container_that_holds_a_port_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker's own service is never what is to be stopped."""
    table = "head\n 0: 00000000:0050 00000000:0000 0A 0:0 00:0 0 0 0 111 1\n"
    files = {
        "/proc/net/tcp": table,
        "/proc/9/comm": "docker-proxy\n",
        "/proc/9/cgroup": "0::/system.slice/docker.service\n",
    }
    monkeypatch.setattr(aboard, "read", files.get)
    monkeypatch.setattr(aboard, "_sockets_of", lambda pid: {"socket:[111]"})
    monkeypatch.setattr("os.listdir", lambda path: ["9"])
    web = [{"Id": "1", "Names": ["/web"]}]
    monkeypatch.setattr(docker_engine, "ask", lambda path, filters: web)
    found = aboard.foreign_listeners(0)
    assert found == [{**PROXY, "container": "web"}]
    assert "docker.service" not in ": ".join(refusal(but(foreign=found)) or ())


# What drift says --------------------------------------------------------------------------------

SERVED = {"config_sha256": SHA, "names": SPEC.names}
ROOT_CRT = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
WORDS: list[Words] = [
    (
        operations.take_over,
        [BARE],
        {"text": dropin(), "names": SPEC.names},
        [(f"{DROPIN}: sha256 {sha256(dropin())[:12]}", "no such file")],
    ),
    (
        operations.take_over,
        [but(foreign=[NGINX])],
        {"text": dropin(), "names": SPEC.names},
        [("its name", "port 80 is taken by nginx (pid 7, nginx.service), and Caddy needs it")],
    ),
    (
        operations.configure,
        [but(config={**FILE, "mode": "666", "sha256": "f" * 64})],
        {"text": TEXT, "names": SPEC.names},
        [(f"{CONFIG}: sha256 {SHA[:12]}, mode 644", "sha256 ffffffffffff, mode 666")],
    ),
    (
        operations.serve,
        [but(unit={"load": "masked", "enabled": "masked", "active": "inactive"})],
        SERVED,
        [
            ("caddy.service: not masked", "masked"),
            ("caddy.service: enabled", "masked"),
            (f"caddy.service: runs {CONFIG}", "inactive"),
        ],
    ),
    (
        operations.serve,
        [but(exposed=[ROOT_KEY])],
        SERVED,
        [
            (
                "caddy.service: the CA's keys: for its user alone",
                f"{ROOT_KEY}: another mode or owner",
            )
        ],
    ),
    (
        operations.serve,
        [but(unit={"command": ["caddy", "run", "--config", "/tmp/x"]})],
        SERVED,
        [(f"caddy.service: runs {CONFIG}", "runs something else")],
    ),
    (
        operations.serve,
        [but(current=False, unit={"need_reload": True})],
        SERVED,
        [
            (f"caddy.service: loaded with {DROPIN}", "systemd has not read that"),
            (f"caddy.service: runs the wanted {CONFIG}", "runs another configuration"),
        ],
    ),
    (
        operations.serve,
        [but(untrusted=[UI.name])],
        SERVED,
        [
            (
                f"caddy.service: certificates that lead to {ROOT_CRT}",
                "those of iona.example.org do not",
            )
        ],
    ),
    (
        operations.serve,
        [but(root_sha256="")],
        SERVED,
        [(f"caddy.service: certificates that lead to {ROOT_CRT}", "no such root")],
    ),
    (
        operations.remove,
        [GOOD],
        {},
        [
            (f"{CONFIG}: no such file", "a file of ours"),
            (f"{DROPIN}: no such file", "a file of ours"),
            (f"caddy.service: without {DROPIN}", "loaded with it"),
        ],
    ),
]
