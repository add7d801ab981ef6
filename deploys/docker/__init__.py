"""Docker with Compose from the distribution, and no path from a network to a container.

**Packages.** Debian 13, Debian 12, Ubuntu 22.04 and 24.04 each name them differently (`packages`
in engine.py). Where docker.com's docker-ce is installed it is kept, and completed with its own
Compose plugin, which conflicts with the distributions'. Packages and data are never removed.

**daemon.json** is shared. What somebody else set there stays, and nothing of ours needs it to be
otherwise: each service of the stack names its own logging, and the guard learns networks and pools
from Docker. Of our paths only the missing ones are added (without `bip` where somebody chose a
bridge, without log options where somebody chose a driver), and the file's mode stays.
/var/lib/homeport/docker.json remembers what we set; an edit of that is drift, and so is its loss. A
configuration that `dockerd --validate` (23.0 and newer) refuses is not written.

Docker is restarted only when it runs with other values of our paths than the file has: a drop-in
of docker.service copies the file whenever Docker starts, and a Docker that was started before that
drop-in counts as running what was on the disk when we came. Where a restart is due and other
people's containers run, the run stops and names them: the restart is the operator's to give.

Container logs go to Docker's `local` driver with a size limit; json-file, the default, has none.
Networks come from one address pool. Devices are offered through CDI (`features.cdi`: needed by
25 to 28.1, harmless before and after). The cgroup driver is left alone: the well-known cure for
"Failed to initialize NVML" after `systemctl daemon-reload`, `native.cgroupdriver=cgroupfs`, puts a
second writer beside systemd into one cgroup tree and orphans the containers that exist. Containers
that get their devices through CDI, by name, or from NVIDIA's runtime do not need it, and those of
the stack do where the capability nvidia_containers is wanted. It adds the runtime here for a
Docker without CDI (20.10 to 24), decided by the dockerd that is installed. On a node without that
capability Docker's hook gives the stack its GPUs, and a daemon-reload takes them until the
containers are restarted: so the stack reads its units before it starts a container, never after.

**The guard.** Before Docker 28 a neighbour on the node's network can send to a container's address
through the node, and with a forged destination to a port published on 127.0.0.1: Docker's DNAT
comes before the kernel looks for loopback addresses, so `route_localnet` being 0 (as it is with
26.1 and its userland proxy) does not help. The table `inet homeport_docker`, before Docker's rules,
drops what arrives on any interface but Docker's own bridges and is for 127.0.0.0/8, ::1, the
address pool, or a subnet of any bridge network that Docker has, foreign ones and IPv6 included.
Networks within the pool are covered before they exist; one that somebody makes with a subnet of
its own is covered by the next converge, and named by drift until then. Ports that foreign
containers publish on all addresses are not covered: that is what publishing means. Networks of
the kinds macvlan and ipvlan are a part of the network outside, and not covered either.
homeport-docker-guard.service loads the table before Docker starts, and a drop-in of
nftables.service loads it again whenever that flushes the ruleset. `systemctl stop` of the guard
opens it until it is started again; it does not touch Docker. A flush takes Docker's own rules too,
and they come back when Docker is restarted.

A dockerd that takes orders from the network and asks for no certificate is refused, with what it
was started with named: whoever reaches it is root, and no guard of ours is in the way.

**Registries of the sources** are trusted by /etc/docker/certs.d/<registry>/homeport.crt, which
Docker reads at each pull: no restart, where the system's bundle is read once, at the start.

Undo: `docker = None` in the inventory stops and removes the guard, takes our paths out of
daemon.json (Docker is restarted once for that, unless other people's containers run: then it is
left to Docker's next start), and removes our files.

Sources: moby/moby issue 45610 and the release notes of 28.0; docs of dockerd (daemon.json,
certs.d), nft(8), docker.io's and docker-ce's docker.service.
"""

from deploys.docker.deploy import apply, take_back
from deploys.docker.facts import DockerState
from deploys.docker.spec import Docker
from homeport.capability import Capability

CAPABILITY = Capability(
    summary="Docker and Compose, bounded logs, no path from a network to a container",
    proof="container",
    unproven="Ubuntu's and docker.com's packages: cases only",
)

__all__ = ["CAPABILITY", "Docker", "DockerState", "apply", "take_back"]
