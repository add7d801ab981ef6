"""The node of the hotspot's machine test: two names, certificates, and a hotspot, no container.

No service answers behind the names: what is proved here is the way to them.
"""

from dataclasses import dataclass

from deploys.caddy import Caddy, Site
from deploys.hotspot import Hotspot
from deploys.node import Node
from homeport.pins import radio

BACKEND_PORT = 3000


@dataclass(frozen=True, kw_only=True, slots=True)
class Seat(Node):
    """A node whose sites lead to a port that nobody listens on."""

    @property
    def backends(self) -> dict[str, int]:
        return {"open_webui": BACKEND_PORT}


SEAT = Seat(
    name="seat",
    caddy=Caddy(
        sites=(
            Site(name="ui.seat.example", to="open_webui"),
            Site(name="api.seat.example", to="open_webui"),
        )
    ),
    hotspot=Hotspot(radio=radio("hotspot"), ssid="MoonshotBridge", address="10.42.0.1/24"),
)
