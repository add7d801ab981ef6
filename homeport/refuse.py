"""How a step stops a run when the node's circumstances forbid it."""

import shlex

from pyinfra.api import StringCommand


def refuse(cause: str, remedy: str) -> StringCommand:
    """A command for an operation to yield instead of its work: it fails, saying why on stderr.

    `cause` is what stands in the way, in the node's own terms; `remedy` is what to do, best as a
    command to type. It is yielded, not raised: an exception in an operation's generator ends the
    run of every other host too.
    """
    return StringCommand(f"printf '%s\\n' {shlex.quote(f'{cause}: {remedy}')} >&2; exit 1")
