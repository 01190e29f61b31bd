"""VIP: parts carried at 560 x 560, one confusion matrix over the data set, damage by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from corrfractal.common.errors import CorrFractalError, MaskError, NotFoundError
from corrfractal.network.tracker_config import TrackerConfig
from inference.benchmarks.vip import PartsSummary, Vip
from inference.config import InferenceConfig
from inference.datasets.vip_files import PARTS, open_video, video_names
from inference.load import open_model, resolve_model
from inference.metrics.iou import confusion, mean_iou
from inference.prompts.mask_images import read_mask, write_mask

MASKS = "Annotations/Category_ids"


def evaluate(
    root: Path, out: Path, model: str, config: InferenceConfig | None = None
) -> PartsSummary:
    """Every video in this process, without Ray."""
    benchmark = Vip(root)
    source = resolve_model(model)
    config = config or InferenceConfig()
    results = [
        benchmark.evaluate(name, out, source, open_model(source), config)
        for name in benchmark.names()
    ]
    assert [benchmark.stored(name, out, source, config) for name in benchmark.names()] == results
    return benchmark.summarize(results, source, out)


def test_there_are_19_parts_and_background() -> None:
    assert len(PARTS) == 20


def test_masks_have_the_size_of_the_truth_and_one_matrix_sums_all_frames(
    vip: Path, tmp_path: Path
) -> None:
    summary = evaluate(vip, tmp_path / "out", "baseline:copy")
    video = open_video(vip, "videos7")
    masks = [
        read_mask(tmp_path / "out" / "masks" / "videos7" / path.name) for path in video.annotations
    ]
    total = sum(confusion(video.annotation(t), mask, 20) for t, mask in enumerate(masks))
    assert mean_iou(np.asarray(total)) == summary.measures()["mIoU"]
    scores = summary.to_dict()
    assert scores["mIoU_predicted"] < scores["mIoU"] < 1
    assert {name for name, value in scores["per_part"].items() if value is not None} == {
        "background",
        "hair",
        "face",
    }
    # One pixel does not count
    assert total[0].sum() + total[2].sum() + total[13].sum() == 3 * (160 * 192 - 1)
    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == scores


def test_matching_beats_copying(vip: Path, tmp_path: Path) -> None:
    copied = evaluate(vip, tmp_path / "copy", "baseline:copy").measures()
    # VIP frames are matched at 560 x 560, where the default grid of about 142 x 80 cells has
    # density 5.3: too coarse for the parts of these videos, some a few cells wide.
    fine = InferenceConfig(tracker=TrackerConfig(density=4.0))
    matched = evaluate(vip, tmp_path / "colour", "baseline:colour", fine).measures()
    assert matched["mIoU_predicted"] > copied["mIoU_predicted"]


def test_masks_made_elsewhere_may_have_any_size_and_are_checked(vip: Path, tmp_path: Path) -> None:
    masks = tmp_path / "masks"
    shutil.copytree(vip / MASKS, masks)
    paths = sorted((masks / "videos7").iterdir())
    for path in paths:
        mask = read_mask(path)
        write_mask(
            path, np.where(mask == 255, np.uint8(0), mask).repeat(2, axis=0).repeat(2, axis=1)
        )
    assert Vip(vip).score(masks).measures() == {"mIoU": 1.0, "mIoU_predicted": 1.0}
    write_mask(paths[1], np.full((160, 192), 20, dtype=np.uint8))
    with pytest.raises(MaskError, match=f"{paths[1]} holds the id 20"):
        Vip(vip).score(masks)
    paths[1].unlink()
    with pytest.raises(NotFoundError, match=f"no such mask: {paths[1]}"):
        Vip(vip).score(masks)


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("Images", "missing"),
        (MASKS, "missing"),
        ("lists/val_videos.txt", "missing"),
        ("lists/val_videos.txt", "damaged"),
        ("Images/videos7", "missing"),
        ("Images/videos7/000000000026.jpg", "damaged"),
        (f"{MASKS}/videos7", "missing"),
        (f"{MASKS}/videos7/000000000026.png", "missing"),
        (f"{MASKS}/videos7/000000000026.png", "damaged"),
    ],
)
def test_what_is_missing_or_damaged_is_named(
    vip: Path, tmp_path: Path, mangle: Callable[[Path, str], None], part: str, how: str
) -> None:
    mangle(vip / part, how)
    expected = (
        str(vip / "Images" / "damaged")
        if part.startswith("lists") and how == "damaged"
        else str(vip / part)
    )
    with pytest.raises(CorrFractalError, match=expected):
        evaluate(vip, tmp_path / "out", "baseline:copy")


def test_real_frames_and_masks_in_the_layout(data_dir: Path, tmp_path: Path) -> None:
    source = data_dir / "multiobject_240p"
    root = tmp_path / "set"
    pictures = root / "Images" / "videos1"
    masks = root / MASKS / "videos1"
    for folder in (pictures, masks, root / "lists"):
        folder.mkdir(parents=True)
    (root / "lists" / "val_videos.txt").write_text("videos1\n")
    for t in (0, 10, 20):
        shutil.copy(source / "JPEGImages_schoolgirls" / f"{t:05d}.jpg", pictures)
        shutil.copy(source / "Annotations_schoolgirls" / f"{t:05d}.png", masks)
    assert video_names(root) == ("videos1",)
    scores = evaluate(root, tmp_path / "out", "baseline:copy").measures()
    assert 0.05 < scores["mIoU_predicted"] < scores["mIoU"] < 0.95
