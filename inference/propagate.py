"""Label propagation through one video: frames and a first mask in, a mask for every frame out (paper, III-D, Fig. 5b).

Frames stream through: memory does not grow with the video's length.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.config import config_to_dict
from corrfractal.console import progress
from corrfractal.errors import CallError, VideoError
from corrfractal.runtime import peak_rss_mb, write_text
from corrfractal.video import Video, open_video, write_video

from .config import InferenceConfig
from .load import Model, open_model, resolve_model
from .masks import blend, read_first_mask, write_mask

U8 = npt.NDArray[np.uint8]

OVERLAY_SUFFIXES = (".mp4", ".mkv", ".mov")


@dataclass(frozen=True, kw_only=True)
class Step:
    """The mask of one frame, uint8 (H, W) object ids, and the seconds that it took."""

    frame: U8
    mask: U8
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """What ``propagate_video`` did; also stored as ``propagation.json`` beside the masks.

    Attributes:
        video, model: as named by the user, and as resolved.
        frames: number of masks written, ``00000.png`` on.
        objects: ids in the first mask.
        masks: their folder.
        overlay: overlay video, if one was asked for.
        seconds_per_frame: of the tracker alone, without reading and writing files.
        peak_rss_mb: largest resident memory of the process so far.
    """

    video: str
    model: str
    frames: int
    objects: tuple[int, ...]
    masks: str
    overlay: str | None
    seconds_per_frame: float
    peak_rss_mb: float


def propagate_video(
    video: Path,
    mask: Path,
    out: Path,
    model: str | None = None,
    config: InferenceConfig | None = None,
    *,
    overlay: Path | None = None,
) -> Propagation:
    """Carry a first-frame mask through a video.

    Args:
        video: file, or folder of frames.
        mask: object ids of the first frame: palette or grey image of the video's size.
        out: folder for ``00000.png`` on, palette PNG; made if missing.
        model: see ``inference.load.resolve_model``.
        overlay: h264 video to write with the objects tinted.

    Raises:
        CallError, NotFoundError, MaskError: the call cannot be carried out; nothing was written.
        VideoError: a frame cannot be decoded; the masks of the frames before it are kept.
    """
    config = config or InferenceConfig()
    _check_overlay(overlay)
    opened = open_video(video)
    first_mask = read_first_mask(mask, (opened.info.height, opened.info.width))
    source = resolve_model(model)
    network = open_model(source)
    make_folder(out)
    if overlay is not None:
        make_folder(overlay.parent)

    with progress("propagate", opened.info.frames) as advance:
        steps = track(_images(opened), first_mask, network, config)
        totals = _Totals()
        tinted = (blend(s.frame, s.mask, config.opacity) for s in _saved(steps, out, totals, advance))
        if overlay is None:
            for _ in tinted:
                pass
        else:
            write_video(overlay, tinted, opened.info.fps)

    result = Propagation(
        video=str(video),
        model=source.name,
        frames=totals.frames,
        objects=tuple(int(i) for i in np.unique(first_mask) if i),
        masks=str(out),
        overlay=None if overlay is None else str(overlay),
        seconds_per_frame=totals.seconds / max(totals.frames - 1, 1),
        peak_rss_mb=peak_rss_mb(),
    )
    _finish(out, result, config, source.digest)
    if totals.error is not None:
        raise totals.error
    return result


def track(images: Iterable[U8], first_mask: U8, model: Model, config: InferenceConfig) -> Iterator[Step]:
    """Yield a step for every frame, the first with the given mask.

    Args:
        images: uint8 (H, W, 3) RGB, all of one size.
        first_mask: uint8 (H, W) object ids of the first.
    """
    frames = iter(images)
    first = next(frames)
    tracker = model.tracker(first, first_mask, config.tracker)
    yield Step(frame=first, mask=first_mask, seconds=0.0)
    for frame in frames:
        started = time.perf_counter()
        mask = tracker.step(frame)
        yield Step(frame=frame, mask=mask, seconds=time.perf_counter() - started)


def make_folder(folder: Path) -> None:
    """Make an output folder.

    Raises:
        CallError: it cannot be made; says why.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CallError(f"cannot write to the folder {folder}: {exc.strerror or exc}") from exc


class _Totals:
    frames = 0
    seconds = 0.0
    error: VideoError | None = None


def _saved(steps: Iterator[Step], out: Path, totals: _Totals, advance: Callable[[int], None]) -> Iterator[Step]:
    """Write every mask as it passes. A frame that cannot be decoded ends the stream: what is done stays whole."""
    try:
        for step in steps:
            write_mask(out / f"{totals.frames:05d}.png", step.mask)
            totals.frames += 1
            totals.seconds += step.seconds
            advance(1)
            yield step
    except VideoError as exc:
        totals.error = exc


def _images(video: Video) -> Iterator[U8]:
    shape = (video.info.height, video.info.width, 3)
    for frame in video.frames():
        if frame.image.shape != shape:
            height, width = frame.image.shape[:2]
            reason = f"the picture changes from {shape[1]}x{shape[0]} to {width}x{height}; split the video there"
            raise VideoError(video.info.path, "decode", reason, frame.index)
        yield frame.image


def _check_overlay(overlay: Path | None) -> None:
    if overlay is not None and overlay.suffix.lower() not in OVERLAY_SUFFIXES:
        raise CallError(f"the overlay video {overlay} must end in one of {', '.join(OVERLAY_SUFFIXES)}")


def _finish(out: Path, result: Propagation, config: InferenceConfig, model_digest: str) -> None:
    """Remove the masks that a longer earlier propagation left behind, and note how these were made."""
    note = out / "propagation.json"
    if note.is_file():
        for index in range(result.frames, json.loads(note.read_text())["frames"]):
            (out / f"{index:05d}.png").unlink(missing_ok=True)
    facts = {**asdict(result), "model_digest": model_digest, "config": config_to_dict(config)}
    write_text(note, json.dumps(facts, indent=2) + "\n")
