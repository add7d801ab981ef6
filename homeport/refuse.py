"""How a step stops a run when the node's circumstances forbid it."""

import shlex

from pyinfra.api import StringCommand


class Refusal(StringCommand):
    """A command that fails, saying why; `cause` is what is there instead of `wanted`.

    `at_desk`: the desk cannot know what is wanted, so nothing is said of the node.
    """

    def __init__(self, text: str, cause: str, wanted: str, at_desk: bool) -> None:
        super().__init__(text)
        self.cause = cause
        self.wanted = wanted
        self.at_desk = at_desk


def refuse(cause: str, remedy: str, wanted: str = "", *, at_desk: bool = False) -> StringCommand:
    """A command for an operation to yield instead of its work: it fails, saying why on stderr.

    `cause` is what stands in the way, in the node's own terms; `remedy` is what to do, best as a
    command to type. `wanted` is what a drift check says, where the operation's name will not do.
    `at_desk`: what went wrong did at the desk, and a drift check says that it could not tell. It is
    yielded, not raised: an exception in an operation's generator ends the run of every other host
    too.
    """
    text = f"printf '%s\\n' {shlex.quote(f'{cause}: {remedy}')} >&2; exit 1"
    return Refusal(text, cause, wanted, at_desk)
