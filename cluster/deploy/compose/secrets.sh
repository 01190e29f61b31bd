#!/usr/bin/env bash
# Creates the secrets of compose.yaml once: secrets/ and .env beside it, accessible only to this user.
set -euo pipefail
cd "$(dirname "$0")"
[ ! -e secrets ] || { echo "secrets/ already exists; nothing was changed" >&2; exit 2; }
umask 077
secret() { head -c 24 /dev/urandom | od -An -tx1 | tr -d ' \n'; }
mkdir secrets
DATABASE=$(secret) OBJECTS=$(secret) MLFLOW=$(secret)
printf '%s' "$DATABASE" >secrets/database
printf '%s' "$(secret)" >secrets/ray_token
cat >secrets/objects.json <<END
{"identities": [{"name": "mlflow", "credentials": [{"accessKey": "mlflow", "secretKey": "$OBJECTS"}],
  "actions": ["Admin", "Read", "List", "Tagging", "Write"]}]}
END
cat >secrets/mlflow_auth.ini <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = postgresql+psycopg2://mlflow:$DATABASE@database/mlflow
admin_username = admin
admin_password = $MLFLOW
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
cat >.env <<END
OBJECTS_SECRET=$OBJECTS
MLFLOW_PASSWORD=$MLFLOW
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret)
END
# Compose mounts the files with their modes, for users that exist only in the containers; the folder stays private.
chmod 644 secrets/*
echo "created secrets/ and .env; MLflow's user is admin, its password is in .env"
