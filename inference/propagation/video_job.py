"""The job of one video: check the call, propagate through the frames that have no result yet, write
the outputs.

``propagation.json`` identifies the work by a digest of video, prompts, model and settings; results
of any other work are not resumed. ``propagation.written.jsonl`` names the files that a rerun may
keep, replace or delete.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from corrfractal import CorrFractal
from corrfractal.common.config import config_to_dict, digest
from corrfractal.common.errors import CallError, VideoError
from corrfractal.files.storage import join
from corrfractal.files.written_files import Written
from corrfractal.network.tracker import working_size
from corrfractal.runtime.process import keep_freed_memory, peak_rss_mb
from corrfractal.video import Video, open_video
from corrfractal.video.content import CHANGED, content_sha256, state
from inference.config import InferenceConfig
from inference.load import ModelSource
from inference.prompts.keypoints import Points, points_table
from inference.prompts.shapes import Prompts
from inference.protocols import Model

from .outputs import (
    PROBABILITIES,
    Outputs,
    PointTrack,
    make_folder,
    write_outputs,
    write_point_video,
)
from .passes import BOTH, Direction, VideoPasses

RESULT = "propagation.json"
WRITTEN = "propagation.written.jsonl"
POINTS = "points.csv"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Propagation:
    """Result of ``propagate_video``; also stored as ``propagation.json`` beside the masks.

    Attributes:
        video: as named by the user.
        model: as resolved.
        frames: number of masks, or of frames with key points.
        kept: how many of them an earlier run had written.
        objects: ids in the prompts, or names of the key points.
        masks: folder of the masks.
        overlay, contours, cutout: further outputs; None if not requested.
        seconds_per_frame: of the tracker alone, without reading and writing files; 0 if nothing was
            left to do.
        peak_rss_mb: peak resident memory of the process so far.
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


@dataclass(frozen=True, kw_only=True)
class PropagationJob:
    """One video, its prompts, and where the results go: ``check`` first, then ``run``."""

    video: Path
    prompts: Prompts | Points
    out: Path
    outputs: Outputs
    overwrite: bool = False
    uri: str | None = None
    """The folder at a URI of which ``out`` is a copy: results name it instead."""

    @property
    def places(self) -> dict[str, Path | None]:
        """Where the results go, by the option that names the place."""
        probabilities = self.out / PROBABILITIES if self.outputs.probabilities else None
        return {"--out": self.out, **self.outputs.places, "--probabilities": probabilities}

    @cached_property
    def first_state(self) -> str:
        """State of the video's files at the first access, see ``corrfractal.video.content``."""
        return _state(self.video)

    def check(self) -> Video:
        """Open the video and check that the prompts fit it; nothing is written.

        Raises:
            CallError, NotFoundError, MaskError, VideoError: says what is wrong.
        """
        self.outputs.check()
        _ = self.first_state  # recorded before anything is read, and compared at the end of `run`
        opened = open_video(self.video)
        info = opened.info
        if isinstance(self.prompts, Points):
            prompted_frames: tuple[int, ...] = (self.prompts.frame,)
        else:
            prompted_frames = self.prompts.frames

        # Masks are read here, too, so that a bad one is refused before any model is loaded.
        for frame in prompted_frames:
            if frame >= info.frames:
                raise CallError(
                    f"frame {frame} is given, but {self.video} has the frames 0..{info.frames - 1}"
                )
            if isinstance(self.prompts, Prompts):
                self.prompts.mask(frame, (info.height, info.width))
        self.refuse_foreign()
        return opened

    def refuse_foreign(self) -> None:
        """Check that results would replace no file that this command did not write.

        Raises:
            CallError: names the first such file.
        """
        # Any PNG in the folder may have the name of a frame.
        existing = [*_results(self.out), *self.outputs.videos, self.out / RESULT]
        if self.outputs.cutout_folder is not None:
            existing += _png_files(self.outputs.cutout_folder)
        Written(self.out / WRITTEN).refuse_foreign(existing, overwrite=self.overwrite)

    def run(
        self,
        video: Video,
        source: ModelSource,
        model: Model,
        config: InferenceConfig,
        advance: Callable[[int], None] = lambda n: None,
        *,
        directions: tuple[Direction, ...] = BOTH,
        tracks: dict[int, PointTrack] | None = None,
    ) -> Propagation:
        """Propagate through all frames that have no result yet.

        Args:
            video: what ``check`` returned.
            source, model: the model, found and loaded.
            config: settings of the tracker and the overlay.
            advance: called with the number of frames done. An exception that it raises ends the
                run, which can be resumed.
            directions: passes to run, in this order.
            tracks: filled with the positions of key points while they are found.

        Raises:
            VideoError: a frame cannot be decoded, and masks of the frames before it are kept; or
                the video changed during the run, and no mask is kept.
        """
        keep_freed_memory()
        make_folder(self.out)
        size = (video.info.height, video.info.width)
        correspondence = model.config.correspondence if isinstance(model, CorrFractal) else None
        embedded_size = working_size(*size, config.tracker, correspondence)
        if embedded_size != size:
            log.info(
                f"frames of {size[1]}x{size[0]} are embedded at "
                f"{embedded_size[1]}x{embedded_size[0]}; masks keep the full size"
            )

        # Results of another video, prompt, model or setting must not be resumed.
        content = content_sha256(self.video)
        settings = [source.digest, config.digest, self.outputs.probabilities]
        identity: dict[str, Any] = {
            "digest": digest([content, self.prompts.digest(), *settings]),
            "digest_without_prompts": digest([content, *settings]),
        }
        if isinstance(self.prompts, Prompts):
            identity["prompts"] = {str(frame): d for frame, d in self.prompts.digests().items()}
        written = self._start(identity, video.names())

        passes = VideoPasses(
            video=video,
            out=self.out,
            written=written,
            model=model,
            config=config.tracker,
            advance=advance,
            probabilities=self.outputs.probabilities,
            directions=directions,
        )
        if isinstance(self.prompts, Points):
            tracks = {} if tracks is None else tracks
            totals = passes.propagate_points(self.prompts, tracks)
            table = points_table(self.prompts.names, tracks, video.names())
            written.write(self.out / POINTS, table)
            if self.outputs.overlay is not None and tracks:
                write_point_video(self.outputs.overlay, video, tracks, written)
        else:
            totals = passes.propagate_masks(self.prompts)
            # A video is encoded front to back, but masks are found backward and after gaps: the
            # outputs are made in passes of their own (docs/decisions/0036).
            if totals.frames:
                write_outputs(video, self.out, self.outputs, config.opacity, written)

        result = Propagation(
            video=str(self.video),
            model=source.name,
            frames=totals.frames,
            kept=totals.kept,
            objects=_objects(self.prompts, size),
            masks=self.uri or str(self.out),
            overlay=self._shown(self.outputs.overlay),
            contours=self._shown(self.outputs.contours),
            cutout=self._shown(self.outputs.cutout),
            seconds_per_frame=totals.seconds / max(totals.steps, 1),
            peak_rss_mb=peak_rss_mb(),
        )
        # Replaces the document of `_start`, which holds the identity alone.
        document = {
            **asdict(result),
            **identity,
            "model_digest": source.digest,
            "config": config_to_dict(config),
        }
        self._write_result(written, document)

        foreign = [path for path in _results(self.out) if not written.names(path)]
        if foreign:
            log.info(
                f"{len(foreign)} files in {self.uri or self.out} do not belong to this run and were "
                f"left unchanged, such as {foreign[0].name}"
            )
        if _state(self.video) != self.first_state:
            # The masks may be of other bytes than those that were hashed: delete them.
            self._start({"digest": ""}, video.names())
            raise VideoError(str(self.video), "read", CHANGED)
        # Damage is raised last: the outputs of the good frames exist by now.
        if totals.error is not None:
            raise totals.error
        return result

    def _start(self, identity: dict[str, Any], names: Sequence[str]) -> Written:
        """Keep the results of an earlier run that this run would repeat; delete its others, except
        files that were edited since."""
        written = Written(self.out / WRITTEN)
        stored = _read_document(self.out / RESULT)
        if stored.get("digest") != identity["digest"]:
            results = _results(self.out)
            if self.outputs.cutout_folder is not None:
                results += _png_files(self.outputs.cutout_folder)
            kept = set(names[: first_stale_frame(stored, identity)])
            stale = {path.resolve() for path in results if path.stem not in kept}
            written.clear(lambda path: path.resolve() in stale)
            # Before the first mask, so that a rerun recognises the masks of a killed run.
            self._write_result(written, identity)
        return written

    def _shown(self, path: Path | None) -> str | None:
        if path is None or self.uri is None or not path.is_relative_to(self.out):
            return _path_text(path)
        return join(self.uri, path.relative_to(self.out).as_posix())

    def _write_result(self, written: Written, document: dict[str, Any]) -> None:
        written.write(self.out / RESULT, (json.dumps(document, indent=2) + "\n").encode())


def first_stale_frame(stored: Mapping[str, Any], identity: Mapping[str, Any]) -> int | None:
    """The first frame whose stored mask a run with other prompts would not repeat.

    Prompts after the first change only the masks of their own frame and of later ones: the forward
    pass has not met them before, and the backward pass never does.

    Args:
        stored, identity: ``digest_without_prompts`` and ``prompts`` of ``propagation.json``, of an
            earlier run and of this one.

    Returns:
        0: no mask is kept. None: all are.
    """
    before, after = stored.get("prompts"), identity.get("prompts")
    if not isinstance(before, dict) or not isinstance(after, dict):
        return 0
    if stored.get("digest_without_prompts") != identity["digest_without_prompts"]:
        return 0
    return first_changed_prompt(before, after)


def first_changed_prompt(before: Mapping[str, str], after: Mapping[str, str]) -> int | None:
    """The first frame whose prompt differs, by digests of the prompts by frame; 0 if it is the
    first prompted frame of all, None if there is none."""
    frames = sorted({int(frame) for frame in (*before, *after) if frame.isdecimal()})
    changed = [f for f in frames if before.get(str(f)) != after.get(str(f))]
    if not changed:
        return None
    return 0 if changed[0] == frames[0] else changed[0]


def _read_document(path: Path) -> dict[str, Any]:
    """``propagation.json``; empty if there is none that can be read."""
    try:
        document = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _state(video: Path) -> str:
    """State of a video's files; ``""`` if they cannot be read."""
    try:
        return state(video)
    except OSError:
        return ""


def _results(out: Path) -> list[Path]:
    """Existing files of an output folder that have the names of results."""
    probabilities = sorted((out / PROBABILITIES).rglob("*"))
    results = [*_png_files(out), *(path for path in probabilities if not path.is_dir())]
    # A broken link has the name, too, and would be replaced.
    if os.path.lexists(out / POINTS):
        results.append(out / POINTS)
    return results


def _png_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )


def _objects(prompts: Prompts | Points, size: tuple[int, int]) -> tuple[int, ...] | tuple[str, ...]:
    if isinstance(prompts, Points):
        return prompts.names
    ids: set[int] = set()
    for frame in prompts.frames:
        ids |= {int(object_id) for object_id in np.unique(prompts.mask(frame, size))}
    return tuple(sorted(ids - {0}))


def _path_text(path: Path | None) -> str | None:
    return None if path is None else str(path)
