#!/usr/bin/env bash
# Runs a command where it may make hosts and cut them: as process 1 of namespaces of its own (processes, mounts, network),
# which the kernel takes down with it, whatever ends it. Nothing of its network can be reached from this machine.
#
#     tests/hosts/enter.sh COMMAND [ARGUMENT...]
#
# Needs root. Installs iproute2 and PostgreSQL where they are missing (Debian), and what `mlflow server` needs beside the
# lock into a folder that is removed at the end: there is no network inside. FOLDER=DIR keeps everything in DIR.
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "$0 makes network namespaces: run it as root" >&2; exit 2; }

ROOT=$(cd "$(dirname "$0")/../.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
install() { apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends "$@"; }
command -v ip >/dev/null && command -v ss >/dev/null || install iproute2
if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    mkdir -p /etc/postgresql-common # without this the package starts a server of its own
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    install postgresql
fi

if [ -n "${FOLDER:-}" ]; then
    mkdir -p "$FOLDER"
    HOSTS=$(realpath "$FOLDER")
else
    HOSTS=$(mktemp -d /var/tmp/corrfractal-hosts-XXXXXX)
    trap 'rm -rf "$HOSTS"' EXIT
fi
export HOSTS
[ -d "$HOSTS/packages" ] || "$PYTHON" -m pip install -q --disable-pip-version-check --target "$HOSTS/packages" --no-deps \
    'psycopg2-binary>=2.9' 'Flask-WTF>=1.2' 'WTForms>=3.1'

unshare --net --mount --pid --fork --kill-child --mount-proc "$@" &
CHILD=$!
trap 'kill -KILL "$CHILD" 2>/dev/null || true' INT TERM
wait "$CHILD"
