"""The observed states of cards and driver."""

from homeport.observe import NodeFact


class NvidiaState(NodeFact):
    """What homeport_node/nvidia.py observes. On a node as wanted:

    {"cards": [{"uuid": "GPU-…", "name": "NVIDIA GeForce RTX 2080 Ti", "pci": "00000000:01:00.0",
                "persistence": True, "power_w": 200.0, "power_default_w": 250.0,
                "power_min_w": 100.0, "power_max_w": 280.0, "clock_mhz": 300,
                "clock_max_mhz": 2100, "clock_reasons": ["idle"], "processes": [], …}],
     "lost": [], "error": "", "mismatch": False, "bindings": True,
     "driver": "550.163.01", "nvml": "12.550.163.01",
     "versions": {"loaded": "550.163.01", "library": "550.163.01", "next": "550.163.01"},
     "next_kernel": "6.12.48+deb13-amd64", "nouveau": False, "unknown_signer": "",
     "files": {path: {"mode": "644", "uid": 0, "gid": 0, "sha256": "…", "link": None}},
     "applied": {"GPU-…": {"handle": "left", "power_limit": 200, …}},
     "units": {"homeport-nvidia.service": {"enabled": True, "active": True, "stale": False,
                                           "masked": False, "dropins": [],
                                           "packaged": "/opt/homeport/…"}, …}}
    """

    stem = "nvidia"


class DriverState(NodeFact):
    """What homeport_node/nvidia_driver.py observes. On a node as wanted:

    {"os": {"ID": "debian", "VERSION_ID": "13"}, "machine": "x86_64",
     "kernel": "6.12.48+deb13-amd64",
     "packages": {"nvidia-smi": {"version": "550.163.01-2", "held": True}, …},
     "archives": [["http://…/debian/", "trixie", "main", "/etc/apt/sources.list",
                   "/usr/share/keyrings/debian-archive-keyring.gpg"]], "apt_error": "",
     "files": {path: {"mode": "644", "uid": 0, "gid": 0, "sha256": "…", "link": None}},
     "texts": {path: text}, "key": [], "other_lists": [], "held_by_us": ["nvidia-smi", …]}
    """

    stem = "nvidia_driver"
