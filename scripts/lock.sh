#!/usr/bin/env bash
# Regenerates requirements.lock from the packages installed in .venv: exact versions, with the hashes of all files
# that the package index has for each. Called by `make lock` after upgrades.
set -euo pipefail
ROOT=$(cd "$(dirname "$0")/.." && pwd)
BIN=$ROOT/.venv/bin
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT

"$BIN/pip" freeze --exclude corrfractal --all | grep -v '^pip==' | sed 's/+cpu$//' >"$WORK/installed.in"
PIP_CONFIG_FILE=/dev/null PIP_FIND_LINKS='' "$BIN/pip-compile" --quiet --generate-hashes --allow-unsafe --no-header \
    --no-annotate --strip-extras --no-emit-options --pip-args --no-deps \
    --output-file "$WORK/hashed.txt" "$WORK/installed.in"

# PyTorch's CUDA build requires CUDA's libraries. They are left out: pip installs them together with that build.
"$BIN/python" - "$WORK" <<'END'
import re
import sys
from pathlib import Path

work = Path(sys.argv[1])
def name(line: str) -> str:
    return re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()

installed = {name(line) for line in (work / "installed.in").read_text().splitlines()}
blocks = re.split(r"(?m)^(?=[a-z0-9])", (work / "hashed.txt").read_text())
kept = [block for block in blocks if name(block) in installed]
(work / "hashed.txt").write_text("".join(kept))
END

{
    echo "# Exact versions of everything that runs and checks this project, with hashes, Python 3.11. Made with: make lock"
    echo "# faiss: never install faiss-cpu and faiss-gpu together; the GPU image swaps one line (Dockerfile)."
    cat "$WORK/hashed.txt"
} >"$ROOT/requirements.lock"
