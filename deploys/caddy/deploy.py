"""The steps that bring Caddy to a node, or take it away."""

from pyinfra.api.deploy import deploy

from deploys.caddy.operations import configure, remove, serve, take_over
from deploys.caddy.spec import Caddy, dropin, render
from homeport import apt, own_files


@deploy("Caddy")
def apply(spec: Caddy | None, backends: dict[str, int]) -> None:
    """Serve the sites of `spec`; `backends` says on which loopback port each stem answers.

    With None, what Homeport put there is removed; the package and the CA stay.
    """
    if spec is None:
        remove(name="Remove Homeport's Caddyfile and drop-in")
        return
    text, names = render(spec, backends), spec.names
    take_over(text=dropin(), names=names, name="Point the unit at Homeport's Caddyfile")
    apt.packages(wanted=["caddy"], name="Install Caddy from the distribution")
    configure(text=text, names=names, name="Put the validated Caddyfile in place")
    serve(config_sha256=own_files.sha256(text), names=names, name="Run what the Caddyfile says")
