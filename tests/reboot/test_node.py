"""A live node is in the boot that it is to be in: none is under way, and none is prepared."""

from typing import Any

import pytest

pytestmark = pytest.mark.node


def test_no_reboot_is_under_way_or_prepared(host: Any) -> None:
    jobs = host.check_output("systemctl list-jobs --no-legend --no-pager")
    assert not [job for job in ("reboot.target", "shutdown.target") if job in jobs]
    assert not host.file("/run/systemd/shutdown/scheduled").exists
    assert not host.file("/var/lib/homeport/kernel_cmdline.json").exists
