#!/usr/bin/env bash
# Builds the image on a machine without a container engine (Debian, root), and runs the demo in it:
#
#     scripts/build_image.sh [FOLDER]
#
# Builds the Dockerfile with buildah. The base image is this machine's Debian release, created by debootstrap, with its
# Python. FOLDER contains the base, buildah's storage and the demo; default: a temporary folder, deleted at the end.
# Environment:
#   MOUNTS          files that pip needs during the build, PATH or PATH:PATH_INSIDE: its configuration, wheels, ...
#   BUILD_ARGS      arguments for the Dockerfile, such as "TORCH_CPU_INDEX=" for torch from the default index
#   SKIP_DEMO=1     only build and measure
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "$0 creates a Debian base: run it as root" >&2; exit 2; }

ROOT=$(cd "$(dirname "$0")/.." && pwd)
if [ $# -gt 0 ]; then
    mkdir -p "$1"
    WORK=$(realpath "$1")
else
    WORK=$(mktemp -d /var/tmp/corrfractal-image-XXXXXX)
    trap 'rm -rf "$WORK"' EXIT
fi
say() { printf '\n== %s\n' "$*"; }
builder() { buildah --root "$WORK/storage" --runroot "$WORK/run" --storage-driver vfs "$@"; }

if ! command -v buildah >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -yq --no-install-recommends buildah debootstrap
fi

say "base: Debian $(. /etc/os-release && echo "$VERSION_CODENAME") with its Python"
if ! builder images --quiet localhost/python:3.11-slim >/dev/null 2>&1; then
    [ -d "$WORK/base/usr" ] || debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
        "$(. /etc/os-release && echo "$VERSION_CODENAME")" "$WORK/base" >"$WORK/debootstrap.log"
    rm -rf "$WORK"/base/var/cache/apt/archives/*.deb "$WORK"/base/var/lib/apt/lists/*
    ln -sf python3 "$WORK/base/usr/bin/python"
    "$WORK/base/usr/bin/python3" --version 2>/dev/null || chroot "$WORK/base" python3 --version
    container=$(builder from scratch)
    builder copy --quiet "$container" "$WORK/base" / >/dev/null
    builder config --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
    builder commit --quiet --rm "$container" localhost/python:3.11-slim >/dev/null
    rm -rf "$WORK/base"
fi

say "image"
options=()
for path in ${MOUNTS:-}; do options+=(--volume "${path%%:*}:${path##*:}:ro"); done
for argument in ${BUILD_ARGS:-}; do options+=(--build-arg "$argument"); done
started=$SECONDS
builder bud --isolation chroot --network host --format docker --layers=false --skip-unused-stages=false --tag localhost/corrfractal \
    --build-arg "REVISION=$(git -C "$ROOT" rev-parse --short HEAD 2>/dev/null || echo unknown)" "${options[@]}" "$ROOT"
echo "built in $((SECONDS - started)) s"

say "size and layers"
builder images
builder inspect --type image --format '{{range .Docker.History}}{{.CreatedBy}}{{"\n"}}{{end}}' localhost/corrfractal | cut -c1-100
builder inspect --type image --format '{{len .Docker.RootFS.DiffIDs}} layers; user {{.Docker.Config.User}}; health: {{.Docker.Config.Healthcheck.Test}}' \
    localhost/corrfractal

say "inside"
container=$(builder from localhost/corrfractal)
run() { builder run --isolation chroot --volume "$WORK/data:/data" "$container" -- "$@"; }
mkdir -p "$WORK/data"
chmod 1777 "$WORK/data"
run sh -c 'id -u; corrfractal --version; du -xsh /opt/venv /app | cat; touch /app/x 2>&1 || true'
run corrfractal doctor --out /data
if [ -z "${SKIP_DEMO:-}" ]; then
    run corrfractal demo --out /data/demo
    ls -l "$WORK/data/demo/report.html"
fi
builder rm "$container" >/dev/null
