"""A converge that is killed heals on the next one: two moments in every run, forty in the soak."""

import pytest

from tests.soak.interruption import LENGTH, heals, moment
from tests.soak.results import passed, record

MOMENTS = range(40)
ORDINARY = (1, 10)


def test_the_moments_are_spread_over_the_whole_run() -> None:
    found = sorted(moment(seed) for seed in MOMENTS)
    quarters = [sum(LENGTH * q / 4 <= at < LENGTH * (q + 1) / 4 for at in found) for q in range(4)]
    assert min(quarters) >= 5


@pytest.mark.container
@pytest.mark.parametrize("seed", ORDINARY)
def test_a_killed_converge_heals(seed: int) -> None:
    heals(seed)


@pytest.mark.soak
@pytest.mark.parametrize("seed", MOMENTS)
def test_every_killed_converge_heals(seed: int) -> None:
    if seed in passed("interruption"):
        pytest.skip("passed already, with this very code")
    record("interruption", heals(seed))
