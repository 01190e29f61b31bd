"""The card of an exported model carries the metadata that model hubs read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from mlflow.entities import RunTag

from corrfractal.__main__ import main
from corrfractal.common.errors import CallError
from corrfractal.registry.model_card import card_metadata, model_card
from corrfractal.registry.names import PROJECT
from corrfractal.registry.pages import read_run
from corrfractal.registry.score_log import log_measures, log_scores
from corrfractal.registry.versions import find_version
from tests.registry_scores import scores_of

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


def export(store: str, out: Path, *options: str) -> tuple[int, str]:
    arguments = ["models", "export", "1", "--out", str(out), "--tracking-uri", store, *options]
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def front_matter(card: str) -> tuple[dict[str, Any], str]:
    """Metadata and Markdown, split as hubs split them: at the first two lines ``---``."""
    opening, metadata, text = card.split("---\n", 2)
    assert opening == ""
    return yaml.safe_load(metadata), text


def test_an_exported_card_has_the_metadata_and_the_scores_of_the_version(
    store: str, tmp_path: Path
) -> None:
    version = find_version("1", store)
    scores = scores_of(version)
    log_scores(version.run_id, (PROJECT, "1"), scores, {})
    log_scores(version.run_id, (PROJECT, "1"), replace(scores, weights="c", settings="d"), {})
    log_measures(version.run_id, (PROJECT, "1"), "vip-val", {"mIoU": 0.25, "sequences": 3}, {})

    assert export(store, tmp_path / "out", "--license", "cc-by-nc-4.0")[0] == 0
    metadata, text = front_matter((tmp_path / "out" / "README.md").read_text())
    assert metadata["license"] == "cc-by-nc-4.0"
    assert metadata["library_name"] == "corrfractal"
    assert metadata["pipeline_tag"] == "mask-generation"
    assert "video-object-segmentation" in metadata["tags"]
    (data_set,) = metadata["datasets"]
    assert data_set.endswith(version.shards_digest[:12])

    (index,) = metadata["model-index"]
    assert index["name"] == "corrfractal-1"
    davis, vip = index["results"]
    assert davis["dataset"]["args"]["files"] == "a" * 64
    values = {metric["name"]: metric["value"] for metric in davis["metrics"]}
    assert values == {"J&F": 0.625, "J": 0.5, "F": 0.75}
    assert vip["dataset"] == {"type": "vip-val", "name": "vip-val", "args": {"sequences": 3}}
    assert vip["metrics"] == [{"type": "miou", "name": "mIoU", "value": 0.25}]
    assert metadata["metrics"] == ["F", "J", "J&F", "mIoU"]
    assert 'CorrFractal.load("model.safetensors")' in text
    assert version.shards_digest in text


def test_without_scores_and_licence_the_card_claims_neither(
    store: str, registered: tuple[Path, list[Path]]
) -> None:
    version = find_version("2", store)
    facts = read_run(version.run_id)
    facts.run.data._add_tag(RunTag("shards.path", "/x/---\nlicense: mit\n# my [shards]"))
    weights = registered[1][1] / "model.safetensors"
    metadata, text = front_matter(model_card(version, facts, weights, "other"))
    assert metadata["license"] == "other"
    assert metadata["datasets"] == [f"license-mit-my-shards-{version.shards_digest[:12]}"]
    assert "model-index" not in metadata
    assert "metrics" not in metadata
    assert "It has not been evaluated." in text


@pytest.mark.parametrize("license_id", ["", "Apache 2.0", "mit\nx: y", "../LICENSE"])
def test_what_is_not_the_identifier_of_a_licence_is_refused(store: str, license_id: str) -> None:
    version = find_version("1", store)
    with pytest.raises(CallError, match="not the identifier of a licence"):
        card_metadata(version, read_run(version.run_id), license_id)
