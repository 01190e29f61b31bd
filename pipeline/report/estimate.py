"""Estimate what a build will take, from pieces of a few videos that are decoded and labelled.
Nothing is written.

Every figure is a ratio estimate: clips, bytes and core time of the pieces, divided by what the
headers of these pieces promise, times what the headers of all videos promise. The videos are a
stratified sample: one drawn from each of several equally large groups of similar work.
"""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from corrfractal.common.console import progress
from corrfractal.common.errors import CorrFractalError
from corrfractal.runtime.process import cpu_count, peak_rss_mb
from corrfractal.video.discovery import discover, ignored_summary
from pipeline.config import PipelineConfig
from pipeline.discover.segments import count_segments, cut_source, group_segments, needs_length
from pipeline.sample.clips import TICK_TOLERANCE

from .header_info import HeaderInfo, fill_in_lengths, probe_entry
from .sample_run import STAGES, SampleRun, run_piece, warm_up

# Most videos whose headers are read: of ten million, all headers would take hours.
PROBED = 400
# Length of the piece of the video with the largest frames, which is run for its memory only
LARGEST_SECONDS = 2.0
# Memory of a Ray worker beyond that of this process, both with the decoders loaded
RAY_WORKER_MB = 90.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a build will take.

    Attributes:
        sources: videos.
        pilots: videos of which a piece was run.
        lost: share of the pilots that are damaged.
        clips, frames, bytes, shards: stored.
        source_bytes: read.
        core_hours: processor time of all stages.
        stages: processor time by stage, hours.
        bottleneck: the stage with the most processor time.
        worker_mb: peak memory of a worker, MB.
        config: ``PipelineConfig.recipe()``.
    """

    sources: int
    pilots: int
    lost: float
    clips: int
    frames: int
    bytes: int
    shards: int
    source_bytes: int
    core_hours: float
    stages: dict[str, float]
    bottleneck: str
    worker_mb: float
    config: dict[str, Any]

    def hours(self, workers: int) -> float:
        """Wall time with one core per worker, in complete rounds of shards."""
        rounds = -(-self.shards // workers)
        return self.core_hours * rounds / self.shards


def estimate_build(
    sources: Sequence[str],
    config: PipelineConfig,
    *,
    pilots: int = 16,
    seed: int = 0,
    videos: int | None = None,
    seconds: float | None = None,
) -> Estimate:
    """Estimate a build.

    Args:
        sources: as for ``precompute``.
        config: as for ``precompute``.
        pilots: videos of which a piece is run.
        seed: decides which videos and pieces.
        videos: size of the set that the sources are a sample of; None: the sources are the set.
        seconds: mean length of the videos of that set; None: that of the sources.

    Raises:
        NotFoundError: a source does not exist.
        CorrFractalError: none of the pieces gave a clip.
    """
    # 1. List all sources; read the headers of at most PROBED of them.
    found = discover(sources)
    if found.ignored:
        log.info(ignored_summary(found.ignored))
    rng = random.Random(seed)
    count = len(found.entries)
    probed = sorted(rng.sample(range(count), min(PROBED, count)))
    with ThreadPoolExecutor(2 * cpu_count()) as pool:
        headers = list(pool.map(probe_entry, (found.entries[number] for number in probed)))
    headers = fill_in_lengths(headers)

    # 2. Run a piece of a stratified sample.
    warm_up(config)
    chosen = _stratified(headers, pilots, rng)
    runs = []
    with progress("pieces", len(chosen)) as advance:
        for header in chosen:
            runs.append(run_piece(header, config, rng))
            advance(1, Path(header.location).name)
    # Memory follows the largest frames, which the sample may have missed.
    run_piece(max(headers, key=lambda header: header.pixels), config, rng, LARGEST_SECONDS)
    if not any(run.clips for run in runs):
        raise CorrFractalError(
            f"none of the {len(runs)} videos tried gave a clip, the first is {chosen[0].location}"
        )

    # 3. Extrapolate to the set that the sources stand for.
    if seconds is not None:
        stretch = seconds / (sum(header.seconds for header in headers) / len(headers))
        headers = [
            replace(header, seconds=header.seconds * stretch, bytes=round(header.bytes * stretch))
            for header in headers
        ]
    scale = (videos or count) / len(headers)
    return _extrapolate(runs, headers, scale, config)


def _stratified(headers: Sequence[HeaderInfo], count: int, rng: random.Random) -> list[HeaderInfo]:
    """One video from each of ``count`` equally large groups of similar work."""
    ordered = sorted(headers, key=lambda header: (header.work, header.location))
    edges = np.linspace(0, len(ordered), min(count, len(ordered)) + 1).round().astype(int)
    return [ordered[rng.randrange(start, stop)] for start, stop in itertools.pairwise(edges)]


def _extrapolate(
    runs: Sequence[SampleRun], headers: Sequence[HeaderInfo], scale: float, config: PipelineConfig
) -> Estimate:
    """Scale what the pieces took up to ``scale`` times the videos of ``headers``."""
    # Clips: cuts, gaps and damage leave a share of what would fit.
    clips_that_fit = scale * sum(_clips_that_fit(header, config) for header in headers)
    kept = _ratio((run.clips for run in runs), (_clips_that_fit(run.piece, config) for run in runs))
    clips = clips_that_fit * kept
    bytes_per_clip = _ratio((run.bytes for run in runs), (run.clips for run in runs))

    # Core time: each stage is proportional to its own unit of work.
    all_bytes = scale * sum(header.bytes for header in headers)
    all_work = scale * sum(header.work for header in headers)
    units: dict[str, tuple[list[float], float]] = {
        "read": ([run.whole.bytes for run in runs], all_bytes),
        "open": ([run.whole.work for run in runs], all_work),
        "decode": ([run.piece.work for run in runs], all_work),
        "label": ([run.clips for run in runs], clips),
        "store": ([run.clips for run in runs], clips),
    }
    hours = {}
    for stage, (measured_units, all_units) in units.items():
        seconds_per_unit = _ratio((run.seconds[stage] for run in runs), measured_units)
        hours[stage] = seconds_per_unit * all_units / 3600

    listed = sorted(headers, key=lambda header: header.source().uri)
    sources = [header.source() for header in listed]
    counts = [_segment_count(header, config) for header in listed]
    groups = group_segments(sources, counts, config)
    return Estimate(
        sources=round(scale * len(headers)),
        pilots=len(runs),
        lost=_ratio((run.lost for run in runs), (1 for _ in runs)),
        clips=round(clips),
        frames=round(clips * config.clip.frames),
        bytes=round(clips * bytes_per_clip),
        shards=max(1, round(scale * sum(1 for _ in groups))),
        source_bytes=round(all_bytes),
        core_hours=sum(hours.values()),
        stages={stage: hours[stage] for stage in STAGES},
        bottleneck=max(hours, key=lambda stage: hours[stage]),
        worker_mb=peak_rss_mb() + RAY_WORKER_MB,
        config=config.recipe(),
    )


def _ratio(numerators: Iterable[float], denominators: Iterable[float]) -> float:
    """Quotient of two sums; 0 if the second is 0."""
    total = sum(denominators)
    return sum(numerators) / total if total else 0.0


def _segment_count(header: HeaderInfo, config: PipelineConfig) -> int:
    source = header.source()
    return count_segments(source, header.seconds if needs_length(source, config) else 0.0, config)


def _clips_that_fit(header: HeaderInfo, config: PipelineConfig) -> int:
    """Clips of a video without cuts and damage; counts as ``sampled_frames`` does."""
    if not header.pixels:
        return 0
    count = 0
    for segment in cut_source(header.source(), _segment_count(header, config), config):
        length = min(segment.stop, header.seconds) - segment.start
        ticks = int(max(0.0, length - 1 / header.fps) * config.clip.fps + TICK_TOLERANCE) + 1
        samples = min(ticks, round(length * header.fps))
        count += max(0, (samples - config.clip.frames) // config.clip.step + 1)
    return count
