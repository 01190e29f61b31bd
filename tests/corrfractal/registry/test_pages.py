"""MLflow's pages of a version and of its run tell where both came from and how to use them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import cv2
import mlflow
import numpy as np
import pytest
from markdown_it import MarkdownIt
from mlflow.entities import RunTag

from corrfractal.common.errors import CorrFractalError
from corrfractal.registry import pages
from corrfractal.registry.names import PROJECT
from corrfractal.registry.score_log import log_measures, log_scores
from corrfractal.registry.versions import find_version
from corrfractal.shards.manifest import SourceEntry, load_manifest
from tests.registry_scores import scores_of

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

HOSTILE = "<img src=x>|`x`\n```\n[a](javascript:alert(1))"


def description(number: str) -> str:
    return str(mlflow.MlflowClient().get_model_version(PROJECT, number).description)


def elements(markdown: str) -> set[str]:
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(markdown)
    return set(re.findall(r"<(\w+)", page))


def test_a_version_tells_data_recipe_metrics_lineage_and_the_scores_that_are_added(
    store: str, tiny_shards: Path
) -> None:
    version = find_version("1", store)
    manifest = load_manifest(tiny_shards)
    before = description("1")
    for said in (
        manifest.digest,
        f"{manifest.statistics.samples} with {manifest.statistics.frames} frames",
        "3: 3 sampled, 0 quarantined, 0 rejected",
        "**network width**: 4",
        f"**loss**: {version.metrics['loss']:.4g}; appearance",
        version.run_id,
        version.weights_sha256,
        mlflow.get_run(version.run_id).data.tags["git.commit"],
        "It has not been evaluated.",
    ):
        assert said in before

    log_scores(version.run_id, (PROJECT, "1"), scores_of(version), {"JF": 0.625})
    log_measures(version.run_id, (PROJECT, "1"), "vip-val", {"mIoU": 0.25}, {})
    after = description("1")
    assert "**davis2017-val**: J&amp;F 62.5 (J 50.0, F 75.0); 7 sequences, 8 objects" in after
    assert "files aaaaaaaaaaaa, settings bbbbbbbbbbbb; 2026-01-01" in after
    assert "**vip-val**: mIoU 0.25" in after
    assert "not been evaluated" not in after

    log_scores(version.run_id, (PROJECT, "1"), scores_of(version, weights="c", settings="d"), {})
    assert "1 scores are of other weights" in description("1")
    assert description("2") == description("2").replace("davis2017-val", ""), "another version's"


def test_the_lines_of_a_version_work(
    store: str, tiny_video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_version("1", store)
    (code,) = re.findall(r"```python\n(.*?)```", description("1"), re.DOTALL)
    mask = np.zeros((160, 192), np.uint8)
    mask[40:80, 60:120] = 1
    cv2.imwrite(str(tmp_path / "first-mask.png"), mask)
    (tmp_path / "video.mp4").symlink_to(tiny_video)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    seen: list[object] = []
    exec(code, {"print": lambda *values: seen.append(values)})
    assert seen[0] == (0, (160, 192))
    assert len(seen) == 24


def test_a_run_tells_its_story_and_names_its_version(store: str) -> None:
    version = find_version("2", store)
    run = mlflow.get_run(version.run_id)
    note = run.data.tags["mlflow.note.content"]
    for said in ("version 2 of corrfractal", version.shards_digest, "**learning rate**: 0.003"):
        assert said in note
    assert "metrics.jsonl" in note


def test_text_of_a_user_is_kept_and_the_rest_is_written_again(store: str) -> None:
    version = find_version("1", store)
    client = mlflow.MlflowClient()
    written = description("1")
    client.update_model_version(PROJECT, "1", f"For the demo.\n\n{written}")
    log_scores(version.run_id, (PROJECT, "1"), scores_of(version), {})
    assert description("1").startswith("For the demo.\n\n[//]: #")
    assert description("1").count("### Scores") == 1
    assert "J&amp;F 62.5" in description("1")

    client.update_model_version(PROJECT, "1", "All mine.")
    log_scores(version.run_id, (PROJECT, "1"), scores_of(version, J=0.25), {})
    assert description("1") == "All mine."


def test_names_of_videos_and_sets_never_become_markup_or_exceed_the_length(store: str) -> None:
    version = find_version("1", store)
    facts = pages.read_run(version.run_id)
    assert facts.manifest is not None
    expected = elements(pages.version_text(version, facts))

    lost = SourceEntry(
        uri=f"s3://b/{HOSTILE}", sha256="0", outcome="quarantined", reason=9 * HOSTILE
    )
    counts = replace(facts.manifest.statistics, sources=10_003, quarantined=10_000)
    tags = {**facts.tags, "shards.path": HOSTILE, "git.commit": HOSTILE}
    for key, value in tags.items():
        facts.run.data._add_tag(RunTag(key, value))
    scores = [scores_of(version, dataset=HOSTILE * 9, settings=str(i)) for i in range(50)]
    text = pages.version_text(
        replace(version, scores=tuple(scores)),
        replace(facts, manifest=replace(facts.manifest, statistics=counts), lost=4 * (lost,)),
    )
    assert elements(text) == expected
    assert "&#60;img src=x&#62;" in text
    assert "9,996 other quarantined or rejected videos" in text
    assert "46 older ones" in text
    assert len(text) < 4500, "room for what a user adds"

    made = pages.run_text(replace(facts, lost=4 * (lost,)), None)
    assert elements(made) <= expected
    facts.run.data._add_tag(RunTag("stage", "precompute"))
    assert elements(pages.run_text(facts, None)) <= expected


def test_a_run_without_its_manifest_is_described_without_it(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = find_version("1", store)

    def gone(*_: object) -> None:
        raise CorrFractalError("no such artefact")

    monkeypatch.setattr(pages, "download_copy", gone)
    text = pages.version_text(version, pages.read_run(version.run_id))
    assert "unknown: the run has no copy of the manifest" in text
    assert version.shards_digest in text


def test_the_page_of_runs_opens_as_model_training(store: str) -> None:
    find_version("1", store)
    page = "#/experiments/1?workflowType=machine_learning"
    assert pages.browse_hint(store).endswith(f"http://127.0.0.1:5000/{page}")
    assert pages.browse_hint("https://m.example/") == f"https://m.example/{page}"


def test_a_description_that_cannot_be_written_fails_nothing(
    store: str, caplog: pytest.LogCaptureFixture
) -> None:
    find_version("1", store)
    pages.write_pages("99", store)
    pages.write_run_page("0" * 32)
    warnings = [record for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2
