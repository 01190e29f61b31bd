"""A version is stated in several files for several readers: they agree."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import corrfractal

ROOT = Path(__file__).parents[2]

STATEMENTS = {
    "CITATION.cff": r"(?m)^version: (\S+)$",
    "Dockerfile": r"(?m)^ARG VERSION=(\S+)$",
    "CHANGELOG.md": r"(?m)^## \[(\d\S*)\] - \d{4}-\d{2}-\d{2}$",
    "cluster/deploy/aws/cluster.yaml": r"/corrfractal(?:-gpu)?:(\S+)",
    "cluster/deploy/gcp/cluster.yaml": r"/corrfractal(?:-gpu)?:(\S+)",
    "cluster/deploy/kuberay/cluster.yaml": r"image: corrfractal(?:-gpu)?:(\S+)",
    "cluster/deploy/kuberay/job.yaml": r"image: corrfractal:(\S+)",
    "cluster/deploy/compose/compose.yaml": r"image: corrfractal(?:-mlflow)?:(\S+)",
    "cluster/deploy/compose/mlflow.Dockerfile": r"FROM corrfractal:(\S+)",
}


@pytest.mark.parametrize("file", STATEMENTS)
def test_every_file_states_the_version_of_the_package(file: str) -> None:
    stated = re.findall(STATEMENTS[file], (ROOT / file).read_text(encoding="utf-8"))
    newest = stated[:1] if file == "CHANGELOG.md" else stated
    assert newest
    assert set(newest) == {corrfractal.__version__}


def test_every_package_of_the_lock_has_a_version_and_hashes() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    packages = re.split(r"(?m)^(?=[a-z0-9])", lock)[1:]
    assert len(packages) > 100
    for package in packages:
        assert re.match(r"[\w.-]+==\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", package), (
            package
        )
