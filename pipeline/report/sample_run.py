"""What a build will take, told from pieces of a few videos that are really decoded and labelled.
Nothing is written.

Everything is a ratio: clips, bytes and core time of the pieces, over what the headers of the same
pieces promise, times what the headers of all videos promise. The videos are drawn one each from
equally large groups of like work.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np

from corrfractal.common import storage
from corrfractal.common.console import progress, say
from corrfractal.common.errors import CorrFractalError, NotFoundError, VideoError
from corrfractal.common.process import cpu_count, peak_rss_mb
from corrfractal.shards.clip import Clip, encode_clip
from corrfractal.video import open_video
from corrfractal.video.container import read_container
from corrfractal.video.content import content_files, content_sha256
from corrfractal.video.discovery import Entry, discover, ignored_summary
from corrfractal.video.images import image_size
from corrfractal.video.timestamps import FOLDER_FPS
from pipeline.config import PipelineConfig
from pipeline.discover.segments import cut_source, group_segments
from pipeline.discover.sources import Source
from pipeline.label.pseudo_labels import label_statistics, label_views
from pipeline.sample.clips import TICK_TOLERANCE
from pipeline.sample.decode import RawClip, decode_clips
from pipeline.store.tar import TarWriter

from .estimate import STAGES, Prediction

PROBED = 400  # videos whose headers are read, at most
PIECE_SECONDS = 10.0
# Of the video with the largest frames, which is run for the memory that it takes
LARGEST_SECONDS = 2.0
RAY_WORKER_MB = 90.0  # of a Ray worker beside this process, both with the decoders loaded
USUAL_FPS = 30.0  # where a file has no clock


@dataclass(frozen=True, kw_only=True)
class HeaderInfo:
    """What the header of a video promises; no frames where it cannot be read."""

    location: str
    bytes: int = 0
    seconds: float = 0.0
    fps: float = USUAL_FPS
    pixels: int = 0

    @property
    def work(self) -> float:
        """Pixels to decode."""
        return self.seconds * self.fps * self.pixels

    def part(self, seconds: float) -> HeaderInfo:
        """The same of so many seconds of it."""
        return replace(self, seconds=seconds) if seconds < self.seconds else self

    def source(self) -> Source:
        """As the pipeline would see it, unread."""
        return Source(
            uri=self.location, path=self.location, sha256="", bytes=self.bytes, seconds=self.seconds
        )


@dataclass(kw_only=True)
class SampleRun:
    """A piece of a video that was run: what its header promised, what came of it, core-seconds by
    stage."""

    whole: HeaderInfo
    piece: HeaderInfo
    clips: int = 0
    bytes: int = 0
    lost: bool = False
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the processor time of the block."""
        started = time.process_time()
        try:
            yield
        finally:
            self.seconds[stage] += time.process_time() - started


def plan(
    sources: Sequence[str],
    config: PipelineConfig,
    *,
    pilots: int = 16,
    seed: int = 0,
    videos: int | None = None,
    seconds: float | None = None,
) -> Prediction:
    """Predict a build.

    Args:
        sources: as of ``precompute``.
        config: as of ``precompute``.
        pilots: videos of which a piece is run.
        seed: decides which.
        videos: take the sources for a sample of so many.
        seconds: take videos for so long on average.

    Raises:
        NotFoundError: a source does not exist.
        CorrFractalError: none of the pieces gave a clip.
    """
    found = discover(sources)
    listed = found.entries
    if found.ignored:
        say(ignored_summary(found.ignored))
    rng = random.Random(seed)
    probed = [listed[i] for i in sorted(rng.sample(range(len(listed)), min(PROBED, len(listed))))]
    with ThreadPoolExecutor(2 * cpu_count()) as pool:
        facts = _completed(list(pool.map(_probe_entry, probed)))
    _warm_up(config)
    chosen = _stratified(facts, pilots, rng)
    done = []
    with progress("pieces", len(chosen)) as advance:
        for one in chosen:
            done.append(_run(one, config, rng))
            advance(1, Path(one.location).name)
    _run(max(facts, key=lambda one: one.pixels), config, rng, LARGEST_SECONDS)
    if not any(pilot.clips for pilot in done):
        raise CorrFractalError(
            f"none of the {len(done)} videos tried gave a clip, the first is {chosen[0].location}"
        )
    if seconds is not None:
        longer = seconds / (sum(one.seconds for one in facts) / len(facts))
        facts = [
            replace(one, seconds=one.seconds * longer, bytes=round(one.bytes * longer))
            for one in facts
        ]
    scale = (videos or len(listed)) / len(facts)
    return _predict(done, facts, scale, config)


def _predict(
    done: Sequence[SampleRun], facts: Sequence[HeaderInfo], scale: float, config: PipelineConfig
) -> Prediction:
    promised = scale * sum(_clips(one, config) for one in facts)
    kept = _ratio((pilot.clips for pilot in done), (_clips(pilot.piece, config) for pilot in done))
    clips = promised * kept
    units: dict[str, tuple[list[float], float]] = {
        "read": ([pilot.whole.bytes for pilot in done], scale * sum(one.bytes for one in facts)),
        "open": ([pilot.whole.work for pilot in done], scale * sum(one.work for one in facts)),
        "decode": ([pilot.piece.work for pilot in done], scale * sum(one.work for one in facts)),
        "label": ([pilot.clips for pilot in done], clips),
        "store": ([pilot.clips for pilot in done], clips),
    }
    hours = {
        stage: _ratio((pilot.seconds[stage] for pilot in done), mine) * all_of_it / 3600
        for stage, (mine, all_of_it) in units.items()
    }
    shards = scale * sum(1 for _ in group_segments([one.source() for one in facts], config))
    return Prediction(
        sources=round(scale * len(facts)),
        pilots=len(done),
        lost=_ratio((pilot.lost for pilot in done), (1 for _ in done)),
        clips=round(clips),
        frames=round(clips * config.clip.frames),
        bytes=round(
            clips * _ratio((pilot.bytes for pilot in done), (pilot.clips for pilot in done))
        ),
        shards=max(1, round(shards)),
        source_bytes=round(scale * sum(one.bytes for one in facts)),
        core_hours=sum(hours.values()),
        stages={stage: hours[stage] for stage in STAGES},
        bottleneck=max(hours, key=lambda stage: hours[stage]),
        worker_mb=peak_rss_mb() + RAY_WORKER_MB,
        config=config.recipe(),
    )


def _ratio(of: Iterable[float], to: Iterable[float]) -> float:
    """Quotient of two sums, 0 where the second is."""
    total = sum(to)
    return sum(of) / total if total else 0.0


def _clips(facts: HeaderInfo, config: PipelineConfig) -> int:
    """Clips that fit, were there no cut and no damage; see ``sampled_frames``."""
    if not facts.pixels:
        return 0
    count = 0
    for segment in cut_source(facts.source(), config):
        length = min(segment.stop, facts.seconds) - segment.start
        ticks = int(max(0.0, length - 1 / facts.fps) * config.clip.fps + TICK_TOLERANCE) + 1
        samples = min(ticks, round(length * facts.fps))
        count += max(0, (samples - config.clip.frames) // config.clip.step + 1)
    return count


def _run(
    facts: HeaderInfo, config: PipelineConfig, rng: random.Random, seconds: float = PIECE_SECONDS
) -> SampleRun:
    """Decode, label and encode a piece of a video as ``pipeline.store.shard_task`` would."""
    start = max(0.0, rng.random() * (facts.seconds - seconds))
    stop = start + seconds if facts.seconds > seconds else math.inf
    pilot = SampleRun(whole=facts, piece=facts.part(seconds))
    try:
        with storage.local_copy(facts.location) as path:
            with pilot.timed("read"):
                content_sha256(path)
            # The second has the last word on what the first cannot read to its end
            for decoder in ("auto", "pyav"):
                pilot.clips = pilot.bytes = 0
                pilot.lost = False
                with pilot.timed("open"):
                    video = open_video(path, decoder, (config.size, config.size))
                try:
                    _read(pilot, decode_clips(video, config, start, stop), config)
                    break
                except VideoError:
                    pilot.lost = True
                    if video.info.decoder != "decord":
                        break
    except (VideoError, NotFoundError, OSError):
        pilot.lost = True
    return pilot


def _read(pilot: SampleRun, clips: Iterator[RawClip], config: PipelineConfig) -> None:
    tar = TarWriter(io.BytesIO())
    while True:
        with pilot.timed("decode"):
            raw = next(clips, None)
        if raw is None:
            return
        frames, key = raw.frames, f"{pilot.clips:05d}"
        with pilot.timed("label"):
            labels, codebooks = label_views(frames, key, config)
            label_statistics(labels)
        with pilot.timed("store"):
            meta = {"codebooks": [codebook.to_json() for codebook in codebooks]}
            members = encode_clip(Clip(key=key, frames=frames, labels=labels, meta=meta))
            pilot.bytes += tar.add(members)
            for contents in members.values():
                hashlib.sha256(contents)
            tar.rewind(0)
        pilot.clips += 1


def _warm_up(config: PipelineConfig) -> None:
    """What is loaded or compiled on first use is no part of any rate."""
    import av  # noqa: F401
    import decord  # noqa: F401

    cv2.setNumThreads(1)
    noise = np.random.default_rng(0).integers(
        0, 256, (2, config.size, config.size, 3), dtype=np.uint8
    )
    labels, _ = label_views(noise, "", config)
    encode_clip(Clip(key="0", frames=noise, labels=labels, meta={}))


def _stratified(facts: Sequence[HeaderInfo], count: int, rng: random.Random) -> list[HeaderInfo]:
    """One of each of ``count`` groups, equally large, of videos in order of the work that they are."""
    order = sorted(facts, key=lambda one: (one.work, one.location))
    edges = np.linspace(0, len(order), min(count, len(order)) + 1).round().astype(int)
    return [order[rng.randrange(a, b)] for a, b in itertools.pairwise(edges)]


def _completed(facts: list[HeaderInfo]) -> list[HeaderInfo]:
    """Where a header is silent on the length, it is that of the others for as many bytes."""
    known = [one for one in facts if one.seconds]
    rate = _ratio((one.seconds for one in known), [one.bytes for one in known])
    return [
        one if one.seconds or not one.pixels else replace(one, seconds=rate * one.bytes)
        for one in facts
    ]


def _probe_entry(entry: Entry) -> HeaderInfo:
    return HeaderInfo(location=entry.location) if entry.fault else probe(entry.location)


def probe(location: str) -> HeaderInfo:
    """Read the tables of a video, or count the frames of a folder."""
    try:
        with storage.local_copy(location) as path:
            if path.is_dir():
                return _probe_folder(location, path)
            container = read_container(path)
            fps = container.frames / container.seconds if container.seconds else 0.0
            return HeaderInfo(
                location=location,
                bytes=path.stat().st_size,
                seconds=container.seconds,
                fps=fps if 0 < fps <= 1000 else container.fps or USUAL_FPS,
                pixels=container.width * container.height,
            )
    except (CorrFractalError, OSError):  # such a video gives nothing, which is a prediction
        return HeaderInfo(location=location)


def _probe_folder(location: str, path: Path) -> HeaderInfo:
    files = content_files(path)
    height, width = image_size(files[0])
    size = sum(file.stat().st_size for file in files)
    return HeaderInfo(
        location=location,
        bytes=size,
        seconds=len(files) / FOLDER_FPS,
        fps=FOLDER_FPS,
        pixels=height * width,
    )
