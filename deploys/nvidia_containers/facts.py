"""The observed state of NVIDIA's container toolkit."""

from homeport.observe import NodeFact


class ToolkitState(NodeFact):
    """What homeport_node/nvidia_containers.py observes. As wanted:

    {"key": ["C95B321B…"], "keyring": True,
     "files": {"/etc/apt/sources.list.d/homeport-nvidia-container-toolkit.list": {"mode": "644",
               "uid": 0, "gid": 0, "sha256": "9f86…", "link": None}, …},
     "other_lists": [], "held": ["libnvidia-container1", …],
     "unit": {"enabled": True, "active": True, "stale": False, "dropins": []},
     "devices": ["0", "GPU-…", "all"], "uvm": True, "gone": []}

    `key` holds the fingerprints of all keys in our keyring, `devices` what a container can be given
    by CDI, `uvm` whether it gets /dev/nvidia-uvm with them, `gone` the files that the description
    names and that are not there.
    """

    stem = "nvidia_containers"
