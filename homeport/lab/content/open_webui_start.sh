#!/usr/bin/env bash
# The start script of the lab's Open WebUI image. It honours the interface of the published image's:
# the session key from WEBUI_SECRET_KEY or WEBUI_JWT_SECRET_KEY, else from the file that
# WEBUI_SECRET_KEY_FILE names (.webui_secret_key beside this script), which is made when missing.
set -u
cd -- "$(dirname -- "${BASH_SOURCE[0]}")" || exit 1

if [ -z "${WEBUI_SECRET_KEY:-}" ] && [ -z "${WEBUI_JWT_SECRET_KEY:-}" ]; then
  key_file="${WEBUI_SECRET_KEY_FILE:-.webui_secret_key}"
  if [ ! -e "$key_file" ]; then
    echo "No session key given: making one in $key_file"
    head -c 12 /dev/urandom | base64 > "$key_file" || exit 1
  fi
  echo "Session key read from $key_file"
  WEBUI_SECRET_KEY="$(cat "$key_file")" || exit 1
  export WEBUI_SECRET_KEY
fi

exec python -m uvicorn open_webui.main:app --host "${HOST:-0.0.0.0}" --port "${PORT:-8080}" \
  --forwarded-allow-ips "${FORWARDED_ALLOW_IPS:-*}" --workers "${UVICORN_WORKERS:-1}"
