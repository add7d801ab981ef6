"""Docker's observed state."""

from homeport.observe import NodeFact


class DockerState(NodeFact):
    """What homeport_node/docker.py observes. On a node with Docker, as wanted:

    {"os": {"id": "debian", "version": "13"}, "exposed": [],
     "daemon": {"error": "", "differs": [], "not_running": [], "pools": ["10.213.0.0/16"]},
     "recorded": True, "foreign": ["registry"],
     "units": {"docker.service": {"enabled": True, "active": True, "stale": False, …}, …},
     "networks": [{"name": "bridge", "interface": "docker0", "subnets": ["10.213.0.0/24"]}],
     "bridges": ["docker0"], "routes": [["10.213.0.0/24", "docker0"]],
     "guard": {"rules": "# Managed by …", "same": True, "error": ""},
     "files": {"/etc/docker/certs.d/registry.example:5000/homeport.crt": {"mode": "644", "uid": 0,
               "gid": 0, "sha256": "9f86…", "link": None}, …}}
    """

    stem = "docker"
