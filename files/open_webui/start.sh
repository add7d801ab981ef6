#!/bin/sh
# Managed by Homeport (open_webui). Changes are replaced by the next converge.
#
# Open WebUI knows its secrets only from the environment. They are put there here, in the process
# alone, so that neither the Compose file nor `docker inspect` holds them. Then the image's own
# start script takes over.
set -eu

secret() {
    if [ ! -s "/run/secrets/$1" ]; then
        echo "homeport: the secret $1 is missing or empty: converge the node again" >&2
        exit 1
    fi
    cat "/run/secrets/$1"
}

WEBUI_SECRET_KEY=$(secret open_webui.secret_key)
WEBUI_ADMIN_PASSWORD=$(secret open_webui.admin_password)
export WEBUI_SECRET_KEY WEBUI_ADMIN_PASSWORD
if [ -e /run/secrets/llama_server.api_key ]; then
    OPENAI_API_KEYS=$(secret llama_server.api_key)
    export OPENAI_API_KEYS
fi

exec "$@"
