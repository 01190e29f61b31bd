#!/usr/bin/env bash
# End-to-end test of MLflow in the configuration of cluster/deploy/compose/: its own database server, an S3 server
# (moto) for artefacts, and `mlflow server` on loopback with a login and allowed hosts. Requests with a missing or wrong
# password are refused; a short training continues while the server is stopped; then register, evaluate, promote,
# lineage, export and load. Run it from the repository; without SHARDS it builds some:
#
#     scripts/try_postgres.sh [SHARDS]
#
# Installs PostgreSQL if it is missing (Debian, root). All other files are in a temporary folder, which is deleted at the
# end. All servers listen on free ports of 127.0.0.1. As root, the database runs as the user `postgres`.
set -euo pipefail
. "$(dirname "$0")/mlflow_server.sh"

SHARDS=${1:+$(realpath "$1")}
export PYTHONPATH=$ROOT
WORK=$(mktemp -d)
mkdir "$WORK/client"
TRAINING=
say() { printf '\n== %s\n' "$*"; }
corrfractal() { "$PYTHON" -m corrfractal "$@"; }
end() {
    [ -z "$TRAINING" ] || kill "$TRAINING" 2>/dev/null || true
    clean_up
}
trap end EXIT

ADDRESS=127.0.0.1
SERVER_PORT=$(free_port)
export MLFLOW_TRACKING_URI=http://$ADDRESS:$SERVER_PORT
export MLFLOW_TRACKING_USERNAME=admin
MLFLOW_TRACKING_PASSWORD=$(secret)
export MLFLOW_TRACKING_PASSWORD

say "PostgreSQL, object store"
install_parts "$WORK/driver"
start_parts "$WORK/driver"
"$BIN/postgres" --version
objects count

say "mlflow server"
start_server
echo "responds at $MLFLOW_TRACKING_URI"
"$PYTHON" - <<'END'
import base64, os, urllib.error, urllib.request

uri, right = os.environ["MLFLOW_TRACKING_URI"], os.environ["MLFLOW_TRACKING_PASSWORD"]

def asked(password, host=None):
    headers = {"Host": host} if host else {}
    if password is not None:
        headers["Authorization"] = "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()
    request = urllib.request.Request(f"{uri}/api/2.0/mlflow/experiments/search?max_results=9", headers=headers)
    try:
        return urllib.request.urlopen(request, timeout=60).status
    except urllib.error.HTTPError as exc:
        return exc.code

answers = {
    "no password": asked(None), "a wrong one": asked("wrong"), "the right one": asked(right),
    "the right one, for another host": asked(right, "elsewhere.example"),
}
print(*(f"{who}: {code}" for who, code in answers.items()), sep="; ")
assert list(answers.values()) == [401, 401, 200, 403], answers
END
if MLFLOW_TRACKING_PASSWORD=wrong corrfractal models list; then
    echo "a wrong password was let in" >&2
    exit 1
fi

cd "$WORK/client"
if [ -z "$SHARDS" ]; then
    say "shards of rendered videos"
    "$PYTHON" -c 'from pathlib import Path; from cluster.demo.render import render_training_videos as render; render(Path("videos"), count=2, frames=20, size=(64, 80))'
    printf '[precompute]\nsize = 64\nclip = {fps = 12.0, hop = 4}\n' >precompute.toml
    corrfractal precompute videos --out shards --config precompute.toml
    SHARDS=shards
fi

say "train while the server is stopped and started: in one process, without Ray"
mkdir run
"$PYTHON" - "$SHARDS" <<'END' &
import os, sys
from dataclasses import replace
from pathlib import Path

import torch

from corrfractal import CorrFractalConfig
from corrfractal.common.config import config_to_dict, flatten
from corrfractal.shards.manifest import load_manifest
from training.config import configuration
from training.job import TrainingJob
from training.loop import fit
from training.state.attempts import note_attempt
from training.state.run_log import start_run

uri, shards, out = os.environ["MLFLOW_TRACKING_URI"], Path(sys.argv[1]), Path("run")
config = replace(configuration("base", "cpu"), network=CorrFractalConfig(width=4, embedding_channels=8), batch_size=2,
                 crop=48, steps=150, log_every=1, picture_every=50)
digest = load_manifest(shards).digest
note_attempt(out, workers=1)
run = start_run(uri, "postgres", flatten(config_to_dict(config)), shards, digest)
job = TrainingJob(shards=str(shards), shards_digest=digest, out=str(out), config=config, total=150, tracking_uri=uri, run_id=run)
Path("run_id").write_text(run)
fit(job, torch.device("cpu"))
END
TRAINING=$!
reached() { [ ! -e run/metrics.jsonl ] || wc -l <run/metrics.jsonl; }
beyond() {
    until [ "$(reached)" -gt "$1" ] 2>/dev/null; do
        kill -0 "$TRAINING" 2>/dev/null || { echo "the training has ended too soon" >&2; exit 1; }
        sleep 0.1
    done
}
beyond 10
stop_server
STOPPED=$(reached)
beyond $((STOPPED + 20))
start_server
echo "server away from line $STOPPED to line $(reached) of the metrics; training went on"
wait "$TRAINING"
TRAINING=
"$PYTHON" - "$STOPPED" <<'END'
import json, sys
from pathlib import Path

import mlflow

client, run = mlflow.MlflowClient(), Path("run_id").read_text()
written = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
names = sorted({name for line in written for name in line} - {"step", "time"})
held, wrong = 0, []
for name in names:
    wanted = [(line["step"], line[name]) for line in written if name in line]
    there = [(point.step, point.value) for point in client.get_metric_history(run, name)]
    held += len(there)
    if sorted(there) != wanted:
        wrong.append(name)
print(len(written), "lines,", len(names), "metrics:", held, "values arrived; run", client.get_run(run).info.status)
assert not wrong, wrong
END

say "register, evaluate"
"$PYTHON" - "$SHARDS" <<'END'
import os, sys
from pathlib import Path

from cluster.demo.render import render_evaluation_set
from corrfractal.shards.manifest import load_manifest
from corrfractal.network.tracker import FAST
from inference.config import InferenceConfig
from inference.benchmarks.davis import Davis
from inference.load import open_model, resolve_model
from corrfractal.registry.registration import register
from inference import SERVING_FILE

uri, digest = os.environ["MLFLOW_TRACKING_URI"], load_manifest(Path(sys.argv[1])).digest
version = register(Path("run/model.safetensors"), Path("run_id").read_text(), uri, digest, serving_file=SERVING_FILE)
print("registered", version.uri, version.aliases)

render_evaluation_set(Path("davis"), sequences=1, frames=5, size=(64, 80))
(name,) = Path("davis/ImageSets/2017/val.txt").read_text().split()
data, scored = Path("davis").resolve(), Path("scored").resolve()
source = resolve_model(version.uri, scored / "model")
Davis(data).evaluate(name, scored, source, open_model(source), InferenceConfig(tracker=FAST))
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

say "what PostgreSQL and the object store hold"
sql mlflow "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM metrics) AS metrics,
    (SELECT count(*) FROM params) AS params, (SELECT count(*) FROM model_versions) AS versions,
    (SELECT max(length(value)) FROM registered_model_tags) AS longest_move,
    (SELECT max(length(value)) FROM model_version_tags) AS longest_tag"
objects count
say "it works"
