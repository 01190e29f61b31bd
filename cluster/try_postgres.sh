#!/usr/bin/env bash
# MLflow on PostgreSQL, tried for real: a database server of its own, `mlflow server` on loopback, a short training against
# it, then register, evaluate, promote, lineage, export and load. Run it from the repository; without shards it makes some:
#
#     cluster/try_postgres.sh [SHARDS]
#
# Installs PostgreSQL where it is missing (Debian, root). Everything else lies in a temporary folder and is gone at the
# end; both servers listen on 127.0.0.1 only, on free ports. As root, the database runs as the user `postgres`.
set -euo pipefail

ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
SHARDS=${1:+$(realpath "$1")}
export PYTHONPATH=$ROOT
WORK=$(mktemp -d)
mkdir "$WORK/database" "$WORK/client"
SERVER=
say() { printf '\n== %s\n' "$*"; }
as_database_user() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }
free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
corrfractal() { "$PYTHON" -m corrfractal "$@"; }

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
MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow:$PASSWORD@127.0.0.1:$DATABASE_PORT/mlflow PYTHONPATH=$WORK/driver:$ROOT \
    setsid "$PYTHON" -m mlflow server --host 127.0.0.1 --port "$SERVER_PORT" --workers 1 \
    --artifacts-destination "$WORK/artifacts" >"$WORK/server.log" 2>&1 &
SERVER=$!
for _ in $(seq 300); do
    kill -0 "$SERVER" 2>/dev/null || { cat "$WORK/server.log"; exit 1; }
    "$PYTHON" -c "import urllib.request; urllib.request.urlopen('$MLFLOW_TRACKING_URI/health', timeout=2)" 2>/dev/null && break
    sleep 1
done
echo "answers at $MLFLOW_TRACKING_URI"

cd "$WORK/client"
if [ -z "$SHARDS" ]; then
    say "shards of rendered videos"
    "$PYTHON" -c 'from pathlib import Path; from cluster.sample import render_training_videos as render; render(Path("videos"), count=2, frames=20, size=(64, 80))'
    printf '[precompute]\nsize = 64\nclip = {fps = 12.0, hop = 4}\n' >precompute.toml
    corrfractal precompute videos --out shards --config precompute.toml
    SHARDS=shards
fi

say "train, register, evaluate: in this process, without Ray"
"$PYTHON" - "$SHARDS" <<'END'
import os, sys
from dataclasses import replace
from pathlib import Path

import torch

from cluster.sample import render_evaluation_set
from corrfractal import CorrFractalConfig
from corrfractal.config import config_to_dict, flatten
from corrfractal.manifest import load_manifest
from corrfractal.tracker import FAST
from inference.config import InferenceConfig
from inference.evaluation import evaluate_sequence
from inference.load import open_model, resolve_model
from training.config import configuration
from training.loop import Job, fit
from training.machine import note_attempt
from training.registry import register
from training.tracking import start_run

uri, shards, out = os.environ["MLFLOW_TRACKING_URI"], Path(sys.argv[1]), Path("run")
config = replace(configuration("base", "cpu"), network=CorrFractalConfig(width=4, embedding_channels=8), batch_size=2,
                 crop=48, steps=6, log_every=2, picture_every=6)
out.mkdir()
digest = load_manifest(shards).digest
note_attempt(out, workers=1)
run = start_run(uri, "postgres", flatten(config_to_dict(config)), shards, digest)
job = Job(shards=str(shards), shards_digest=digest, out=str(out), config=config, total=6, tracking_uri=uri, run_id=run)
fit(job, torch.device("cpu"))
version = register(out / "model.safetensors", run, uri, digest)
print("trained and registered", version.uri, version.aliases)

render_evaluation_set(Path("davis"), sequences=1, frames=5, size=(64, 80))
(name,) = Path("davis/ImageSets/2017/val.txt").read_text().split()
data, scored = Path("davis").resolve(), Path("scored").resolve()
source = resolve_model(version.uri, scored / "model")
evaluate_sequence(data, name, scored, source, open_model(source), InferenceConfig(tracker=FAST))
END
corrfractal evaluate davis --fast --data davis --model models:/corrfractal@candidate --out scored

say "the registry"
corrfractal models list
corrfractal models promote candidate --why "the first on PostgreSQL"
corrfractal models history
corrfractal lineage champion
corrfractal models export champion --out exported
(cd exported && sha256sum -c SHA256SUMS)

say "loading, through the server"
"$PYTHON" - <<'END'
import mlflow

from corrfractal import CorrFractal
from inference.load import resolve_model

source = resolve_model("models:/corrfractal@champion")
print("CorrFractal.load:", CorrFractal.load(source.path).config.width, "channels wide")
print("mlflow.pyfunc.load_model:", mlflow.pyfunc.load_model("models:/corrfractal@candidate").metadata.signature.inputs)
END

say "what PostgreSQL holds"
sql mlflow "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM metrics) AS metrics,
    (SELECT count(*) FROM params) AS params, (SELECT count(*) FROM model_versions) AS versions,
    (SELECT max(length(value)) FROM registered_model_tags) AS longest_move,
    (SELECT max(length(value)) FROM model_version_tags) AS longest_tag"
say "it works"
