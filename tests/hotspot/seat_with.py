"""An inventory: the node with its hotspot."""

from homeport.inventory import inventory
from tests.hotspot.seat import SEAT

hosts = inventory(__file__, seat=SEAT)
