"""The stack: all services of a node as one Compose project, and the systemd unit around it.

Each service is a `Service`, written by its capability. The project is named after the node; its
file is /etc/homeport/stack/compose.yaml, mounted files lie under /etc/homeport/stack/files.

A service is made anew only for a difference: the configuration hash that Compose computes is not
the one on the container's label; the image's name stands for another image now; it does not run or
is unhealthy; a file, a secret or a link that it read when it started has changed since. Compose
does not see the last: a mounted file that was replaced keeps its old content in the container.
What the container sees is compared with what is on the disk, never times: clocks are put right.
Everything else is not touched: the same containers, the same start times.

Images are gigabytes. `fetch` begins to pull them as soon as Docker runs, in a transient unit, while
the run goes on with what needs no image; `apply` waits for them, and says what went wrong.

What others made is never touched: a container of another Compose project of the same name, or a
volume that is not of this project, ends the run.

How it fails: those, a port that another process holds, an image that cannot be pulled, or a trial
of it that goes wrong, stop the run before any service or any file of one is changed: the node
starts again with what it had. A service that does not become healthy fails it with the last lines
of its log, secrets masked.

homeport-stack.service starts the containers at boot and stops them in order. `systemctl stop
homeport-stack` holds until the next start, converge or boot, through restarts of Docker too. A
process that dies comes back by Docker's restart policy; so do all when Docker restarts.

How to undo it: without services in the inventory the unit, the containers, the network and the
files are removed; volumes and images stay. By hand: `docker compose -p NODE -f
/etc/homeport/stack/compose.yaml down`.

Sources: docs.docker.com/reference/compose-file; Compose 1.29.2 and 2.26.1 as Debian 12 and 13
package them, tried.
"""

from deploys.stack.deploy import apply, fetch
from deploys.stack.spec import (
    Bind,
    HealthCheck,
    MountedFile,
    Port,
    Service,
    Stack,
    Trial,
    Volume,
)
from homeport.capability import Capability

__all__ = [
    "CAPABILITY",
    "Bind",
    "HealthCheck",
    "MountedFile",
    "Port",
    "Service",
    "Stack",
    "Trial",
    "Volume",
    "apply",
    "fetch",
]

CAPABILITY = Capability(
    summary="all services as one Compose project with a systemd unit: hash, image, mounted files, "
    "secrets and health are compared, and only what differs is touched",
    proof="container",
)
