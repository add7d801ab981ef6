"""Node: everything an inventory may say about one machine.

One field per capability. What several capabilities must agree on (ports, host names, secrets) is
written once in one of them and derived here for the others.
"""

import ipaddress
import re
from dataclasses import dataclass, field, fields

from deploys.aboard import Aboard
from deploys.base import Base
from deploys.caddy import ADMIN_PORT as CADDY_ADMIN_PORT
from deploys.caddy import PORTS as CADDY_PORTS
from deploys.caddy import Caddy, check_backends
from deploys.docker import Docker
from deploys.hf_models import HfModels
from deploys.host_names import HostNames
from deploys.hotspot import Hotspot
from deploys.kernel_cmdline import KernelCmdline
from deploys.llama_server import API_KEY, LlamaServer
from deploys.llama_server import CONTAINER_PORT as ENGINE_PORT
from deploys.llama_server import SERVICE as ENGINE
from deploys.llama_server import service as llama_server_service
from deploys.lockup_recovery import LockupRecovery
from deploys.nvidia import Nvidia
from deploys.nvidia_containers import NvidiaContainers
from deploys.open_webui import Around, OpenWebui
from deploys.open_webui import service as open_webui_service
from deploys.secrets import Secrets, SecretSource
from deploys.stack import Stack
from deploys.vfio import Vfio
from homeport.pins import Gpu, find
from homeport.spec import Spec, fail


@dataclass(frozen=True, kw_only=True, slots=True)
class Node(Spec):
    """One machine. A capability that is None is not wanted, and is removed where it was."""

    STEM = "node"

    name: str
    base: Base = field(default_factory=lambda: Base())
    kernel_cmdline: KernelCmdline | None = None
    lockup_recovery: LockupRecovery | None = None
    vfio: Vfio | None = None
    nvidia_containers: NvidiaContainers | None = None
    nvidia: Nvidia | None = None
    docker: Docker | None = None
    hf_models: HfModels | None = None
    llama_server: LlamaServer | None = None
    open_webui: OpenWebui | None = None
    caddy: Caddy | None = None
    hotspot: Hotspot | None = None
    secrets_given: dict[str, SecretSource] = field(default_factory=dict)

    def validate(self) -> None:
        ok = re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", self.name) is not None
        self.require("name", ok, "must be a-z, 0-9 and -, at most 63: it names host and stack")
        self._validate_cards()
        self._validate_ports()
        self._validate_model()
        if self.caddy is not None:
            check_backends(self.caddy, self.backends)
        # Built once, so that what is wrong with the derived ones dies at the desk as well.
        if self.stack is not None and self.docker is None:
            fail("docker", None, "must be given: the services run in it, behind its guard")
        _ = (self.secrets, self.host_names)
        self._validate_networks()

    def _validate_cards(self) -> None:
        """A card is a virtual machine's or the host's."""
        given = self.vfio.handles if self.vfio else ()
        for one in fields(self):
            for used in find(getattr(self, one.name), Gpu):
                if used.handle in given:
                    fail("vfio.cards", used.handle, f"must not be given away: {one.name} uses it")

    def _validate_ports(self) -> None:
        used = dict.fromkeys((*CADDY_PORTS, CADDY_ADMIN_PORT), "caddy") if self.caddy else {}
        used[22] = "ssh"
        for stem, port in self.backends.items():
            if port in used:
                fail(f"{stem}.port", port, f"is used twice: {used[port]} has it already")
            used[port] = f"{stem}.port"

    def _validate_networks(self) -> None:
        if self.hotspot is None or self.docker is None:
            return
        hotspot = ipaddress.IPv4Interface(self.hotspot.address).network
        if hotspot.overlaps(ipaddress.IPv4Network(self.docker.address_pool)):
            fail(
                "hotspot.address",
                self.hotspot.address,
                f"must be outside docker.address_pool, {self.docker.address_pool}: packets for "
                "containers are dropped there",
            )

    def _validate_model(self) -> None:
        engine = self.llama_server
        if engine is None:
            return
        if self.hf_models is None:
            fail("hf_models", None, "must be given: llama_server reads its model from there")
        provided = [link for model in self.hf_models.models for link in model.links]
        for name in ("model", "mmproj"):
            path = getattr(engine, name)
            if path is not None and path not in provided:
                known = ", ".join(provided) or "none"
                fail(f"llama_server.{name}", path, f"must be a link of hf_models; known: {known}")

    @property
    def backends(self) -> dict[str, int]:
        """The port on the node's loopback of every capability that a site can lead to."""
        offering = {"llama_server": self.llama_server, "open_webui": self.open_webui}
        return {stem: spec.port for stem, spec in offering.items() if spec is not None}

    @property
    def container_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that are handed to containers."""
        return self.llama_server.gpus if self.llama_server else ()

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that the inventory names, each once."""
        return tuple({one.handle: one for one in find(self, Gpu)}.values())

    @property
    def names(self) -> tuple[str, ...]:
        """The host names that lead to this node."""
        return self.caddy.names if self.caddy else ()

    @property
    def open_ports(self) -> tuple[int, ...]:
        """The TCP ports that this node shows the network, ssh apart."""
        return CADDY_PORTS if self.caddy else ()

    @property
    def trial_seconds(self) -> int:
        """How long a kernel command line may be on trial; 0 where none is wanted."""
        return self.kernel_cmdline.trial_seconds if self.kernel_cmdline else 0

    @property
    def host_names(self) -> HostNames | None:
        """The names that the node itself resolves."""
        return HostNames(names=self.names) if self.names else None

    @property
    def aboard(self) -> Aboard | None:
        """The programs on the node, where some capability runs them there."""
        return Aboard() if self.hf_models is not None or self.nvidia is not None else None

    @property
    def secrets(self) -> Secrets | None:
        """All secrets of the capabilities, and where given ones come from."""
        holders = (self.hf_models, self.llama_server, self.open_webui, self.hotspot)
        wanted = tuple(secret for spec in holders if spec for secret in spec.secrets)
        if not wanted and not self.secrets_given:
            return None
        return Secrets(wanted=wanted, given=self.secrets_given)

    @property
    def around_open_webui(self) -> Around:
        """What Open WebUI must know of the rest of the node."""
        sites = self.caddy.sites if self.caddy else ()
        names = [site.name for site in sites if site.to == "open_webui"]
        plain = self.caddy is not None and self.caddy.http == "serve"
        site = names[0] if names else ""
        if self.llama_server is None:
            return Around(site=site, plain_http=plain)
        # By service name, on the network that Compose makes: no proxy or firewall in between.
        provider = f"http://{ENGINE}:{ENGINE_PORT}/v1"
        return Around(provider=provider, key=API_KEY, engine=ENGINE, site=site, plain_http=plain)

    @property
    def stack(self) -> Stack | None:
        """All services, as one Compose project named after the node."""
        services = []
        if self.llama_server is not None and self.hf_models is not None:
            directory = self.hf_models.directory
            services.append(llama_server_service(self.llama_server, directory, self._commit()))
        if self.open_webui is not None:
            services.append(open_webui_service(self.open_webui, self.around_open_webui))
        return Stack(project=self.name, services=tuple(services)) if services else None

    def _commit(self) -> str:
        """The locked commit behind llama-server's model and projector, "" without a lock."""
        if self.llama_server is None or self.hf_models is None:
            return ""
        wanted = {self.llama_server.model, self.llama_server.mmproj}
        commits = [m.source.commit for m in self.hf_models.models if wanted & set(m.links)]
        return " ".join(commit for commit in commits if commit)

    def to_json(self) -> str:
        """For pyinfra's `debug-inventory`. Holds no secret: sources of secrets are names."""
        return repr(self)
