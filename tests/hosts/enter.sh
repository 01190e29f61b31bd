#!/usr/bin/env bash
# Runs a command where it may make hosts and cut them: as process 1 of namespaces of its own (processes, mounts, network),
# which the kernel takes down with it, whatever ends it. Nothing of its network can be reached from this machine.
#
#     tests/hosts/enter.sh COMMAND [ARGUMENT...]
#
# Needs root. Installs iproute2 and PostgreSQL where they are missing (Debian), and the parts of an MLflow server in its
# folder, which there is no network for inside. FOLDER=DIR keeps everything in DIR.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "$0 makes network namespaces: run it as root" >&2; exit 2; }

if ! command -v ip >/dev/null || ! command -v ss >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends iproute2
fi
if [ -n "${FOLDER:-}" ]; then
    mkdir -p "$FOLDER"
    HOSTS=$(realpath "$FOLDER")
else
    HOSTS=$(mktemp -d /var/tmp/corrfractal-hosts-XXXXXX)
    trap 'rm -rf "$HOSTS"' EXIT
fi
export HOSTS
. "$(dirname "$0")/../../scripts/mlflow_server.sh"
install_parts "$HOSTS/driver"

unshare --net --mount --pid --fork --kill-child --mount-proc "$@" &
CHILD=$!
trap 'kill -KILL "$CHILD" 2>/dev/null || true' INT TERM
wait "$CHILD"
