# shellcheck shell=bash
# MLflow in the configuration of cluster/deploy/compose/: its own database server, an S3 server (moto) for artefacts,
# and `mlflow server` with a login and allowed hosts. To be sourced by a script that sets
#
#   WORK                       an existing folder, which will contain all files
#   ADDRESS, SERVER_PORT       address of `mlflow server`; the other servers listen on 127.0.0.1
#   MLFLOW_TRACKING_PASSWORD   password of the user admin, exported
#
# and calls `install_parts` (the only step that needs a network), `start_parts`, `start_server` and `stop_server` any
# number of times, and `clean_up` at its end. As root, the database runs as the user `postgres`, who needs access to
# WORK.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
SERVER=
OBJECTS=
as_database_user() { if [ "$(id -u)" = 0 ]; then (cd / && runuser -u postgres -- "$@"); else "$@"; fi; }
free_port() { "$PYTHON" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
secret() { "$PYTHON" -c 'import secrets; print(secrets.token_hex(16))'; }
database_programs() { dirname "$(ls /usr/lib/postgresql/*/bin/initdb | sort -V | tail -1)"; }
sql() { PGPASSWORD=$DATABASE_PASSWORD "$BIN/psql" -h 127.0.0.1 -p "$DATABASE_PORT" -U mlflow -d "$1" -c "$2"; }

# Install PostgreSQL if it is missing (Debian, root), and the server's additional Python packages into folder $1.
install_parts() {
    if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
        apt-get update -q
        mkdir -p /etc/postgresql-common  # otherwise the package starts its own server
        echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
        DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends postgresql
    fi
    "$PYTHON" -m pip install -q --disable-pip-version-check --target "$1" psycopg2-binary==2.9.13 Flask-WTF==1.3.0
}

# Start the database, and the object store with an empty bucket; $1 is the folder of `install_parts`.
start_parts() {
    DRIVER=$1
    BIN=$(database_programs)
    DATABASE_PASSWORD=$(secret)
    DATABASE_PORT=$(free_port)
    chmod 711 "$WORK"
    mkdir "$WORK/database"
    (umask 077 && printf '%s\n' "$DATABASE_PASSWORD" >"$WORK/database/password")
    [ "$(id -u)" != 0 ] || chown -R postgres "$WORK/database"
    as_database_user "$BIN/initdb" -D "$WORK/database/data" -U mlflow -A scram-sha-256 \
        --pwfile "$WORK/database/password" >/dev/null
    as_database_user "$BIN/pg_ctl" -D "$WORK/database/data" -l "$WORK/database/log" -s -w \
        -o "-p $DATABASE_PORT -c listen_addresses=127.0.0.1 -c unix_socket_directories=" start
    sql postgres "CREATE DATABASE mlflow"

    export AWS_ACCESS_KEY_ID=mlflow AWS_SECRET_ACCESS_KEY=nothing AWS_DEFAULT_REGION=us-east-1
    OBJECTS_PORT=$(free_port)
    export MLFLOW_S3_ENDPOINT_URL=http://127.0.0.1:$OBJECTS_PORT
    setsid "$PYTHON" -m moto.server -H 127.0.0.1 -p "$OBJECTS_PORT" >"$WORK/objects.log" 2>&1 &
    OBJECTS=$!
    for _ in $(seq 60); do objects make 2>/dev/null && break; sleep 1; done

    COOKIES=$(secret)
    STORE=postgresql+psycopg2://mlflow:$DATABASE_PASSWORD@127.0.0.1:$DATABASE_PORT/mlflow
    (umask 077 && cat >"$WORK/auth.ini") <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = $STORE
admin_username = admin
admin_password = $MLFLOW_TRACKING_PASSWORD
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
}

# "make": create the bucket; otherwise count its objects.
objects() {
    "$PYTHON" - "$@" <<'END'
import os, sys
import boto3
bucket = boto3.resource("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"]).Bucket("mlflow")
if sys.argv[1] == "make":
    bucket.create()
else:
    sizes = [item.size for item in bucket.objects.all()]
    print(len(sizes), "objects,", sum(sizes), "bytes")
END
}

# Start the server and wait until it responds. Secrets are passed in the environment, because other users can see the
# arguments of a process. Job execution, for the evaluation of language models, would start seven more processes.
start_server() {
    MLFLOW_BACKEND_STORE_URI=$STORE MLFLOW_AUTH_CONFIG_PATH=$WORK/auth.ini MLFLOW_FLASK_SERVER_SECRET_KEY=$COOKIES \
        MLFLOW_SERVER_ALLOWED_HOSTS=$ADDRESS:$SERVER_PORT MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
        PYTHONPATH=$DRIVER:$ROOT setsid "$PYTHON" -m mlflow server --app-name basic-auth --host "$ADDRESS" \
        --port "$SERVER_PORT" --workers 1 --artifacts-destination s3://mlflow >>"$WORK/server.log" 2>&1 &
    SERVER=$!
    for _ in $(seq 300); do
        kill -0 "$SERVER" 2>/dev/null || { cat "$WORK/server.log" >&2; exit 1; }
        "$PYTHON" -c "import urllib.request; urllib.request.urlopen('http://$ADDRESS:$SERVER_PORT/health', timeout=2)" \
            2>/dev/null && break
        sleep 1
    done
}

stop_server() { kill -- "-$SERVER" && wait "$SERVER" || true; SERVER=; }

clean_up() {
    for group in $SERVER $OBJECTS; do kill -- "-$group" 2>/dev/null || true; done
    [ ! -d "$WORK/database/data" ] || as_database_user "$BIN/pg_ctl" -D "$WORK/database/data" -m fast -s stop || true
    rm -rf "$WORK"
}
