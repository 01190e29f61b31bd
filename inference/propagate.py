"""Label propagation through one video: frames and given masks in, a mask for every frame out
(paper, III-D, Fig. 5b).

Frames stream through: memory does not grow with the video's length. From the first frame that a
mask is given for, one pass goes forward, with later masks as corrections, and one backward to the
beginning. Each mask is written when it is known; an interrupted run resumes from the masks that
are there, and ends at the same ones.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from corrfractal.common.config import config_to_dict, digest
from corrfractal.common.console import progress, say
from corrfractal.common.errors import CallError, VideoError
from corrfractal.common.output_guard import Written, refuse_overlap
from corrfractal.common.process import peak_rss_mb
from corrfractal.network.tracker import working_size
from corrfractal.video import Video, open_video
from corrfractal.video.content import CHANGED, content_sha256, state
from inference.prompts.keypoints import Points, points_table
from inference.prompts.shapes import Prompts

from .config import InferenceConfig
from .load import Model, ModelSource, open_model, resolve_model
from .outputs import Outputs, write_outputs, write_point_video
from .passes import Follower

U8 = npt.NDArray[np.uint8]

NOTE = "propagation.json"
WRITTEN = "propagation.written.jsonl"
POINTS = "points.csv"
SOFT = "probabilities"


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
        frames: number of masks, named as their frames; of frames with points.
        kept: how many of them an earlier run had written.
        objects: ids in the given masks; names of the points.
        masks: their folder.
        overlay, contours, cutout: what else was asked for.
        seconds_per_frame: of the tracker alone, without reading and writing files; 0 if nothing was
            left to do.
        peak_rss_mb: largest resident memory of the process so far.
    """

    video: str
    model: str
    frames: int
    kept: int
    objects: tuple[int, ...] | tuple[str, ...]
    masks: str
    overlay: str | None
    contours: str | None
    cutout: str | None
    seconds_per_frame: float
    peak_rss_mb: float


def propagate_video(
    video: Path,
    given: Prompts | Points | Path,
    out: Path,
    model: str | None = None,
    config: InferenceConfig | None = None,
    *,
    outputs: Outputs | None = None,
    overlay: Path | None = None,
    overwrite: bool = False,
) -> Propagation:
    """Carry masks, or points, through a video.

    Args:
        video: file, or folder of frames.
        given: masks and shapes of some frames; or the file of the first frame's mask; or points.
        out: folder for a palette PNG a frame, named as the frame (``00000.png`` on for a video
            file); made if missing. For points, ``points.csv``.
        model: see ``inference.load.resolve_model``.
        outputs: what else to write; ``overlay`` is short for its most usual part.
        overwrite: replace files of others where results go.

    Raises:
        CallError, NotFoundError, MaskError: the call cannot be carried out; nothing was written.
        VideoError: a frame cannot be decoded; the masks of the frames before it are kept.
    """
    given = Prompts(masks={0: given}) if isinstance(given, Path) else given
    job = Job(
        video=video, given=given, out=out, outputs=outputs or Outputs(overlay=overlay), overwrite=overwrite
    )  # fmt: skip
    refuse_overlap(job.places, (video, *given.files, None if model is None else Path(model)))
    opened = job.check()
    source = resolve_model(model)
    with progress("propagate", opened.info.frames) as advance:
        return job.run(opened, source, open_model(source), config or InferenceConfig(), advance)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One video to propagate through: what is given, and where everything goes."""

    video: Path
    given: Prompts | Points
    out: Path
    outputs: Outputs
    overwrite: bool = False

    @property
    def places(self) -> dict[str, Path | None]:
        """Where the results go, by the option that names the place."""
        soft = self.out / SOFT if self.outputs.probabilities else None
        return {"--out": self.out, **self.outputs.places, "--probabilities": soft}

    @cached_property
    def first_state(self) -> str:
        """State of the video's files when it was first asked for."""
        return _state(self.video)

    def check(self) -> Video:
        """Open the video, and see whether what is given fits it; nothing is written.

        Raises:
            CallError, NotFoundError, MaskError, VideoError: says what is wrong.
        """
        self.outputs.check()
        _ = self.first_state  # before anything is read
        opened = open_video(self.video)
        info = opened.info
        frames = (self.given.frame,) if isinstance(self.given, Points) else self.given.frames
        for frame in frames:
            if frame >= info.frames:
                raise CallError(
                    f"frame {frame} is given, but {self.video} has the frames 0..{info.frames - 1}"
                )
            if isinstance(self.given, Prompts):
                self.given.mask(frame, (info.height, info.width))
        self.refuse_foreign()
        return opened

    def refuse_foreign(self) -> None:
        """Check that nothing of others is where results go.

        Raises:
            CallError: names the first such file.
        """
        existing = [*_results(self.out), *self.outputs.videos, self.out / NOTE]
        if self.outputs.cutout_folder is not None:
            existing += _png_files(self.outputs.cutout_folder)
        self._written().refuse_foreign(existing, overwrite=self.overwrite)

    def _written(self) -> Written:
        return Written(self.out / WRITTEN)

    def run(
        self,
        video: Video,
        source: ModelSource,
        model: Model,
        config: InferenceConfig,
        advance: Callable[[int], None] = lambda n: None,
    ) -> Propagation:
        """Do what is not done yet.

        Raises:
            VideoError: a frame cannot be decoded; the masks of the frames before it are kept.
        """
        make_folder(self.out)
        size = (video.info.height, video.info.width)
        if (working := working_size(*size, config.tracker)) != size:
            say(
                f"frames of {size[1]}x{size[0]} are embedded at {working[1]}x{working[0]}; masks "
                "keep the full size"
            )
        identity = digest(
            [
                fingerprint(self.video),
                self.given.digest(),
                source.digest,
                config.digest,
                self.outputs.probabilities,
            ]
        )
        written = self._begin(identity)
        follower = Follower(
            video=video, out=self.out, written=written, model=model, config=config.tracker, advance=advance,
            probabilities=self.outputs.probabilities,
        )  # fmt: skip
        if isinstance(self.given, Points):
            totals, tracks = follower.follow_points(self.given)
            written.write(self.out / POINTS, points_table(self.given.names, tracks, video.names()))
            if self.outputs.overlay is not None and tracks:
                write_point_video(self.outputs.overlay, video, tracks, written)
        else:
            totals = follower.follow_masks(self.given)
            if totals.frames:
                write_outputs(video, self.out, self.outputs, config.opacity, written)
        result = Propagation(
            video=str(self.video),
            model=source.name,
            frames=totals.frames,
            kept=totals.kept,
            objects=_objects(self.given, size),
            masks=str(self.out),
            overlay=_text(self.outputs.overlay),
            contours=_text(self.outputs.contours),
            cutout=_text(self.outputs.cutout),
            seconds_per_frame=totals.seconds / max(totals.steps, 1),
            peak_rss_mb=peak_rss_mb(),
        )
        facts = {
            **asdict(result),
            "digest": identity,
            "model_digest": source.digest,
            "config": config_to_dict(config),
        }
        self._note(written, facts)
        others = [path for path in _results(self.out) if not written.names(path)]
        if others:
            say(
                f"{len(others)} files in {self.out} are not of this run and were left there, such "
                f"as {others[0].name}"
            )
        if _state(self.video) != self.first_state:
            self._begin("")  # no mask belongs to the bytes that were hashed
            raise VideoError(str(self.video), "read", CHANGED)
        if totals.error is not None:
            raise totals.error
        return result

    def _begin(self, identity: str) -> Written:
        """Keep the results of an earlier run of the same work; delete those of other work that
        nobody changed."""
        written = self._written()
        try:
            before = json.loads((self.out / NOTE).read_bytes())["digest"]
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            before = None
        if before != identity:
            stale = {path.resolve() for path in _results(self.out)}
            if self.outputs.cutout_folder is not None:
                stale |= {path.resolve() for path in _png_files(self.outputs.cutout_folder)}
            written.clear(lambda path: path.resolve() in stale)
            self._note(written, {"digest": identity})
        return written

    def _note(self, written: Written, facts: dict[str, Any]) -> None:
        written.write(self.out / NOTE, (json.dumps(facts, indent=2) + "\n").encode())


def track(
    images: Iterable[U8],
    first_mask: U8,
    model: Model,
    config: InferenceConfig,
    given: dict[int, U8] | None = None,
) -> Iterator[Step]:
    """Yield a step for every frame, the first with the given mask.

    Args:
        images: uint8 (H, W, 3) RGB, all of one size.
        first_mask: uint8 (H, W) object ids of the first.
        given: masks of later frames, by their position.
    """
    frames = iter(images)
    first = next(frames)
    tracker = model.tracker(first, first_mask, config.tracker)
    yield Step(frame=first, mask=first_mask, seconds=0.0)
    for t, frame in enumerate(frames, start=1):
        started = time.perf_counter()
        mask = tracker.step(frame, (given or {}).get(t))
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


def frame_names(video: Path) -> Sequence[str] | None:
    """How prompts name the frames: by the files of a folder of frames; None for a video file, which
    has numbers."""
    return open_video(video).names() if video.is_dir() else None


def fingerprint(video: Path) -> str:
    """SHA-256 of a file, or of names and contents of a folder's frames."""
    return content_sha256(video)


def _state(video: Path) -> str:
    """State of a video's files, see ``corrfractal.video.content``; ``""`` where there are none."""
    try:
        return state(video)
    except OSError:
        return ""


def _results(out: Path) -> list[Path]:
    """What is where results go in an output folder: masks, probabilities, points."""
    points = [out / POINTS] if os.path.lexists(out / POINTS) else []
    soft = [path for path in sorted((out / SOFT).rglob("*")) if not path.is_dir()]
    return [*_png_files(out), *soft, *points]


def _png_files(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else []
    return sorted(
        path for path in found if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )


def _objects(given: Prompts | Points, size: tuple[int, int]) -> tuple[int, ...] | tuple[str, ...]:
    if isinstance(given, Points):
        return given.names
    return tuple(
        sorted({int(i) for frame in given.frames for i in np.unique(given.mask(frame, size)) if i})
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)
