"""A converge that is interrupted heals on the next one: all forty moments.

Each of the thirty on a bare machine has one of its own, so that the converge after it is a second
one in the strict sense, and ends as a first would. The ten updates share one machine that serves:
each begins on what the one before was proved to have left. A chain, in which the converge that
follows an interruption is itself interrupted, is in the ordinary run (`tests/lab`).
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.iona import Iona
from tests.soak.healing import case, first_heals, update_heals
from tests.soak.moments import BARE, MOMENTS, STAGES, moment
from tests.soak.results import passed, record


def test_there_are_at_least_ten_moments_in_each_stage_and_both_ways_in_each() -> None:
    found = [moment(number) for number in MOMENTS]
    stages = Counter(one.stage for one in found)
    assert len(found) == 40
    assert set(stages) == set(STAGES)
    assert min(stages.values()) >= 10
    for stage in STAGES:
        ways = Counter(one.way for one in found if one.stage == stage)
        assert ways["kill"] >= 5
        assert ways["reset"] >= 2
        assert ways["silence"] >= 2
    assert Counter(one.on for one in found) == {"bare": BARE, "serving": 10}


@pytest.mark.parametrize("stage", STAGES)
def test_the_moments_are_spread_over_the_stage(stage: str) -> None:
    found = [moment(n).share for n in range(BARE) if moment(n).stage == stage]
    assert found == sorted(found)
    assert [int(share / 0.9 * 10) for share in found] == list(range(10))


def test_a_number_always_says_the_same_moment() -> None:
    assert [moment(n) for n in MOMENTS] == [moment(n) for n in MOMENTS]
    assert len({moment(n) for n in MOMENTS}) == 40


def test_a_moment_that_was_missed_comes_earlier_the_next_time() -> None:
    late = moment(29)
    assert 0 < late.earlier().share < late.share
    assert late.earlier().stage == late.stage


@pytest.mark.soak
@pytest.mark.parametrize("number", MOMENTS)
def test_every_interrupted_converge_heals(
    number: int, serving: Iona, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    if number in passed("interruption"):
        pytest.skip("passed already, with this very code")
    assert serving.left is not None
    here = moment(number)
    if here.on == "bare":
        (hit,), seconds = first_heals([here], serving.left)
    else:
        hit, seconds = update_heals(serving, here, tmp_path, serving.left)
    tell(f"{hit.line()}; healed in {seconds:.1f} s")
    record("interruption", case(hit, seconds))
