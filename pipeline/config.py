"""What decides the bytes of the shards, as one frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from corrfractal.common.config import Config, config_to_dict
from corrfractal.labels.quantization import QuantizationConfig


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """How clips are cut from a video."""

    frames: int = 8
    """Frames of a clip, T."""
    fps: float = 7.5
    """Sampled frames per second of presentation time; 7.5 is a gap of 4 frames at 30 fps, as in the
    paper (III-E1)."""
    hop: int | None = None
    """Sampled frames from the start of a clip to the start of the next; None: ``frames``, so clips
    do not overlap."""
    max_gap: float = 0.5
    """Seconds. No clip spans two sampled frames further apart: they are no neighbours in time any
    more."""
    cut_threshold: float = 1.0
    """How much more than usual two consecutive samples must differ to be a shot cut, which no clip
    spans (``docs/decisions/0007``); 0: no cut is looked for."""
    min_motion: float = 0.0
    """Clips whose consecutive frames differ by less than this, mean grey levels, are left out; 0
    keeps all."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.frames <= 1000:
            raise ValueError(f"frames must lie in 2..1000, got {self.frames}")
        if not 0 < self.fps <= 1000:
            raise ValueError(f"fps must lie in 0..1000, got {self.fps}")
        if self.hop is not None and self.hop < 1:
            raise ValueError(f"hop must be at least 1, got {self.hop}")
        if self.cut_threshold < 0:
            raise ValueError(f"cut_threshold must not be negative, got {self.cut_threshold}")
        if not 0 <= self.min_motion <= 255:
            raise ValueError(f"min_motion must lie in 0..255, got {self.min_motion}")
        if not self.max_gap > 1 / self.fps:
            raise ValueError(
                f"max_gap must exceed the sampling gap of {1 / self.fps:.3f} s, got {self.max_gap}"
            )

    @property
    def step(self) -> int:
        """Sampled frames from clip start to clip start."""
        return self.frames if self.hop is None else self.hop


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Config):
    """How videos become shards. Everything but ``max_...`` and ``gpus_per_task`` decides the bytes,
    and so the data set's digest."""

    size: int = 256
    """Height and width of stored frames, pixels: square as in the paper, whatever the video's
    aspect."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """How clips are cut."""
    views: int = 1
    """V, label sets stored per clip, each with its own random patterns."""
    seed: int = 0
    """Seed of all random draws; those of a clip and view derive from it and the clip's key."""
    segment_seconds: float = 600.0
    """Longer videos are cut into segments of about this length, each sampled like a video of its
    own."""
    videos_per_shard: int = 8
    """Videos, or segments of long ones, of one shard, which is the unit of work of one task; fewer
    where they last more than ``segment_seconds`` together."""
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    """How pseudo-labels are made."""
    device: str = "cpu"
    """Where labels are made: ``cpu``: compiled loops and faiss; ``cuda``: PyTorch on a GPU;
    ``torch``: the code of ``cuda`` on the CPU, to try it. Decides the last digits of sums, so it is
    part of the data set's identity."""
    gpus_per_task: float = 0.25
    """Share of a GPU that a task takes with ``device`` = ``cuda``."""
    max_bad: float = 1.0
    """Share of the sources that may be quarantined before the run counts as failed; 1 never fails.
    """
    max_cpu_seconds: float = 3600.0
    """Processor time that one segment may take; a file that takes more is quarantined."""
    max_memory_mb: float = 4000.0
    """Memory that one segment may take, MB; a file that takes more is quarantined."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 8 <= self.size <= 4096:
            raise ValueError(f"size must lie in 8..4096, got {self.size}")
        if not 1 <= self.views <= 100:
            raise ValueError(f"views must lie in 1..100, got {self.views}")
        if self.videos_per_shard < 1:
            raise ValueError(f"videos_per_shard must be at least 1, got {self.videos_per_shard}")
        if not self.segment_seconds >= 1:
            raise ValueError(f"segment_seconds must be at least 1, got {self.segment_seconds}")
        if self.device not in ("cpu", "cuda", "torch"):
            raise ValueError(f"device must be cpu, cuda or torch, got {self.device!r}")
        if not 0 < self.gpus_per_task <= 1:
            raise ValueError(f"gpus_per_task must lie in 0..1, above 0, got {self.gpus_per_task}")
        if not 0 <= self.max_bad <= 1:
            raise ValueError(f"max_bad must lie in 0..1, got {self.max_bad}")
        if not (self.max_cpu_seconds > 0 and self.max_memory_mb > 0):
            raise ValueError(
                f"max_cpu_seconds and max_memory_mb must exceed 0, got {self.max_cpu_seconds}, "
                f"{self.max_memory_mb}"
            )

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the shards' bytes, as plain values."""
        recipe = config_to_dict(self)
        for name in ("max_bad", "max_cpu_seconds", "max_memory_mb", "gpus_per_task"):
            del recipe[name]
        return recipe

    def task_resources(self) -> dict[str, float]:
        """What Ray reserves for a task: a CPU, and a share of a GPU where labels are made on one."""
        return {"num_cpus": 1, "num_gpus": self.gpus_per_task if self.device == "cuda" else 0}
