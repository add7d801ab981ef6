"""Docker's observed state."""

from homeport.observe import NodeFact


class DockerState(NodeFact):
    """What homeport_node/docker.py observes. On a node with Docker, as wanted:

    {"os": {"id": "debian", "version": "13"},
     "daemon": {"error": "", "differs": [], "not_running": [], "pools": ["10.213.0.0/16"]},
     "recorded": True, "foreign": ["registry"],
     "units": {"docker.service": {"enabled": True, "active": True, "stale": False, …}, …},
     "networks": [{"name": "bridge", "interface": "docker0", "subnets": ["10.213.0.0/24"]}],
     "bridges": ["docker0"], "routes": [["10.213.0.0/24", "docker0"]],
     "guard": {"rules": "# Managed by …", "same": True, "error": ""},
     "files": {"/etc/systemd/system/homeport-docker-guard.service": "9f86…"},
     "certificates": {"/etc/docker/certs.d/registry.example:5000/homeport.crt": "9f86…"}}
    """

    stem = "docker"
