"""What a node says of its cards."""

from typing import Any, ClassVar

from homeport.observe import NodeFact


class VfioState(NodeFact):
    """{"cards": {"right": {"give": True, "address": "0000:02:00.0", "problem": "", "functions":
    [{"address": …, "driver": "vfio-pci", "override": …, "group": "14", "native": ["nouveau"]}]}},
    "iommu": True, "foreign": [], "same_ids": [], "builtin": [], "mark": "0a1b…", "files": {path:
    {"mode": "755", "uid": 0, "gid": 0, "sha256": "…", "link": None}}, "enabled": True,
    "dropins": [], "images": {"6.12…": {"path", "mark", "conf", "native"}},
    "initramfs_tools": True, "log": {"tried", "gave", "words"}, "stale": [], "released": []}
    """

    stem = "vfio"
    # A node without python3, before the base is there: nothing of ours, and nothing known.
    absent: ClassVar[Any] = {
        "cards": {},
        "iommu": True,
        "foreign": [],
        "same_ids": [],
        "builtin": [],
        "mark": "",
        "files": {},
        "enabled": False,
        "dropins": [],
        "images": {},
        "initramfs_tools": True,
        "log": {"tried": [], "gave": [], "words": []},
        "stale": [],
        "released": [],
    }
