"""GPUs for containers: NVIDIA's container toolkit, pinned, and each GPU described by CDI.

**The packages** come from NVIDIA's repository, or from what the targets' `sources.apt` put in its
place: four of them, of one version, held, so that no upgrade changes them under containers that
run. The repository's key is fetched by the node and kept only if it is one key, with the pinned
fingerprint; apt trusts it for this repository alone (`signed-by`). Another file in
/etc/apt/sources.list.d that names the repository is refused: with two keys for one address apt
does nothing at all any more.

**How a container is given its GPUs** is what the node's Docker can, read from it each time:

- *CDI* (Docker 25 and newer): the device nodes become a part of the container's own specification,
  so systemd knows them too, and `systemctl daemon-reload` takes nothing from a container that runs
  (NVIDIA/nvidia-container-toolkit#48). In Compose that is a reservation with the driver `cdi`:
  `devices: [nvidia.com/gpu=…]` would be shorter, and Compose before 2.30 takes it for a path.
- *NVIDIA's runtime* (Docker 20.10 to 24): the toolkit's runtime, from 1.18 on, makes the same
  changes to the specification itself before runc reads it, with the same effect (its mode jit-cdi,
  the default since NVIDIA/nvidia-container-toolkit#910). It is the one key
  that we add to daemon.json, by the capability docker, which writes that file; Docker is restarted
  for it under that capability's rules.
- Docker's own `driver: nvidia`, a hook that adds the devices behind systemd's back, is used only
  where neither is there, which is where this capability is not wanted.

Both need a link in /dev/char for every device node with runc 1.1.3 to 1.1.6, which is Debian 12's:
without one runc tells systemd nothing of the device (opencontainers/runc#3842), and NVIDIA's driver
makes none. The toolkit does, asked by our unit.

`native.cgroupdriver=cgroupfs`, the other cure, is not used: see the capability docker.

**At boot** the toolkit's own nvidia-cdi-refresh.service runs after multi-user.target, when Docker
has long tried to start the containers, and /var/run/cdi is empty until then; a unit of multi-user
that waited for it would make a circle, which systemd breaks by not starting one of them. So
homeport-nvidia-cdi.service writes the same file before Docker starts, with /dev/nvidia-uvm made
first: only what is there is described. A description that lacks that or a GPU of the inventory, or
names a file that is gone (an upgraded driver), is made anew.

How it fails: a key that is not the pinned one, a version that the repository has not, a GPU that
the driver does not list: each stops the run and says so. A key that NVIDIA prolonged since has the
same fingerprint: where apt calls ours expired, remove the keyring, and converge.

Undo: `nvidia_containers = None` removes the list, the key, the hold, the unit and our key in
daemon.json. Packages stay, and the description until the next boot.

Sources: docs.nvidia.com/datacenter/cloud-native/container-toolkit (install guide, CDI support,
release notes of 1.18); deployments/systemd in NVIDIA/nvidia-container-toolkit; moby's
daemon/devices.go and daemon/cdi.go; docker/compose#12184. Of the fingerprint: spec.py.
"""

from deploys.nvidia_containers.deploy import apply
from deploys.nvidia_containers.spec import NvidiaContainers, daemon_values
from homeport.capability import Capability

__all__ = ["CAPABILITY", "NvidiaContainers", "apply", "daemon_values"]

CAPABILITY = Capability(
    summary="NVIDIA's container toolkit by a pinned key and version, GPUs for containers by CDI or "
    "NVIDIA's runtime",
    proof="container",
    unproven="NVIDIA's own packages and repository, and a real GPU: the lab has stand-ins",
)
