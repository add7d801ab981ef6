"""The files that a capability owns: what differs, and what is done about it."""

import os
from pathlib import Path
from typing import Any

import pytest
from pyinfra.context import ctx_host, ctx_state
from pyinfra.facts.files import File

from homeport import own_files
from homeport_node import common
from tests import operations

PATH, TEXT = "/etc/x.conf", "ours\n"
GOOD = own_files.as_put(TEXT)
HASH = GOOD["sha256"][:12]
LINK = {**GOOD, "mode": "777", "sha256": None, "link": "/tmp/same"}


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (GOOD, None),
        (None, (f"sha256 {HASH}", "no such file")),
        ({**GOOD, "sha256": "f" * 64}, (f"sha256 {HASH}", "sha256 ffffffffffff")),
        ({**GOOD, "mode": "666"}, ("mode 644", "mode 666")),
        ({**GOOD, "uid": 1000}, ("owner 0:0", "owner 1000:0")),
        ({**GOOD, "gid": 4, "mode": "664"}, ("mode 644, owner 0:0", "mode 664, owner 0:4")),
        (LINK, ("a file", "a link to /tmp/same")),
        ({**LINK, "link": None}, ("a file", "something else")),
    ],
)
def test_what_differs_of_a_file(
    there: dict[str, Any] | None, words: tuple[str, str] | None
) -> None:
    found = {} if there is None else {PATH: there}
    assert own_files.changes({PATH: TEXT}, found) == ({PATH: TEXT} if words else {}, [])
    said = [(f"{PATH}: {words[0]}", words[1])] if words else []
    assert [*own_files.words({PATH: TEXT}, found)] == said


def test_a_mode_of_its_own() -> None:
    modes = {PATH: "755"}
    assert own_files.changes({PATH: TEXT}, {PATH: GOOD}, modes)[0] == {PATH: TEXT}
    as_wanted = {PATH: own_files.as_put(TEXT, "755")}
    assert own_files.changes({PATH: TEXT}, as_wanted, modes) == ({}, [])
    assert own_files.changes({}, as_wanted) == ({}, [PATH])


def test_a_file_is_seen_as_it_lies_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_text(TEXT)
    file.chmod(0o644)
    link.symlink_to(file)
    mine = {**GOOD, "uid": os.getuid(), "gid": file.stat().st_gid}
    found = common.own_files(map(str, (file, link, tmp_path / "none")))
    assert found.keys() == {str(file), str(link)}
    assert found[str(file)] == mine
    assert found[str(link)]["sha256"] is None
    assert found[str(link)]["link"] == str(file)


SHOWN = """\
Id=a.service
LoadState=loaded
UnitFileState=enabled
DropInPaths=/etc/systemd/system/a.service.d/override.conf /run/systemd/system/service.d/lxc.conf

Id=b.service
LoadState=not-found
DropInPaths=
"""


def test_units_are_shown_with_the_drop_ins_that_are_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(common, "run", lambda *_: common.Ran(0, SHOWN, ""))
    found = common.show_units("a.service", "b.service")
    assert found["a.service"]["UnitFileState"] == "enabled"
    mine = ["/etc/systemd/system/a.service.d/override.conf"]
    assert [common.dropins(one) for one in found.values()] == [mine, []]
    monkeypatch.setattr(common, "run", lambda *_: common.Ran(1, "", "no systemd"))
    assert common.show_units("a.service") == {}


@pytest.mark.parametrize(("paths", "count"), [((), 0), (("/x/y.conf",), 1)])
def test_a_drop_in_of_somebody_elses_is_refused(paths: tuple[str, ...], count: int) -> None:
    words = [str(one) for one in own_files.foreign_dropins("a.service", paths)]
    assert len(words) == count
    assert all("/x/y.conf changes what it does" in one for one in words)


@pytest.mark.parametrize("there", [None, False])
def test_a_link_is_replaced_and_not_followed(there: Any) -> None:
    class Host(operations._Host):
        def get_fact(self, fact: type, *_: Any, **__: Any) -> Any:
            return there if fact is File else None

    with ctx_host.use(Host(())), ctx_state.use(operations._STATE):
        steps = [str(one) for one in own_files.put(PATH, TEXT)]
    removed = [f"unlink {PATH}"] if there is False else []
    assert steps[: len(removed)] == removed
    assert [one for one in steps if one.startswith("unlink")] == removed
    assert steps[-2:] == [f"chown root:root {PATH}", f"chmod 644 {PATH}"]
