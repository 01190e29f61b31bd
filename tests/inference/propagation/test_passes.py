"""Passes run forward and backward, resume, take corrections, write probabilities and track key
points."""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.errors import CallError
from corrfractal.network.tracker import TrackerConfig
from inference.config import InferenceConfig
from inference.load import open_model, resolve_model
from inference.prompts.keypoints import Points
from inference.prompts.mask_images import read_mask
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video
from inference.propagation.outputs import Outputs
from inference.propagation.video_job import PropagationJob

# With certainties, which a resumed run has to find again.
SMALL = InferenceConfig(tracker=TrackerConfig(densities=(6.0, 3.0), weigh_by_certainty=True))
FRAMES = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    CorrFractal(CorrFractalConfig(width=4, embedding_channels=8)).save(path)
    return str(path)


@pytest.fixture
def video(moving_frames: np.ndarray, tmp_path: Path) -> Path:
    return folder_of(tmp_path / "video", moving_frames[:FRAMES])


def folder_of(path: Path, frames: np.ndarray) -> Path:
    path.mkdir()
    for t, frame in enumerate(frames):
        cv2.imwrite(str(path / f"{t:05d}.png"), frame[:80, :96, ::-1])
    return path


def masks(folder: Path) -> list[np.ndarray]:
    return [read_mask(path) for path in sorted(folder.glob("*.png"))]


def test_a_mask_in_the_middle_propagates_both_ways(
    video: Path, moving_frames: np.ndarray, model: str, tmp_path: Path
) -> None:
    given = read_prompts(boxes=["4:1,20,20,50,50"])
    result = propagate_video(video, given, tmp_path / "both", model, SMALL)
    assert result.frames == FRAMES
    reversed_video = folder_of(tmp_path / "reversed", moving_frames[:5][::-1])
    propagate_video(
        reversed_video, read_prompts(boxes=["1,20,20,50,50"]), tmp_path / "back", model, SMALL
    )
    for a, b in zip(masks(tmp_path / "both")[:5], masks(tmp_path / "back")[::-1], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_rerun_keeps_finished_masks_and_ends_at_the_same_ones(
    video: Path, model: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    given = read_prompts(boxes=["2:1,20,20,50,50", "5:2,60,10,80,30"])
    propagate_video(video, given, out, model, SMALL)
    complete = masks(out)
    for index in (0, 7, 8):
        (out / f"{index:05d}.png").unlink()
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    result = propagate_video(video, given, out, model, SMALL)
    assert (result.frames, result.kept) == (FRAMES, FRAMES - 3)
    for a, b in zip(complete, masks(out), strict=True):
        np.testing.assert_array_equal(a, b)
    assert all((out / name).stat().st_mtime_ns == time for name, time in times.items())
    assert propagate_video(video, given, out, model, SMALL).kept == FRAMES
    other = propagate_video(video, read_prompts(boxes=["2:1,20,20,40,50"]), out, model, SMALL)
    assert other.kept == 0


@pytest.mark.parametrize("probabilities", [False, True])
def test_a_later_correction_keeps_the_masks_before_it_and_ends_where_a_fresh_run_ends(
    video: Path, model: str, tmp_path: Path, probabilities: bool
) -> None:
    outputs = Outputs(probabilities=probabilities)
    out = tmp_path / "out"
    propagate_video(
        video, read_prompts(boxes=["2:1,20,20,50,50"]), out, model, SMALL, outputs=outputs
    )
    times = {index: (out / f"{index:05d}.png").stat().st_mtime_ns for index in range(FRAMES)}

    corrected = read_prompts(boxes=["2:1,20,20,50,50", "5:1,30,20,60,50", "5:2,70,10,90,30"])
    result = propagate_video(video, corrected, out, model, SMALL, outputs=outputs)
    assert (result.frames, result.kept) == (FRAMES, 5)
    assert all((out / f"{i:05d}.png").stat().st_mtime_ns == times[i] for i in range(5))
    fresh = tmp_path / "fresh"
    propagate_video(video, corrected, fresh, model, SMALL, outputs=outputs)
    assert contents(out) == contents(fresh)

    # Without the correction, and with another first prompt
    first_only = read_prompts(boxes=["2:1,20,20,50,50"])
    assert propagate_video(video, first_only, out, model, SMALL, outputs=outputs).kept == 5
    earlier = read_prompts(boxes=["1:1,20,20,50,50", "2:1,20,20,50,50"])
    assert propagate_video(video, earlier, out, model, SMALL, outputs=outputs).kept == 0


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


def test_each_direction_alone_gives_the_masks_of_a_complete_run(
    video: Path, model: str, tmp_path: Path
) -> None:
    given = read_prompts(boxes=["4:1,20,20,50,50"])
    propagate_video(video, given, tmp_path / "complete", model, SMALL)
    job = PropagationJob(video=video, prompts=given, out=tmp_path / "out", outputs=Outputs())
    source = resolve_model(model)
    names: list[list[str]] = []
    for directions in (("backward",), ("forward",)):
        job.run(job.check(), source, open_model(source), SMALL, directions=directions)
        names.append(sorted(path.stem for path in job.out.glob("*.png")))
    assert names[0] == [f"{index:05d}" for index in range(5)]
    assert contents(job.out) == contents(tmp_path / "complete")


def test_a_run_that_is_stopped_keeps_its_masks_and_resumes(
    video: Path, model: str, tmp_path: Path
) -> None:
    given = read_prompts(boxes=["4:1,20,20,50,50"])
    job = PropagationJob(video=video, prompts=given, out=tmp_path / "out", outputs=Outputs())
    source = resolve_model(model)
    done = 0

    def stop_after_two(count: int) -> None:
        nonlocal done
        done += count
        if done == 2:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        job.run(job.check(), source, open_model(source), SMALL, stop_after_two)
    assert propagate_video(video, given, job.out, model, SMALL).kept == 2
    propagate_video(video, given, tmp_path / "complete", model, SMALL)
    assert contents(job.out) == contents(tmp_path / "complete")


def test_later_masks_add_objects_and_correct(video: Path, model: str, tmp_path: Path) -> None:
    given = read_prompts(boxes=["1,20,20,50,50", "3:2,60,10,80,30", "3:1,5,5,9,9"])
    propagate_video(video, given, tmp_path / "out", model, SMALL)
    found = masks(tmp_path / "out")
    assert all((mask < 2).all() for mask in found[:3])
    np.testing.assert_array_equal(found[3], given.mask(3, (80, 96)))


def test_probabilities_are_8_bit_pictures_that_agree_with_the_masks(
    video: Path, model: str, tmp_path: Path
) -> None:
    given = read_prompts(boxes=["1,20,20,50,50", "9,60,10,80,30"])
    out = tmp_path / "out"
    propagate_video(video, given, out, model, SMALL, outputs=Outputs(probabilities=True))
    found = masks(out)[-1]
    soft = {
        i: cv2.imread(str(out / "probabilities" / str(i) / "00008.png"), cv2.IMREAD_UNCHANGED)
        for i in (1, 9)
    }
    assert all(p.dtype == np.uint8 and p.shape == (80, 96) for p in soft.values())
    assert (soft[1][found == 1] >= soft[9][found == 1]).all()
    with pytest.raises(CallError, match="no probabilities"):
        propagate_video(
            video,
            given,
            tmp_path / "no",
            "baseline:copy",
            SMALL,
            outputs=Outputs(probabilities=True),
        )


@pytest.mark.parametrize("frame", [0, 3])
def test_key_points_propagate_both_ways(
    video: Path, model: str, tmp_path: Path, frame: int
) -> None:
    points = Points(frame=frame, names=("head", "hand"), xy=((30.0, 40.0), (70.0, 20.0)))
    outputs = Outputs(overlay=tmp_path / "points.mp4")
    result = propagate_video(video, points, tmp_path / "out", model, SMALL, outputs=outputs)
    assert result.objects == ("head", "hand")
    assert result.frames == FRAMES
    rows = list(csv.DictReader((tmp_path / "out" / "points.csv").read_text().splitlines()))
    assert [int(row["frame"]) for row in rows] == [t for t in range(FRAMES) for _ in points.names]
    given = next(row for row in rows if row["frame"] == str(frame) and row["id"] == "hand")
    assert (float(given["x"]), float(given["y"])) == (70.0, 20.0)
    assert (tmp_path / "points.mp4").stat().st_size > 0


def test_a_frame_that_the_video_does_not_have_is_refused(
    video: Path, model: str, tmp_path: Path
) -> None:
    with pytest.raises(CallError, match=r"frame 9 is given, but .* has the frames 0\.\.8"):
        propagate_video(
            video, read_prompts(boxes=["9:1,20,20,50,50"]), tmp_path / "out", model, SMALL
        )
    assert not (tmp_path / "out").exists()
