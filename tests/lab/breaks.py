"""What may be broken on Iona, and which operation must notice: data for `test_iona`."""

from dataclasses import dataclass

COMPOSE = "/etc/homeport/stack/compose.yaml"
# Seen whenever a service does not run or is not well.
READY = "Stack | Wait until every service works"
FETCH = "Images | Begin to fetch the images"
ACTIVE = "Stack | Keep the stack's unit active"
NEEDS = "Stack | Have what the services need"
SERVICES = "Stack | Bring the services to what is wanted"
CADDY = "Caddy | Run what the Caddyfile says"
DOCKER = "Docker | Docker's configuration"
RUNNING = "Docker | Docker running, guarded"
MODELS = "Models | Download and link the models"
UNIT = "Stack | Write the unit"
PROVIDER = "Open WebUI | Put the provider and sign-up right"
KEPT = "Stack | Keep the stack's unit enabled"
START = "/etc/homeport/stack/files/open-webui/start.sh"
# By what the names of its operations begin with.
STEMS = {
    "Base": "base",
    "Caddy": "caddy",
    "Docker": "docker",
    "GPUs for containers": "nvidia_containers",
    "Host names": "host_names",
    "Models": "hf_models",
    "Programs aboard": "aboard",
    "Secrets": "secrets",
    "Stack": "stack",
}
REPOSITORY = "/etc/apt/sources.list.d/homeport-nvidia-container-toolkit.list"
DROP_IN = "/etc/systemd/system/docker.service.d/homeport.conf"
CA_FILE = "$(ls /usr/local/share/ca-certificates/homeport-*.crt | head -n 1)"
OF_ENGINE = "docker inspect -f '{{%s}}' iona-llama-server-1"
IMAGE = OF_ENGINE % ".Config.Image"


@dataclass(frozen=True, kw_only=True)
class Break:
    """`do` breaks something on the node; `by` must be pending then; `mended` succeeds again after.

    All are shell text. `mended` does not ask Homeport. `also` are other operations that see it.
    `told` is a part of what a drift check must say is wanted, `hushed` nowhere in what it says.
    """

    name: str
    do: str
    by: str
    mended: str
    also: tuple[str, ...] = ()
    told: str = ""
    hushed: str = ""

    @property
    def capability(self) -> str:
        """The stem of the capability whose operation must notice."""
        return STEMS[self.by.partition(" | ")[0]]


def _in_place(script: str, path: str) -> str:
    """`sed` that keeps the file itself, which may be a mount of its own."""
    return f"sed '{script}' {path} > /tmp/edited && cat /tmp/edited > {path}"


BREAKS = (
    Break(
        name="Caddyfile edited",
        do="echo '# mine' >> /etc/homeport/Caddyfile",
        by="Caddy | Put the validated Caddyfile in place",
        mended="! grep -q mine /etc/homeport/Caddyfile",
        also=(CADDY,),
    ),
    Break(
        name="Caddy runs an older configuration than its file",
        do="sed s/256MiB/128MiB/ /etc/homeport/Caddyfile > /tmp/Caddyfile && "
        "caddy reload --adapter caddyfile --config /tmp/Caddyfile",
        by=CADDY,
        mended="curl -s 127.0.0.1:2019/config/ | grep -q 268435456",
    ),
    Break(
        name="Caddy's unit masked",
        do="systemctl mask --now caddy.service",
        by=CADDY,
        mended="systemctl is-active caddy && systemctl is-enabled caddy",
    ),
    Break(
        name="Caddy's drop-in removed",
        do="rm /etc/systemd/system/caddy.service.d/homeport.conf",
        by="Caddy | Point the unit at Homeport's Caddyfile",
        mended="systemctl cat caddy | grep -q /etc/homeport/Caddyfile",
        also=(CADDY,),
    ),
    Break(
        name="mode of the Compose file changed",
        do=f"chmod 666 {COMPOSE}",
        by=f"Stack | Write {COMPOSE}",
        mended=f'test "$(stat -c %a {COMPOSE})" = 644',
    ),
    Break(
        name="environment in the Compose file changed",
        do=f"{_in_place('s/llama-server:8080/elsewhere:8080/', COMPOSE)} && "
        # Open WebUI does not mind SIGTERM while it starts: a minute, if it were recreated then.
        f"docker compose -p iona -f {COMPOSE} up -d --wait",
        by=f"Stack | Write {COMPOSE}",
        mended="! docker inspect iona-open-webui-1 | grep -q elsewhere",
        also=(SERVICES, PROVIDER),
    ),
    Break(
        name="mounted file changed",
        do=f"echo '# mine' >> {START}",
        by=f"Stack | Write {START}",
        mended="! docker exec iona-open-webui-1 grep -q mine /homeport/start.sh",
        also=(SERVICES,),
    ),
    Break(
        name="stray mounted file",
        do="touch /etc/homeport/stack/files/stray",
        by="Stack | Remove stray mounted files",
        mended="! test -e /etc/homeport/stack/files/stray",
    ),
    Break(
        name="stack's unit deleted",
        do="rm /etc/systemd/system/homeport-stack.service && systemctl daemon-reload",
        by=UNIT,
        mended="systemctl is-enabled homeport-stack && systemctl is-active homeport-stack",
        also=(KEPT,),
    ),
    Break(
        name="stack's unit disabled",
        do="systemctl disable homeport-stack",
        by=KEPT,
        mended="systemctl is-enabled homeport-stack",
    ),
    Break(
        name="container stopped",
        do="docker stop iona-llama-server-1",
        by=SERVICES,
        mended=f"{OF_ENGINE % '.State.Health.Status'} | grep -qx healthy",
        also=(PROVIDER,),
    ),
    Break(
        name="container recreated by hand with another flag",
        do=f"sed 's/131072/4096/' {COMPOSE} > /tmp/by-hand.yaml && "
        "docker compose -p iona -f /tmp/by-hand.yaml up -d --no-deps llama-server",
        by=SERVICES,
        mended=f"{OF_ENGINE % '.Config.Cmd'} | grep -q 131072",
    ),
    Break(
        name="a port opened to the network",
        do=f"sed 's/127.0.0.1:8080/0.0.0.0:8080/' {COMPOSE} > /tmp/open.yaml && "
        "docker compose -p iona -f /tmp/open.yaml up -d --no-deps llama-server",
        by=SERVICES,
        mended="docker port iona-llama-server-1 | grep -q 127.0.0.1",
    ),
    Break(
        name="restart policy and networks of a container changed",
        do="docker update --restart=no iona-llama-server-1 && "
        "docker network connect bridge iona-llama-server-1",
        by=SERVICES,
        mended=f"{OF_ENGINE % '.HostConfig.RestartPolicy.Name'} | grep -qx unless-stopped && "
        f"! {OF_ENGINE % '.NetworkSettings.Networks'} | grep -q bridge:",
    ),
    Break(
        name="container paused",
        do="docker pause iona-llama-server-1",
        by=SERVICES,
        mended=f"{OF_ENGINE % '.State.Status'} | grep -qx running",
    ),
    Break(
        name="image removed",
        do=f"docker image rm --force $({IMAGE})",
        by=NEEDS,
        mended=f"docker image inspect $({IMAGE})",
        also=(FETCH, SERVICES),
    ),
    Break(
        name="link made absolute",
        do="cd /srv/homeport/models && ln -sfn $PWD/$(readlink model.gguf) model.gguf",
        by=MODELS,
        mended="! readlink /srv/homeport/models/model.gguf | grep -q ^/",
        also=(SERVICES,),
    ),
    Break(
        name="model truncated",
        do="truncate -s 1000000 $(readlink -f /srv/homeport/models/model.gguf)",
        by=MODELS,
        mended="test $(stat -Lc %s /srv/homeport/models/model.gguf) -gt 60000000",
        also=(SERVICES,),
    ),
    Break(
        name="model removed",
        do="rm $(readlink -f /srv/homeport/models/mmproj.gguf)",
        by=MODELS,
        mended="test -e /srv/homeport/models/mmproj.gguf",
        also=(SERVICES,),
    ),
    Break(
        name="list of models edited",
        do="sed -i 's/Q4_0/Q8_0/' /etc/homeport/hf_models.json",
        by="Models | Write the list of models",
        mended="! grep -q Q8_0 /etc/homeport/hf_models.json",
    ),
    Break(
        name="key readable by all",
        do="chmod 644 /etc/homeport/secrets/llama_server.api_key",
        by="Secrets | Make or place the node's secrets",
        mended='test "$(stat -c %a /etc/homeport/secrets/llama_server.api_key)" = 600',
    ),
    Break(
        name="daemon.json edited by somebody else",
        do="""python3 - <<'END'
import json, pathlib
path = pathlib.Path("/etc/docker/daemon.json")
value = json.loads(path.read_text())
value["log-opts"]["max-size"] = "500m"
value["shutdown-timeout"] = 20
path.write_text(json.dumps(value))
END""",
        by=DOCKER,
        mended="grep -q shutdown-timeout /etc/docker/daemon.json && "
        "grep -q '\"10m\"' /etc/docker/daemon.json",
        told="/etc/docker/daemon.json: log-opts",
        hushed="shutdown-timeout",
    ),
    Break(
        name="record of daemon.json lost",
        do="rm /var/lib/homeport/docker.json",
        by=DOCKER,
        mended="grep -q bip /var/lib/homeport/docker.json",
    ),
    Break(
        name="Docker's drop-in writable by all",
        do=f"chmod 666 {DROP_IN}",
        by=DOCKER,
        mended=f'test "$(stat -c %a {DROP_IN})" = 644',
    ),
    Break(
        name="toolkit's repository edited",
        do=f"echo '# mine' >> {REPOSITORY}",
        by="GPUs for containers | Toolkit's repository",
        mended=f"! grep -q mine {REPOSITORY}",
    ),
    Break(
        name="toolkit no longer held",
        do="apt-mark unhold nvidia-container-toolkit",
        by="GPUs for containers | Toolkit's packages",
        mended="apt-mark showhold | grep -qx nvidia-container-toolkit",
    ),
    Break(
        name="GPUs no longer described",
        do="rm /var/run/cdi/nvidia.yaml",
        by="GPUs for containers | GPUs described",
        mended="nvidia-ctk cdi list | grep -q =GPU-",
    ),
    Break(
        name="guard's table deleted",
        do="nft delete table inet homeport_docker",
        by=RUNNING,
        mended="nft list table inet homeport_docker",
    ),
    Break(
        name="guard's rules edited",
        do="echo '# mine' >> /etc/homeport/docker-guard.nft",
        by=DOCKER,
        mended="! grep -q mine /etc/homeport/docker-guard.nft",
        also=(RUNNING,),
    ),
    Break(
        name="Docker stopped",
        do="systemctl stop docker.service",  # its socket, which would start it, is still there
        by=RUNNING,
        mended="systemctl is-active docker.service",
        also=(FETCH, NEEDS, SERVICES, ACTIVE, PROVIDER),
    ),
    Break(
        name="Docker's unit masked",
        do="systemctl mask docker.service",
        by=RUNNING,
        mended="systemctl is-enabled docker.service && systemctl is-active docker.service",
        also=(KEPT,),  # the drop-in that tells the stack when Docker has started is not in force
    ),
    Break(
        name="hosts entry removed",
        do=_in_place("/127.0.0.1 iona/d", "/etc/hosts"),
        by="Host names | Names in /etc/hosts",
        mended="getent hosts iona-api.local.arpeggio.one | grep -q ^127.0.0.1",
    ),
    Break(
        name="time zone changed",
        do="ln -sfn /usr/share/zoneinfo/Europe/Berlin /etc/localtime",
        by="Base | Time zone and clock",
        mended="readlink /etc/localtime | grep -q Etc/UTC",
    ),
    Break(
        name="clock's unit masked",
        do="systemctl mask systemd-timesyncd.service",
        by="Base | Time zone and clock",
        mended="systemctl is-enabled systemd-timesyncd.service",
    ),
    Break(
        name="CA of the sources removed",
        do="rm /usr/local/share/ca-certificates/homeport-*.crt && update-ca-certificates --fresh",
        by="Base | Trusted CAs",
        mended="ls /etc/ssl/certs/ | grep -q homeport",
    ),
    Break(
        name="CA of the sources is a link to a copy",
        do=f"cp {CA_FILE} /tmp/ca.crt && ln -sf /tmp/ca.crt {CA_FILE}",
        by="Base | Trusted CAs",
        mended=f"test ! -L {CA_FILE}",
    ),
    Break(
        name="package removed",
        do="dpkg --remove --force-depends curl",
        by="Base | Base packages",
        mended="curl --version",
    ),
    Break(
        name="program aboard edited",
        do="f=$(find /opt/homeport/current/lib/ -name hf_models.py) && echo '# mine' >> $f",
        by="Programs aboard | Install the programs aboard",
        mended="! grep -rq '# mine' /opt/homeport/current/lib/python3*/site-packages/homeport_node",
    ),
)


def rounds() -> list[list[Break]]:
    """The breaks in as few rounds as keep two of a round from being noticed by one operation.

    So what is pending says of each break of a round whether it was found.
    """
    made: list[list[Break]] = []
    for one in BREAKS:
        sees = {one.by, *one.also}
        for row in made:
            if not any(sees & {other.by, *other.also} for other in row):
                row.append(one)
                break
        else:
            made.append([one])
    return made
