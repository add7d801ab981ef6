"""The plan with prefetched facts is pyinfra's own, whatever happened to the node."""

import random
from dataclasses import dataclass

import pytest

from tests.lab.breaks import BREAKS
from tests.lab.iona import Iona
from tests.lab.plans import assert_same_plan
from tests.soak.results import passed, record

AT_ONCE = 6


@dataclass(frozen=True)
class Drifts:
    """What `seed` chose to break at once, and how many operations saw it."""

    seed: int
    breaks: list[str]
    pending: int


def check(iona: Iona, seed: int) -> Drifts:
    """Break what `seed` chooses, compare the plans, heal."""
    chosen = random.Random(seed).sample(BREAKS, AT_ONCE)
    for one in chosen:
        print(f"seed {seed}: {one.name}")
        iona.machine.run(one.do)  # one may be in another's way: all the same
    # A container whose health is not known yet would change the plan between two looks at it.
    known = "! docker ps | grep -q 'health: starting'"
    iona.machine.wait_until(known, timeout=60, what="the containers' health is not known yet")
    changed = assert_same_plan(iona.stage)
    assert changed != []
    iona.heal()
    return Drifts(seed, [one.name for one in chosen], len(changed))


@pytest.mark.container
@pytest.mark.parametrize("seed", range(1))
def test_the_plan_is_the_same_over_random_drifts(iona: Iona, seed: int) -> None:
    check(iona, seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 40))
def test_the_plan_is_the_same_over_many_random_drifts(iona: Iona, seed: int) -> None:
    if seed in passed("random_drift"):
        pytest.skip("passed already, with this very code")
    record("random_drift", check(iona, seed))
