#!/bin/bash
# Iona by hand: what someone who knows Docker, Caddy and systemd writes to build that node once, in
# order, on Debian 13. It is the rival in `bin/homeport bench converge`, which proves the result
# with the same checks as Homeport's. It runs on the node as root.
#
# It asks nothing and compares nothing: each line is done once. Packages come in one call of apt,
# the images while Python and the model are fetched, and Open WebUI starts while nothing else is
# left to do. From the environment:
#   LLAMA_IMAGE, WEBUI_IMAGE   images, with registry and digest
#   GPUS                       CDI's names of both GPUs, with a comma between
#   MODEL_COMMIT               commit of the model's repository
#   TOOLKIT                    where NVIDIA's container toolkit is
#   HF_ENDPOINT, PIP_INDEX_URL, CA_CERTIFICATE
#                              other places than the public ones to fetch from, and whom to trust
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

MODEL=google_gemma-4-26B-A4B-it-Q4_0.gguf
PROJECTOR=mmproj-google_gemma-4-26B-A4B-it-f16.gguf
MODELS=/srv/homeport/models
UI_NAME=iona.local.arpeggio.one
API_NAME=iona-api.local.arpeggio.one

if [ -n "${CA_CERTIFICATE:-}" ]; then
    printf '%s\n' "$CA_CERTIFICATE" > /usr/local/share/ca-certificates/own-sources.crt
    update-ca-certificates > /dev/null
    # huggingface_hub brings certificates of its own.
    export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
fi

ln -sf /usr/share/zoneinfo/Etc/UTC /etc/localtime
printf '127.0.0.1 %s %s\n' $UI_NAME $API_NAME >> /etc/hosts

# Docker finds its configuration and its guard when the package starts it for the first time.
mkdir -p /etc/docker /etc/homeport/secrets /etc/homeport/stack $MODELS
chmod 700 /etc/homeport/secrets
cat > /etc/docker/daemon.json <<'END'
{
  "bip": "10.213.0.1/24",
  "default-address-pools": [{"base": "10.213.0.0/16", "size": 24}],
  "features": {"cdi": true},
  "log-driver": "local",
  "log-opts": {"max-size": "10m", "max-file": "3"}
}
END
cat > /etc/homeport/docker-guard.nft <<'END'
table inet homeport_docker
delete table inet homeport_docker
table inet homeport_docker {
	set containers4 {
		type ipv4_addr
		flags interval
		elements = { 10.213.0.0/16 }
	}
	chain prerouting {
		type filter hook prerouting priority raw; policy accept;
		iifname "lo" accept
		ip daddr 127.0.0.0/8 counter drop
		ip6 daddr ::1 counter drop
		iifname { "docker0", "br-*" } accept
		fib daddr . iif type local accept
		ip daddr @containers4 counter drop
	}
}
END
cat > /etc/systemd/system/homeport-docker-guard.service <<'END'
[Unit]
Description=No path from a network to Docker's containers
Before=docker.service
After=nftables.service
PartOf=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/sbin/nft -f /etc/homeport/docker-guard.nft
ExecStop=-/usr/sbin/nft delete table inet homeport_docker

[Install]
WantedBy=docker.service
END
systemctl enable homeport-docker-guard.service

curl -fsS "$TOOLKIT/gpgkey" -o /usr/share/keyrings/nvidia-container-toolkit.asc
echo "deb [signed-by=/usr/share/keyrings/nvidia-container-toolkit.asc] $TOOLKIT/stable/deb/\$(ARCH) /" \
    > /etc/apt/sources.list.d/nvidia-container-toolkit.list
apt-get update -q
apt-get install -q -y --no-install-recommends ca-certificates curl iproute2 python3 python3-venv \
    tzdata systemd-timesyncd nftables docker.io docker-cli docker-compose caddy nvidia-container-toolkit
apt-mark hold nvidia-container-toolkit nvidia-container-toolkit-base libnvidia-container-tools \
    libnvidia-container1

docker pull --quiet "$WEBUI_IMAGE" &
webui_pull=$!
docker pull --quiet "$LLAMA_IMAGE" &
llama_pull=$!

umask 077
for secret in llama_server.api_key open_webui.secret_key open_webui.admin_password; do
    openssl rand -hex 24 > /etc/homeport/secrets/$secret
done
umask 022

python3 -m venv /opt/huggingface
/opt/huggingface/bin/pip install --quiet --disable-pip-version-check huggingface_hub==2.4.0
/opt/huggingface/bin/hf download bartowski/google_gemma-4-26B-A4B-it-GGUF \
    --revision "$MODEL_COMMIT" --include '*Q4_0.gguf' --include $PROJECTOR \
    --local-dir "$MODELS/gemma4-26b/$MODEL_COMMIT"
ln -s "gemma4-26b/$MODEL_COMMIT/$MODEL" $MODELS/model.gguf
ln -s "gemma4-26b/$MODEL_COMMIT/$PROJECTOR" $MODELS/mmproj.gguf

# Open WebUI knows its secrets from the environment alone; `docker inspect` is not to show them.
cat > /etc/homeport/stack/start.sh <<'END'
#!/bin/sh
set -eu
WEBUI_SECRET_KEY=$(cat /run/secrets/open_webui.secret_key)
WEBUI_ADMIN_PASSWORD=$(cat /run/secrets/open_webui.admin_password)
OPENAI_API_KEYS=$(cat /run/secrets/llama_server.api_key)
export WEBUI_SECRET_KEY WEBUI_ADMIN_PASSWORD OPENAI_API_KEYS
exec "$@"
END
cat > /etc/homeport/stack/compose.yaml <<END
name: iona
services:
  llama-server:
    image: $LLAMA_IMAGE
    command:
      - --host
      - "0.0.0.0"
      - --port
      - "8080"
      - -m
      - /models/model.gguf
      - --mmproj
      - "/models/mmproj.gguf"
      - --alias
      - "gemma-4-26b-a4b"
      - --api-key-file
      - "/run/secrets/llama_server.api_key"
      - --ctx-size
      - "131072"
      - --parallel
      - "1"
      - --cache-type-k
      - "q4_0"
      - --cache-type-v
      - "q4_0"
      - --split-mode
      - "layer"
      - --fit
      - "on"
      - --fit-target
      - "2048,1024"
      - --batch-size
      - "1024"
      - --ubatch-size
      - "256"
      - --flash-attn
      - "auto"
    ports: ["127.0.0.1:8080:8080"]
    volumes: ["$MODELS:/models:ro"]
    secrets: [llama_server.api_key]
    healthcheck:
      test: [CMD, curl, --fail, --silent, "http://127.0.0.1:8080/health"]
      interval: 5s
      timeout: 5s
      retries: 6
      start_period: 600s
    deploy:
      resources:
        reservations:
          devices:
            - driver: cdi
              device_ids: [${GPUS}]
              capabilities: [gpu]
    restart: unless-stopped
    stop_grace_period: 30s
    logging: {driver: local, options: {max-size: 10m, max-file: "2"}}
  open-webui:
    image: $WEBUI_IMAGE
    entrypoint: [sh, /homeport/start.sh]
    command: [bash, start.sh]
    environment:
      OPENAI_API_BASE_URLS: http://llama-server:8080/v1
      ENABLE_OLLAMA_API: "false"
      ENABLE_SIGNUP: "false"
      WEBUI_ADMIN_EMAIL: admin@homeport.local
      WEBUI_ADMIN_NAME: Admin
      WEBUI_URL: https://$UI_NAME
      CORS_ALLOW_ORIGIN: https://$UI_NAME;http://127.0.0.1:3000;http://localhost:3000
      WEBUI_SESSION_COOKIE_SECURE: "true"
    ports: ["127.0.0.1:3000:8080"]
    volumes: ["open-webui:/app/backend/data", "./start.sh:/homeport/start.sh:ro"]
    secrets: [open_webui.secret_key, open_webui.admin_password, llama_server.api_key]
    depends_on: [llama-server]
    healthcheck:
      test: [CMD, curl, --fail, --silent, "http://127.0.0.1:8080/health"]
      interval: 5s
      timeout: 5s
      retries: 6
      start_period: 3600s
    restart: unless-stopped
    stop_grace_period: 60s
    logging: {driver: local, options: {max-size: 10m, max-file: "2"}}
volumes:
  open-webui: {name: open-webui}
secrets:
  llama_server.api_key: {file: /etc/homeport/secrets/llama_server.api_key}
  open_webui.secret_key: {file: /etc/homeport/secrets/open_webui.secret_key}
  open_webui.admin_password: {file: /etc/homeport/secrets/open_webui.admin_password}
END
cat > /etc/systemd/system/homeport-stack.service <<'END'
[Unit]
Description=The services of iona
Wants=docker.service network-online.target
After=docker.service network-online.target

[Service]
Type=oneshot
RemainAfterExit=yes
WorkingDirectory=/etc/homeport/stack
ExecStart=/usr/bin/docker compose up --detach --wait
ExecStop=/usr/bin/docker compose stop
TimeoutStartSec=900
TimeoutStopSec=120

[Install]
WantedBy=multi-user.target
END

cat > /etc/caddy/Caddyfile <<END
{
	admin 127.0.0.1:2019
	skip_install_trust
	auto_https disable_redirects
	servers {
		protocols h1 h2
	}
	log default {
		output stderr
		level WARN
		format filter {
			wrap json
			fields {
				request>headers delete
				resp_headers delete
				request>uri regexp [?].* ?
			}
		}
	}
}
(ca) {
	handle /ca.crt {
		root * /var/lib/caddy/.local/share/caddy/pki/authorities/local
		rewrite * /root.crt
		header Content-Type application/x-x509-ca-cert
		file_server
	}
}
(redirect) {
	import ca
	handle {
		redir https://{host}{uri} 308
	}
}
https:// {
	tls internal
	respond "No site of this name." 421
}
http:// {
	import ca
	handle {
		respond "Nothing but /ca.crt is served here." 404
	}
}
http://$UI_NAME, http://$API_NAME {
	import redirect
}
https://$UI_NAME {
	tls internal
	reverse_proxy 127.0.0.1:3000 {
		transport http {
			keepalive 2s
		}
	}
}
https://$API_NAME {
	tls internal
	reverse_proxy 127.0.0.1:8080 {
		transport http {
			keepalive 2s
		}
	}
}
END
systemctl reload caddy

wait $webui_pull
wait $llama_pull
systemctl daemon-reload
systemctl enable --now homeport-stack.service
