"""Run a piece of a video through all stages, in memory, and measure each stage."""

from __future__ import annotations

import hashlib
import io
import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np

from corrfractal.common.errors import NotFoundError, VideoError
from corrfractal.files import storage
from corrfractal.shards.clip import Clip, encode_clip
from corrfractal.video import open_video
from corrfractal.video.content import content_sha256
from pipeline.config import PipelineConfig
from pipeline.label.pseudo_labels import label_statistics, label_views
from pipeline.sample.decode import RawClip, decode_clips
from pipeline.store.tar import TarWriter

from .header_info import HeaderInfo

STAGES = ("read", "open", "decode", "label", "store")
"""Hash a source; open it with a decoder; decode, scale, detect cuts and damage; make pseudo-labels;
encode and write."""

PIECE_SECONDS = 10.0


@dataclass(kw_only=True)
class SampleRun:
    """A piece of a video that was run.

    Attributes:
        whole: header of the video.
        piece: the part of it that the piece covers.
        clips, bytes: what the piece gave.
        lost: whether the video is damaged.
        seconds: processor time by stage.
    """

    whole: HeaderInfo
    piece: HeaderInfo
    clips: int = 0
    bytes: int = 0
    lost: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the processor time of the block to a stage."""
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - started


def run_piece(
    header: HeaderInfo,
    config: PipelineConfig,
    rng: random.Random,
    seconds: float = PIECE_SECONDS,
) -> SampleRun:
    """Decode, label and encode a piece as ``pipeline.store.sample_segment`` would.

    Args:
        header: of the video.
        config: as for the build.
        rng: draws where the piece begins.
        seconds: length of the piece; a shorter video is run from end to end.
    """
    start = max(0.0, rng.random() * (header.seconds - seconds))
    stop = start + seconds if header.seconds > seconds else math.inf
    run = SampleRun(whole=header, piece=header.piece(seconds))
    try:
        with storage.local_copy(header.location) as path:
            with run.timed("read"):
                content_sha256(path)
            # As in a build: where decord fails, PyAV starts over and decides.
            for decoder in ("auto", "pyav"):
                run.clips = 0
                run.bytes = 0
                run.lost = False
                with run.timed("open"):
                    video = open_video(path, decoder, (config.size, config.size))
                try:
                    _label_and_encode(run, decode_clips(video, config, start, stop), config)
                    break
                except VideoError:
                    run.lost = True
                    if video.info.decoder != "decord":
                        break
    except (VideoError, NotFoundError, OSError):
        run.lost = True
    return run


def _label_and_encode(run: SampleRun, clips: Iterator[RawClip], config: PipelineConfig) -> None:
    tar = TarWriter(io.BytesIO())
    while True:
        with run.timed("decode"):
            raw = next(clips, None)
        if raw is None:
            return

        key = f"{run.clips:05d}"
        with run.timed("label"):
            labels, codebooks = label_views(raw.frames, key, config)
            label_statistics(labels)

        with run.timed("store"):
            meta = {"codebooks": [codebook.to_json() for codebook in codebooks]}
            members = encode_clip(Clip(key=key, frames=raw.frames, labels=labels, meta=meta))
            run.bytes += tar.add(members)
            # The hash of the finished shard costs as much as those of its members.
            for contents in members.values():
                hashlib.sha256(contents)
            tar.rewind(0)
        run.clips += 1


def warm_up(config: PipelineConfig) -> None:
    """Import and compile what is loaded on first use, so that no piece is charged for it."""
    import av  # noqa: F401
    import decord  # noqa: F401

    cv2.setNumThreads(1)
    shape = (2, config.size, config.size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    labels, _ = label_views(noise, "", config)
    encode_clip(Clip(key="0", frames=noise, labels=labels, meta={}))
