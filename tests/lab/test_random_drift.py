"""The plan with prefetched facts is pyinfra's own, whatever happened to the node."""

import random

import pytest

from tests.lab.breaks import BREAKS
from tests.lab.iona import Iona
from tests.lab.test_drift import assert_same_plan

AT_ONCE = 6


def check(iona: Iona, seed: int) -> None:
    """Break what `seed` chooses, compare the plans, heal."""
    for one in random.Random(seed).sample(BREAKS, AT_ONCE):
        print(f"seed {seed}: {one.name}")
        iona.machine.run(one.do)  # one may be in another's way: all the same
    # A container whose health is not known yet would change the plan between two looks at it.
    known = "! docker ps | grep -q 'health: starting'"
    iona.machine.wait_until(known, timeout=60, what="the containers' health is not known yet")
    assert assert_same_plan(iona.stage) != []
    iona.heal()


@pytest.mark.container
@pytest.mark.parametrize("seed", range(1))
def test_the_plan_is_the_same_over_random_drifts(iona: Iona, seed: int) -> None:
    check(iona, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 40))
def test_the_plan_is_the_same_over_many_random_drifts(iona: Iona, seed: int) -> None:
    check(iona, seed)
