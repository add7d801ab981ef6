"""The lab's virtual machines: a real kernel, boot loader, IOMMU and radios, emulated by QEMU.

`disk` makes the bare disks, `emulator` says what hardware there is, `agent` speaks with the guest
where no network leads, `machine` is what tests hold in their hands.
"""
