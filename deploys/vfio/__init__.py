"""VFIO: PCI cards reserved for virtual machines, before a driver of the host can have them.

A card is named by its handle; the targets file says what it is (vendor, device, subsystem) and
where it hangs (the root bus, then device and function number of each bridge on the way). Bus
numbers are no part of that: they shift when something is plugged in. ACPI paths tell the same as
the device numbers, and slot names are no better: many boards leave the number at 0 and the kernel
then counts ("0-1"). What the file says must fit exactly, for all cards that look alike: where one
of them is not in its place, or one is there that no handle names, none is given, since the place of
one may now be its twin's. Every function of the card's slot is given.

Two mechanisms. `by="identity"` writes `driver_override` for each function, so that one of two cards
that look alike can be kept. `by="ids"` has vfio-pci claim vendor and device (modprobe.d), and is
refused when something that is not given has the same. Both are done by one small program that runs
before udev: from a unit where the initramfs holds no driver that could have a card, else from the
initramfs too, which is then made anew. Nothing is rebound on a running machine: it needs a boot.

It fails, changing nothing, when it is not certain which device a card is, when its IOMMU group
holds anything but its own functions and bridges, or when its driver is built into the kernel; and,
last, when after the boot vfio-pci does not have it, with the early program's words.

Undo: `vfio = None` takes back our files and what is in the initramfs; after the next boot the
native drivers have the cards.
Sources: the kernel's sysfs-bus-pci (driver_override) and driver-api/vfio.rst (groups),
modprobe.d(5), initramfs-tools(7), bootup(7).
"""

from deploys.vfio.deploy import apply, prove
from deploys.vfio.facts import VfioState
from deploys.vfio.spec import Vfio
from homeport.capability import Capability

__all__ = ["CAPABILITY", "Vfio", "VfioState", "apply", "prove"]

CAPABILITY = Capability(
    summary="PCI cards reserved for virtual machines, one of two identical ones if need be",
    proof="machine",
    unproven="a guest that uses the card, and a real GPU: display devices stood for it",
)
