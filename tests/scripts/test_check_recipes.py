"""Deployment files match the schemas of their readers, and faults are reported with their place."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from scripts import check_recipes as recipes

KUBERAY = "kuberay/cluster.yaml"
CLOUD = "aws/cluster.yaml"


def test_the_files_of_the_repository_have_no_faults() -> None:
    found = recipes.recipes()
    assert {path.parent.name for path in found} == {"deploy", "kuberay", "aws", "gcp", "compose"}
    assert [fault for path in found for fault in recipes.check(path)] == []


@pytest.mark.parametrize(
    ("file", "sound", "broken", "place"),
    [
        (KUBERAY, "headGroupSpec:", "headGroup:", "spec"),
        (KUBERAY, "mode: token", "mode: tokn", "spec.authOptions.mode"),
        (KUBERAY, 'num-cpus: "0"', "num-cpus: 0", "spec.headGroupSpec.rayStartParams['num-cpus']"),
        (KUBERAY, "maxReplicas: 16", "maxReplicas: many", "spec.workerGroupSpecs[0].maxReplicas"),
        (
            KUBERAY,
            "fsGroup: 10001",
            "fsGrup: 10001",
            "spec.headGroupSpec.template.spec.securityContext",
        ),
        (KUBERAY, "policyTypes: [Ingress]", "policyTypes: Ingress", "spec.policyTypes"),
        (KUBERAY, "policyTypes: [Ingress]", "policyType: [Ingress]", "spec"),
        ("kuberay/job.yaml", "entrypoint:", "entrypont:", "spec"),
        (
            "kuberay/job.yaml",
            "restartPolicy: Never",
            "restartPolicy: [Never]",
            "spec.submitterPodTemplate.spec",
        ),
        (CLOUD, "max_workers: 18", "max_workers: lots", "max_workers"),
        (CLOUD, "head_node_type: head", "head_node_type: heads", "head_node_type"),
        (CLOUD, "upscaling_speed:", "upscaling_sped:", "$"),
        ("compose/compose.yaml", "healthcheck:", "healthchek:", "services.database"),
        ("compose/compose.yaml", "- >-", "- : >-", "not YAML"),
        ("workflow.toml", "tasks = 64", "tasks = 0", "tasks"),
        ("workflow.toml", "preset =", "presett =", "presett"),
    ],
)
def test_a_broken_file_is_found_with_the_place_of_its_fault(
    file: str, sound: str, broken: str, place: str, tmp_path: Path
) -> None:
    path = tmp_path / file
    path.parent.mkdir(exist_ok=True)
    text = (recipes.FOLDER / file).read_text()
    assert sound in text
    path.write_text(text.replace(sound, broken, 1))
    faults = recipes.check(path)
    assert any(place in fault for fault in faults), faults
    assert all(str(path) in fault for fault in faults)


def test_the_secrets_of_compose_differ_are_private_and_created_once(tmp_path: Path) -> None:
    script = Path(shutil.copy(recipes.FOLDER / "compose" / "secrets.sh", tmp_path))
    subprocess.run([script], check=True, capture_output=True)
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    values = [line.split("=")[1] for line in (tmp_path / ".env").read_text().splitlines()]
    values += [(tmp_path / "secrets" / name).read_text() for name in ("database", "ray_token")]
    assert len(set(values)) == 5
    assert all(len(value) == 48 for value in values)
    assert subprocess.run([script], capture_output=True, check=False).returncode == 2
