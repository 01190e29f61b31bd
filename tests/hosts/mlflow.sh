#!/usr/bin/env bash
# The MLflow of scripts/mlflow_server.sh for the hosts. A line `start` or `stop` on standard input is obeyed, and answered
# with the same line; it ends with its input. HOSTS/driver was filled by enter.sh.
#
#     MLFLOW_TRACKING_PASSWORD=... tests/hosts/mlflow.sh ADDRESS PORT
set -euo pipefail
. "$(dirname "$0")/../../scripts/mlflow_server.sh"

# shellcheck disable=SC2034  # the file above reads them
ADDRESS=$1 SERVER_PORT=$2
chmod 711 "$HOSTS"  # for the user `postgres`
# shellcheck disable=SC2034
WORK=$(mktemp -d "$HOSTS/mlflow-XXXXXX")
trap clean_up EXIT
start_parts "$HOSTS/driver" >/dev/null
while read -r order; do
    "${order}_server"
    echo "$order"
done
