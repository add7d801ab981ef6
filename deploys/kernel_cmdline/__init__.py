"""Kernel command line: parameters with their reasons, each change tried before it counts.

The boot loader is told by the traces of this boot. Under GRUB the parameters are the last in
`GRUB_CMDLINE_LINUX_DEFAULT`, by a drop-in of ours; under the systemd-boot that Proxmox keeps they
are the last in /etc/kernel/cmdline, and a file of ours says which. All others stay. A change first
boots **once**: an entry made of the default one (same kernel, same initrd), marked for the next
boot alone. It becomes the default when this run has reached the node again, the parameters are in
force, no unit failed that had not before, and the default route is back. Else the old entry is
back unattended:

- a panic, or a root that is not found, restarts the kernel (`panic=30`, on trial alone);
- `trial_seconds` after the kernel began, a systemd timer reboots a node that nobody confirmed;
- two minutes later a switch does what a user space that hangs, or never began, cannot: a process
  that a second initrd starts, early in the initramfs, asks the kernel for a reset. The
  initramfs-tools of Debian and Ubuntu read it; where dracut made the initramfs there is none, and
  the run says so.

A kernel that hangs before it starts the initramfs is helped by a hardware watchdog alone.

Refused: a node whose boot loader cannot be told, or is another; a change where GRUB cannot clear
its own mark (/boot/grub on LVM, RAID, Btrfs or ZFS): a bad entry would boot for ever. It fails
when the node went back, or is worse than before.

grub.cfg is replaced whole, and ext4's journal emptied: GRUB does not read that. XFS offers no such
thing short of freezing it. Proxmox's tool writes its entries in place, one partition after another.

What parameters do: the IOMMU of AMD is on by itself (`amd_iommu=on` is no documented value);
Intel's is from Linux 6.8. `pcie_aspm=off` leaves ASPM as the firmware set it; `pci=noaer` ends the
handling of errors, not its noise alone; `nmi_watchdog=1` restarts nothing: see `lockup_recovery`.

Undo: `kernel_cmdline = None`, by the same way: a trial without them.
Sources: GRUB's manual ("The GRUB environment block"), 00_header and 41_custom, initramfs-tools(7),
bootctl(1), zz-proxmox-boot of proxmox-kernel-helper; of the kernel's documentation
admin-guide/kernel-parameters.txt and driver-api/early-userspace/buffer-format.rst.
"""

from deploys.kernel_cmdline.deploy import apply, confirm
from deploys.kernel_cmdline.spec import KernelCmdline, Parameter
from homeport.capability import Capability

CAPABILITY = Capability(
    summary="kernel parameters, each tried for one boot before it becomes the default",
    proof="machine",
    unproven="Proxmox: its tools were played; a firmware with UEFI",
)

__all__ = ["CAPABILITY", "KernelCmdline", "Parameter", "apply", "confirm"]
