"""What `verify` prints of its checks."""

import pytest

from homeport.report import console
from homeport.verify import Check, Verification, print_result


def check(capability: str, name: str, outcome: str = "passed", words: str = "") -> Check:
    return Check(capability=capability, name=name, outcome=outcome, seconds=0.1, words=words)


GOOD = (
    check("docker", "test_a"),
    check("docker", "test_b", "skipped", "no container of the stack runs"),
    check("vfio", "test_c", "skipped", "this node gives no cards away"),
    check("vfio", "test_d", "skipped", "this node gives no cards away"),
)


def printed(*checks: Check) -> list[str]:
    with console.capture() as captured:
        print_result(Verification(checks=checks, seconds=2.0, finished=True), "pytest's own words")
    return captured.get().splitlines()


def test_a_capability_that_was_left_out_whole_is_not_called_verified() -> None:
    assert printed(*GOOD) == [
        "  verified  docker: 1 passed, 1 skipped",
        "      test_b: no container of the stack runs",
        "  left out  vfio: this node gives no cards away",
        "checks: 1 passed, 3 skipped, in 2.0 s",
    ]


def test_a_failure_has_its_words_and_pytest_s() -> None:
    said = printed(*GOOD, check("caddy", "test_e", "failed", "port 443 [::] is closed"))
    assert said[3:] == [
        "  failed    caddy: 1 failed",
        "      test_e: port 443 [::] is closed",
        "pytest's own words",
        "checks: 1 passed, 1 failed, 3 skipped, in 2.0 s",
    ]


@pytest.mark.parametrize("checks", [(), GOOD[2:]])
def test_no_check_at_all_proves_nothing(checks: tuple[Check, ...]) -> None:
    assert not Verification(checks=checks, seconds=2.0, finished=True).ok
    assert "pytest's own words" in printed(*checks)
