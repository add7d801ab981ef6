"""A converge that is interrupted heals on the next one: five of the soak's forty moments.

Three in a chain on one bare machine, in which each converge but the last is interrupted, one in
each stage; two while a machine that serves is brought a new model. See `tests/soak`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lab.iona import Iona
from tests.soak.healing import first_heals, update_heals
from tests.soak.moments import STAGES, moment

CHAIN = (3, 7, 14)
UPDATES = (33, 36)
# Seconds for which a silent node is waited for here; the soak waits as long as a person would.
PATIENCE = 20


def test_five_moments_meet_every_stage_and_every_way() -> None:
    found = [moment(number) for number in CHAIN + UPDATES]
    assert tuple(one.stage for one in found[:3]) == STAGES
    assert {one.on for one in found[:3]} == {"bare"}
    assert {one.on for one in found[3:]} == {"serving"}
    assert {one.way for one in found} == {"kill", "reset", "silence"}


@pytest.mark.container
def test_a_first_converge_interrupted_in_every_stage_heals(
    converged: Iona, tell: Callable[[str], None]
) -> None:
    assert converged.left is not None
    hits, seconds = first_heals([moment(number) for number in CHAIN], converged.left, PATIENCE)
    for hit in hits:
        tell(hit.line())
    tell(f"healed by one more converge in {seconds:.1f} s")


@pytest.mark.container
@pytest.mark.parametrize("number", UPDATES)
def test_an_interrupted_update_heals_and_loses_nothing(
    number: int, converged: Iona, tmp_path: Path, tell: Callable[[str], None]
) -> None:
    assert converged.left is not None
    hit, seconds = update_heals(converged, moment(number), tmp_path, converged.left, PATIENCE)
    tell(f"{hit.line()}; healed in {seconds:.1f} s")
