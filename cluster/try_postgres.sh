#!/usr/bin/env bash
# MLflow on PostgreSQL, tried for real: a database server of its own, `mlflow server` on loopback, the whole workflow
# against it (train, register, evaluate), then promote, lineage and load. Run it from the repository:
#
#     cluster/try_postgres.sh
#
# Installs PostgreSQL where it is missing (Debian, root). Everything else lies in a temporary folder and is gone at the
# end; both servers listen on 127.0.0.1 only, on free ports. As root, the database runs as the user `postgres`.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
WORK=$(mktemp -d)
mkdir "$WORK/database" "$WORK/client"
SERVER=
say() { printf '\n== %s\n' "$*"; }
as_database_user() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }
free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
corrfractal() { (cd "$WORK/client" && PYTHONPATH=$ROOT "$PYTHON" -m corrfractal "$@"); }

clean_up() {
    [ -z "$SERVER" ] || kill -- "-$SERVER" 2>/dev/null || true
    [ ! -d "$WORK/database/data" ] || as_database_user "$BIN/pg_ctl" -D "$WORK/database/data" -m fast -s stop || true
    rm -rf "$WORK"
}
trap clean_up EXIT

say "PostgreSQL"
if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    apt-get update -q
    mkdir -p /etc/postgresql-common  # without this the package starts a server of its own
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends postgresql
fi
BIN=$(dirname "$(ls /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)")
PASSWORD=$("$PYTHON" -c 'import secrets; print(secrets.token_hex(16))')
DATABASE_PORT=$(free_port)
(umask 077 && printf '%s\n' "$PASSWORD" >"$WORK/database/password")
chmod 711 "$WORK"
[ "$(id -u)" != 0 ] || chown -R postgres "$WORK/database"
as_database_user "$BIN/initdb" -D "$WORK/database/data" -U mlflow -A scram-sha-256 --pwfile "$WORK/database/password" >/dev/null
as_database_user "$BIN/pg_ctl" -D "$WORK/database/data" -l "$WORK/database/log" -s -w \
    -o "-p $DATABASE_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=" start
sql() { PGPASSWORD=$PASSWORD "$BIN/psql" -h 127.0.0.1 -p "$DATABASE_PORT" -U mlflow -d "$1" -c "$2"; }
sql postgres "CREATE DATABASE mlflow"
"$BIN/postgres" --version

say "mlflow server"
"$PYTHON" -m pip install -q --disable-pip-version-check --target "$WORK/driver" 'psycopg2-binary>=2.9'
SERVER_PORT=$(free_port)
export MLFLOW_TRACKING_URI=http://127.0.0.1:$SERVER_PORT
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false  # for its evaluation of language models: seven more processes
# In the environment and not in the call: other users see the arguments of a process.
MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow:$PASSWORD@127.0.0.1:$DATABASE_PORT/mlflow PYTHONPATH=$WORK/driver \
    setsid "$PYTHON" -m mlflow server --host 127.0.0.1 --port "$SERVER_PORT" --workers 1 \
    --artifacts-destination "$WORK/artifacts" >"$WORK/server.log" 2>&1 &
SERVER=$!
for _ in $(seq 300); do
    kill -0 "$SERVER" 2>/dev/null || { cat "$WORK/server.log"; exit 1; }
    "$PYTHON" -c "import urllib.request; urllib.request.urlopen('$MLFLOW_TRACKING_URI/health', timeout=2)" 2>/dev/null && break
    sleep 1
done
echo "answers at $MLFLOW_TRACKING_URI"

say "the workflow: precompute, train, register, evaluate"
cat >"$WORK/client/workflow.toml" <<END
sources = ["videos"]
out = "."
workers = 1
tracking_uri = "$MLFLOW_TRACKING_URI"
[precompute]
size = 64
[precompute.clip]
fps = 12.0
hop = 4
[training]
profile = "cpu"
steps = 6
crop = 48
batch_size = 2
log_every = 2
[training.network]
width = 4
embedding_channels = 8
[evaluation]
data = "davis"
fast = true
END
(cd "$WORK/client" && PYTHONPATH=$ROOT "$PYTHON" - <<'END'
from pathlib import Path
from cluster.sample import render_evaluation_set, render_training_videos

render_training_videos(Path("videos"), count=2, frames=20, size=(64, 80))
render_evaluation_set(Path("davis"), sequences=1, frames=5, size=(64, 80))
END
)
corrfractal run workflow.toml

say "the registry"
corrfractal models list
corrfractal models promote candidate --why "the first on PostgreSQL"
corrfractal models history
corrfractal lineage champion
corrfractal models export champion --out exported
(cd "$WORK/client/exported" && sha256sum -c SHA256SUMS)

say "loading, through the server"
(cd "$WORK/client" && PYTHONPATH=$ROOT "$PYTHON" - <<'END'
import mlflow

from corrfractal import CorrFractal
from inference.load import resolve_model

source = resolve_model("models:/corrfractal@champion")
print("CorrFractal.load:", CorrFractal.load(source.path).config.width, "channels wide")
print("mlflow.pyfunc.load_model:", mlflow.pyfunc.load_model("models:/corrfractal@candidate").metadata.signature.inputs)
END
)

say "what PostgreSQL holds"
sql mlflow "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM metrics) AS metrics,
    (SELECT count(*) FROM params) AS params, (SELECT count(*) FROM model_versions) AS versions,
    (SELECT max(length(value)) FROM registered_model_tags) AS longest_move,
    (SELECT max(length(value)) FROM model_version_tags) AS longest_tag"
say "it works"
