"""An inventory: the same node, which wants no hotspot any more."""

import dataclasses

from homeport.inventory import inventory
from tests.hotspot.seat import SEAT

hosts = inventory(__file__, seat=dataclasses.replace(SEAT, hotspot=None))
