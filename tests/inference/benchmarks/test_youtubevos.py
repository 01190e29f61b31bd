"""YouTube-VOS: objects that appear later, submissions, scores of seen and unseen categories, damage
by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal.common.errors import CorrFractalError, MaskError, NotFoundError
from corrfractal.network.tracker import FAST
from inference.benchmarks.youtubevos import YoutubeVos, YoutubeVosSummary
from inference.config import InferenceConfig
from inference.datasets.youtubevos_files import SEEN, open_video, video_names
from inference.load import open_model, resolve_model
from inference.prompts.mask_images import read_mask, write_mask

VIDEO = "0a1b2c"


def evaluate(
    root: Path, out: Path, model: str, config: InferenceConfig | None = None
) -> YoutubeVosSummary:
    """Every video in this process, without Ray."""
    benchmark = YoutubeVos(root)
    source = resolve_model(model)
    config = config or InferenceConfig()
    results = [
        benchmark.evaluate(name, out, source, open_model(source), config)
        for name in benchmark.names()
    ]
    assert [benchmark.stored(name, out, source, config) for name in benchmark.names()] == results
    return benchmark.summarize(results, source, out)


def test_the_training_set_has_65_categories() -> None:
    assert len(SEEN) == 65


def test_objects_join_at_their_first_annotation_and_every_frame_gets_a_mask(
    youtubevos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    summary = evaluate(youtubevos, out, "baseline:copy")
    masks = {t: read_mask(out / "Annotations" / VIDEO / f"{t:05d}.png") for t in range(11)}
    assert [np.unique(masks[t]).tolist() for t in (0, 4, 5, 10)] == [
        [0, 1],
        [0, 1],
        [0, 1, 2],
        [0, 1, 2],
    ]
    truth = read_mask(youtubevos / "valid" / "Annotations" / VIDEO / "00005.png")
    np.testing.assert_array_equal(masks[5] == 2, truth == 2)
    frames = {o.object_id: len(o.j_frames) for o in summary.objects}
    assert frames == {1: 2, 2: 1}  # the annotation that is given does not count


def test_the_overall_score_is_the_mean_of_four(youtubevos: Path, tmp_path: Path) -> None:
    scores = evaluate(youtubevos, tmp_path / "out", "baseline:copy").to_dict()
    by_object = {name: (o["J"], o["F"], o["seen"]) for name, o in scores["per_object"].items()}
    assert by_object[f"{VIDEO}_1"] == (scores["J_seen"], scores["F_seen"], True)
    assert by_object[f"{VIDEO}_2"] == (scores["J_unseen"], scores["F_unseen"], False)
    four = [scores[name] for name in ("J_seen", "J_unseen", "F_seen", "F_unseen")]
    assert scores["overall"] == pytest.approx(np.mean(four))
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores


def test_a_network_keeps_an_object_that_joined(youtubevos: Path, tmp_path: Path) -> None:
    evaluate(youtubevos, tmp_path / "out", "baseline:colour", InferenceConfig(tracker=FAST))
    mask = read_mask(tmp_path / "out" / "Annotations" / VIDEO / "00010.png")
    truth = read_mask(youtubevos / "valid" / "Annotations" / VIDEO / "00010.png")
    # Half of the memory frames show the object before it was annotated, as background, so that it
    # shrinks.
    assert ((mask == 2) & (truth == 2)).sum() > 0.5 * (mask == 2).sum() > 50


def test_without_a_public_truth_there_are_masks_and_no_scores(
    youtubevos: Path, tmp_path: Path
) -> None:
    meta = youtubevos / "valid" / "meta.json"
    values = json.loads(meta.read_text())
    for about in values["videos"][VIDEO]["objects"].values():
        del about["category"]
    meta.write_text(json.dumps(values))
    (youtubevos / "valid" / "Annotations" / VIDEO / "00010.png").unlink()
    summary = evaluate(youtubevos, tmp_path / "out", "baseline:copy")
    assert summary.to_dict()["per_object"][f"{VIDEO}_1"]["seen"] is None
    assert summary.overall is None
    values["videos"][VIDEO]["objects"]["1"]["frames"] = ["00000"]
    meta.write_text(json.dumps(values))
    assert evaluate(youtubevos, tmp_path / "out", "baseline:copy").objects == ()
    with pytest.raises(NotFoundError, match="no truth to score against"):
        YoutubeVos(youtubevos).score(tmp_path / "out" / "Annotations")


def test_masks_made_elsewhere_are_scored_alike_and_checked(
    youtubevos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    ours = evaluate(youtubevos, out, "baseline:copy").to_dict()
    again = YoutubeVos(youtubevos).score(out / "Annotations").to_dict()
    assert again["per_object"] == ours["per_object"]
    path = out / "Annotations" / VIDEO / "00005.png"
    write_mask(path, np.full((160, 192), 3, dtype=np.uint8))
    with pytest.raises(MaskError, match=f"{path} holds the id 3, but {VIDEO} has objects 1, 2"):
        YoutubeVos(youtubevos).score(out / "Annotations")
    path.unlink()
    with pytest.raises(NotFoundError, match=f"no such mask: {path}"):
        YoutubeVos(youtubevos).score(out / "Annotations")


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("JPEGImages", "missing"),
        ("Annotations", "missing"),
        ("meta.json", "missing"),
        ("meta.json", "damaged"),
        (f"JPEGImages/{VIDEO}", "missing"),
        (f"JPEGImages/{VIDEO}/00003.jpg", "damaged"),
        (f"JPEGImages/{VIDEO}/00010.jpg", "missing"),
        (f"Annotations/{VIDEO}", "missing"),
        (f"Annotations/{VIDEO}/00005.png", "missing"),
        (f"Annotations/{VIDEO}/00005.png", "damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    youtubevos: Path, tmp_path: Path, mangle: Callable[[Path, str], None], part: str, how: str
) -> None:
    path = youtubevos / "valid" / part
    mangle(path, how)
    with pytest.raises(CorrFractalError, match=str(path)):
        evaluate(youtubevos, tmp_path / "out", "baseline:copy")


def test_an_object_that_its_first_annotation_lacks_is_named(youtubevos: Path) -> None:
    path = youtubevos / "valid" / "Annotations" / VIDEO / "00005.png"
    write_mask(path, np.ones((160, 192), dtype=np.uint8))
    with pytest.raises(MaskError, match=f"{path} lacks object 2"):
        open_video(youtubevos, VIDEO).given(5, (160, 192))


def test_real_frames_with_seven_objects_of_which_some_come_later(
    data_dir: Path, tmp_path: Path
) -> None:
    source = data_dir / "multiobject_240p"
    root = tmp_path / "set"
    pictures = root / "valid" / "JPEGImages" / "girls"
    masks = root / "valid" / "Annotations" / "girls"
    pictures.mkdir(parents=True)
    masks.mkdir(parents=True)
    for t in range(0, 15, 5):
        shutil.copy(source / "JPEGImages_schoolgirls" / f"{t:05d}.jpg", pictures)
        mask = read_mask(source / "Annotations_schoolgirls" / f"{t:05d}.png")
        size = cv2.imread(str(pictures / f"{t:05d}.jpg")).shape[:2]
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)
        write_mask(masks / f"{t:05d}.png", np.where((mask > 3) & (t == 0), np.uint8(0), mask))
    ids = [int(i) for i in np.unique(mask) if i]
    names = ["00000", "00005", "00010"]
    objects = {str(i): {"category": "person", "frames": names[i > 3 :]} for i in ids}
    (root / "valid" / "meta.json").write_text(
        json.dumps({"videos": {"girls": {"objects": objects}}})
    )
    assert video_names(root) == ("girls",)
    scores = evaluate(root, tmp_path / "out", "baseline:copy").to_dict()
    assert len(scores["per_object"]) == len(ids) >= 5
    assert 0.2 < scores["J_seen"] < 1
    assert scores["J_unseen"] is scores["overall"] is None
