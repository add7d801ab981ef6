"""The forty moments at which a converge is interrupted: where, in which stage, how, how far in.

A moment is a share of its stage, not a time of the clock: "when half of the packages are
installed" is the same moment on a slow machine, and certainly inside the stage. The shares are
spread: each tenth of a stage has one. A number says the same moment in every run.
"""

import random
from dataclasses import dataclass, replace

STAGES = ("apt", "download", "start")
# SIGKILL to the whole process group at the desk; the connection reset; the node gone silent.
WAYS = ("kill", "reset", "kill", "silence")
MOMENTS = range(40)
# Numbers below are first converges of a bare machine; the others bring a new model to a machine
# that serves: that has no apt in it.
BARE = 30
# The end of a stage is no moment of it: what is left is too short to be met.
LAST = 0.9
LONGEST_DELAY = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """Interrupt in `stage`, `way`, when `share` of it is behind and then `delay_s` seconds later.

    `on` is "bare" or "serving".
    """

    number: int
    on: str
    stage: str
    way: str
    share: float
    delay_s: float

    def earlier(self) -> "Moment":
        """The same, half as far in: for when the stage was over before it came."""
        return replace(self, share=round(self.share / 2, 3), delay_s=0.0)


def moment(number: int) -> Moment:
    """The moment that is called `number`, of `MOMENTS`."""
    chance = random.Random(number)
    bare = number < BARE
    stages = STAGES if bare else STAGES[1:]
    turn, stage = divmod(number if bare else number - BARE, len(stages))
    slices = BARE // len(STAGES) if bare else (len(MOMENTS) - BARE) // len(stages)
    # The first of each stage comes as soon as it begins: nothing is behind then, by any measure.
    share = LAST * (turn + chance.random()) / slices if turn else 0.0
    return Moment(
        number=number,
        on="bare" if bare else "serving",
        stage=stages[stage],
        way=WAYS[turn % len(WAYS)],
        share=round(share, 3),
        delay_s=round(chance.uniform(0, LONGEST_DELAY), 2),
    )
