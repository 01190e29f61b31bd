"""Evaluation over Ray: scores, resuming, failures by name; and scoring masks made elsewhere."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from corrfractal.common.errors import CallError, CorrFractalError, MaskError, NotFoundError
from corrfractal.network.tracker import FAST
from inference.benchmarks.davis import Davis
from inference.benchmarks.jhmdb import Jhmdb
from inference.config import InferenceConfig
from inference.evaluate import evaluate, evaluate_davis
from inference.prompts.mask_images import read_mask, write_mask


def test_copying_is_perfect_on_a_still_sequence_and_a_failed_evaluation_resumes(
    ray_session: None, davis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    damaged = davis / "Annotations" / "480p" / "moving" / "00003.png"
    good = damaged.read_bytes()
    damaged.write_bytes(b"damaged")
    with pytest.raises(CorrFractalError, match=r"1 of 2 sequences failed.*moving: .*00003\.png"):
        evaluate_davis(davis, out, "baseline:copy")
    assert not (out / "scores.json").exists()

    damaged.write_bytes(good)
    stored = out / "sequences" / "still.json"
    before = stored.stat().st_mtime_ns
    evaluation = evaluate_davis(davis, out, "baseline:copy", workers=1)
    assert stored.stat().st_mtime_ns == before
    scores = {o.name: (o.J.mean, o.F.mean) for o in evaluation.objects}
    assert scores["still_1"] == scores["still_2"] == (1.0, 1.0)
    assert scores["moving_1"][0] < 0.8

    assert json.loads((out / "scores.json").read_text()) == evaluation.to_dict()
    assert (out / "report.html").stat().st_size > 10_000
    again = Davis(davis).score(out / "masks")
    assert again.to_dict()["per_object"] == evaluation.to_dict()["per_object"]


def test_another_model_or_setting_is_evaluated_again(
    ray_session: None, davis: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    evaluate_davis(davis, out, "baseline:copy")
    stored = out / "sequences" / "still.json"
    before = json.loads(stored.read_text())["digest"]
    evaluation = evaluate_davis(
        davis, out, "baseline:untrained", InferenceConfig(tracker=FAST), workers=2
    )
    assert evaluation.model == "baseline:untrained"
    assert json.loads(stored.read_text())["digest"] != before


def test_first_and_last_frame_do_not_count_and_void_is_background(davis: Path) -> None:
    masks = davis / "Annotations" / "480p"
    predicted = davis / "predicted"
    shutil.copytree(masks, predicted)
    for name in ("still", "moving"):
        for t in (0, 6):
            (predicted / name / f"{t:05d}.png").unlink()
    truth = read_mask(masks / "still" / "00003.png")
    write_mask(masks / "still" / "00003.png", np.where(truth == 2, np.uint8(255), truth))
    objects = {o.name: o for o in Davis(davis).score(predicted).objects}
    assert objects["still_2"].j_frames == objects["still_2"].f_frames == (1.0, 1.0, 0.0, 1.0, 1.0)
    assert objects["still_1"].J.mean == objects["moving_2"].F.mean == 1.0
    write_mask(predicted / "still" / "00003.png", np.where(truth == 2, np.uint8(255), truth))
    with pytest.raises(MaskError, match=r"00003\.png holds the id 255"):
        Davis(davis).score(predicted)


def test_davis_2016_scores_one_object_whatever_the_values(davis: Path) -> None:
    (davis / "ImageSets" / "2016").mkdir()
    (davis / "ImageSets" / "2016" / "val.txt").write_text("moving\n")
    predicted = davis / "predicted"
    shutil.copytree(davis / "Annotations" / "480p", predicted)
    for path in predicted.rglob("*.png"):
        write_mask(path, np.where(read_mask(path) > 0, np.uint8(255), np.uint8(0)))
    scores = Davis(davis, "2016").score(predicted).to_dict()
    assert scores["dataset"] == "davis2016-val"
    assert scores["per_object"] == {"moving_1": {"J": 1.0, "F": 1.0}}


def test_scores_hold_the_promised_fields(davis: Path) -> None:
    scores = Davis(davis).score(davis / "Annotations" / "480p").to_dict()
    fields = "dataset J F JF J_recall J_decay F_recall F_decay per_object model"
    assert {*fields.split(), "seconds_per_frame", "peak_rss_mb"} <= set(scores)
    assert scores["J"] == scores["F"] == scores["JF"] == 1.0
    assert scores["per_object"]["moving_2"] == {"J": 1.0, "F": 1.0}


def test_a_missing_mask_is_named(davis: Path, tmp_path: Path) -> None:
    with pytest.raises(CallError, match=str(tmp_path / "still" / "00001.png")):
        Davis(davis).score(tmp_path)
    with pytest.raises(NotFoundError, match=r"none does not exist"):
        Davis(davis).score(tmp_path / "none")


@pytest.mark.parametrize(
    ("value", "size", "said"), [(7, (160, 192), "the id 7"), (1, (48, 64), "64x48.*192x160")]
)
def test_masks_that_do_not_fit_are_named(
    davis: Path, value: int, size: tuple[int, int], said: str
) -> None:
    masks = davis / "Annotations" / "480p"
    other = davis / "predicted"
    masks.rename(other)
    masks.mkdir()
    for name in ("still", "moving"):
        (masks / name).mkdir()
        for path in (other / name).iterdir():
            (masks / name / path.name).write_bytes(path.read_bytes())
    write_mask(other / "still" / "00002.png", np.full(size, value, dtype=np.uint8))
    with pytest.raises(MaskError, match=rf"00002\.png.*{said}"):
        Davis(davis).score(other)


def test_every_data_set_runs_on_ray_and_reuses_stored_results(
    ray_session: None, jhmdb: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = evaluate(Jhmdb(jhmdb, "all"), out, "baseline:copy", workers=2)
    assert json.loads((out / "scores.json").read_text()) == summary.to_dict()
    stored = {path: path.stat().st_mtime_ns for path in (out / "sequences").iterdir()}
    assert len(stored) == 2
    assert evaluate(Jhmdb(jhmdb, "all"), out, "baseline:copy").to_dict() == summary.to_dict()
    assert {path: path.stat().st_mtime_ns for path in (out / "sequences").iterdir()} == stored
