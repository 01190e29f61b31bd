"""Configuration of the pipeline: what decides the bytes of the shards, and the limits of a run."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from corrfractal.common.config import Config, config_to_dict
from corrfractal.labels.quantization import QuantizationConfig

LIMITS = ("max_bad", "max_cpu_seconds", "max_memory_mb", "gpus_per_task")
"""Fields of ``PipelineConfig`` that do not decide any byte."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig(Config):
    """How clips are cut from a video."""

    frames: Annotated[int, Field(ge=2, le=1000)] = 8
    """Frames of a clip, T."""
    fps: Annotated[float, Field(gt=0, le=1000)] = 7.5
    """Sampled frames per second of presentation time; 7.5 is a gap of 4 frames at 30 fps, as in the
    paper (III-E1)."""
    hop: PositiveInt | None = None
    """Sampled frames from the start of a clip to the start of the next; None: ``frames``, so clips
    do not overlap."""
    max_gap: float = 0.5
    """Seconds between two sampled frames above which they are no longer neighbours in time; no clip
    spans such a gap."""
    cut_threshold: NonNegativeFloat = 1.0
    """How much the change between two samples must exceed the usual one to count as a shot cut,
    which no clip spans (``docs/decisions/0007``); 0: no cut detection."""
    min_motion: Annotated[float, Field(ge=0, le=255)] = 0.0
    """Mean difference of consecutive frames, grey levels, below which a clip is left out; 0 keeps
    all clips."""

    def __post_init__(self) -> None:
        super().__post_init__()
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
    """How videos become shards. All fields but those in ``LIMITS`` decide the bytes of the shards,
    and with them the data set's digest."""

    size: Annotated[int, Field(ge=8, le=4096)] = 256
    """Height and width of stored frames, pixels: square as in the paper, for every aspect ratio."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    """How clips are cut."""
    views: Annotated[int, Field(ge=1, le=100)] = 1
    """V, label sets stored per clip, each with its own random patterns."""
    seed: int = 0
    """Seed of all random draws; those of a clip and view derive from it and the clip's key."""
    segment_seconds: Annotated[float, Field(ge=1)] = 600.0
    """Length of the segments into which longer videos are cut, about; each is sampled like a video
    of its own."""
    videos_per_shard: PositiveInt = 8
    """Most videos, or segments of long videos, in one shard, which is the work of one task. A shard
    takes fewer if they last more than ``segment_seconds`` together."""
    quantization: QuantizationConfig = field(default_factory=QuantizationConfig)
    """How pseudo-labels are made."""
    device: Literal["cpu", "cuda", "torch"] = "cpu"
    """Where labels are made: ``cpu``: compiled loops; ``cuda``: PyTorch on a GPU; ``torch``: the
    code of ``cuda`` on the CPU, for tests. Each rounds sums differently, so the device is part of
    the data set's identity, and so is the engine of k-means."""
    gpus_per_task: Annotated[float, Field(gt=0, le=1)] = 0.25
    """Share of a GPU that a task reserves if ``device`` is ``cuda``."""
    max_bad: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the sources that may be quarantined before the run fails; 1 never fails."""
    max_cpu_seconds: PositiveFloat = 3600.0
    """Processor time for one segment, seconds; a segment that exceeds it is quarantined."""
    max_memory_mb: PositiveFloat = 4000.0
    """Memory for one segment, MB; a segment that exceeds it is quarantined."""

    def recipe(self) -> dict[str, Any]:
        """The fields that decide the shards' bytes, as plain values."""
        recipe = config_to_dict(self)
        for name in LIMITS:
            del recipe[name]
        # Removed switches stay in the recipe at their fixed values: the digest of a data set that
        # version 0.1.0 built does not change.
        recipe["quantization"].update(self.quantization.SETTLED)
        # The engine is stated where it is not the one that version 0.1.0 had, for the same reason.
        del recipe["quantization"]["kmeans"]
        engine = self.quantization.engine(self.torch_device)
        if engine != ("faiss" if self.torch_device is None else "torch"):
            recipe["quantization"]["kmeans"] = engine
        return recipe

    @property
    def torch_device(self) -> str | None:
        """Device of PyTorch on which labels are made; None: compiled loops, no PyTorch."""
        return {"cpu": None, "torch": "cpu", "cuda": "cuda"}[self.device]

    def with_engine(self) -> PipelineConfig:
        """The same with the engine of k-means named, as this machine chooses it: the workers of a
        cluster may have different builds of faiss."""
        engine = self.quantization.engine(self.torch_device)
        return replace(self, quantization=replace(self.quantization, kmeans=engine))

    def task_resources(self) -> dict[str, float]:
        """What Ray reserves for a task: a CPU, and a share of a GPU if labels are made on one."""
        on_gpu = self.device == "cuda"
        return {"num_cpus": 1, "num_gpus": self.gpus_per_task if on_gpu else 0}
