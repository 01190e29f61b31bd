"""How a network is trained: the paper's recipe (III-E1) in its two presets, and a slim profile for
CPUs."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace

from corrfractal.common.config import Config, config_from_dict, config_to_dict
from corrfractal.common.errors import ConfigError
from corrfractal.network.model import CorrFractalConfig

REFERENCES = {
    "base": (-1,),
    "full": (-1, -3, -5, 0, 5),
}
"""Reference frames of a preset, nearest first: negative = back from the target t, others = from the clip's start.
"""

PROFILES = ("gpu", "cpu")

COUNTS = (
    "batch_size", "accumulate", "epochs", "shuffle_window", "checkpoint_every", "keep_checkpoints", "log_every",
    "picture_every", "evaluate_every",
)  # fmt: skip

RESUMABLE_FIELDS = ("loader_workers", "cache_gb", "checkpoint_every", "keep_checkpoints", "recompute", "evaluate_on",
             "evaluate_every")  # fmt: skip
"""Fields that do not change the weights: a run may go on with others."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """One training run. The same configuration and shards give the same order of samples on any
    number of workers."""

    network: CorrFractalConfig = field(default_factory=CorrFractalConfig)
    """The network."""
    references: str = "base"
    """``base``: I_{t-1}; ``full``: I_0, I_5, I_{t-1}, I_{t-3}, I_{t-5}."""
    batch_size: int = 24
    """Samples of a step, over all workers together."""
    epochs: int = 5
    """Passes over the shards, where ``steps`` is not given."""
    steps: int | None = None
    """Length of the run in steps."""
    learning_rate: float = 2e-4
    """Of Adam; halved after 2/5, 3/5 and 4/5 of the run, which for five epochs is after epochs 2, 3
    and 4."""
    crop: int | None = None
    """Side of a random square crop of the stored frames; None takes them whole."""
    channel_dropout: float = 0.7
    """Probability that one or two of R, G, B are dropped from all frames of a sample (the input
    bottleneck)."""
    clip_gradient: float = 1.0
    """Largest norm of the gradient."""
    accumulate: int = 1
    """Parts of the batch that go through the network one after another, their gradients added up.
    Batch normalisation sees one part, of all workers together, at a time: so this changes the
    weights a little, the workers do not."""
    recompute: bool = False
    """Gradient checkpointing in the backbone: activations are computed again in the backward pass
    instead of kept."""
    compile: bool = False
    """``torch.compile`` for the backbone."""
    precision: str = "fp32"
    """``fp32``, or ``bf16`` for automatic mixed precision in the backbone."""
    min_label_entropy: float = 1.0
    """Bits a pixel. Shards whose labels hold less are refused: most pixels have one label. 0 takes
    any."""
    min_label_change: float = 0.01
    """Share of the labels that differ from the frame before. Shards below are refused: nothing
    moves. 0 takes any."""
    max_label_change: float = 0.85
    """The same from above: the labels are noise, of which nothing carries over to the next frame. 1
    takes any."""
    seed: int = 0
    """Decides initial weights, order, crops, dropped channels and densities."""
    shuffle_window: int = 16
    """Shards whose samples are mixed with each other; with no more shards than this an epoch is a
    full shuffle."""
    loader_workers: int = 0
    """Processes that prepare batches for each worker; 0: a thread of the worker."""
    cache_gb: float = 10.0
    """Room for shards from a URI on each host; two windows of them should fit."""
    checkpoint_every: int = 200
    """Steps between checkpoints."""
    keep_checkpoints: int = 3
    """Newest checkpoints that are kept."""
    log_every: int = 10
    """Steps between logged metrics, which are means over these steps."""
    picture_every: int = 200
    """Steps between pictures of frame, labels and reconstruction."""

    evaluate_on: str | None = None
    """Folder of a small annotated set in the layout of DAVIS-2017, on which rank 0 is scored while
    it trains."""
    evaluate_every: int = 1000
    """Steps between such evaluations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.references not in REFERENCES:
            raise ValueError(
                f"references must be one of {', '.join(REFERENCES)}, got {self.references!r}"
            )
        if self.precision not in ("fp32", "bf16"):
            raise ValueError(f"precision must be fp32 or bf16, got {self.precision!r}")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.loader_workers < 0 or self.cache_gb <= 0:
            raise ValueError(
                "loader_workers must not be negative and cache_gb must be positive, got "
                f"{self.loader_workers} and {self.cache_gb}"
            )
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate, {self.accumulate}"
            )
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        if self.crop is not None and self.crop < 16:
            raise ValueError(f"crop must be at least 16, got {self.crop}")
        if self.min_label_entropy < 0:
            raise ValueError(
                f"min_label_entropy must not be negative, got {self.min_label_entropy}"
            )
        for name in ("min_label_change", "max_label_change"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if not 0 <= self.channel_dropout <= 1:
            raise ValueError(f"channel_dropout must lie in 0..1, got {self.channel_dropout}")

    @property
    def clip_frames_needed(self) -> int:
        """Stored frames that a clip must have: the farthest reference, and a target after it."""
        return max(r + 1 if r >= 0 else -r for r in REFERENCES[self.references]) + 1


def configuration(preset: str = "base", profile: str = "gpu") -> TrainingConfig:
    """The paper's recipe for a preset (``base``, ``full``) on a profile (``gpu``: as published;
    ``cpu``: slim).

    Raises:
        ConfigError: another preset or profile.
    """
    for name, value, choices in (
        ("preset", preset, tuple(REFERENCES)),
        ("profile", profile, PROFILES),
    ):
        if value not in choices:
            raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    config = TrainingConfig(references=preset)
    if profile == "cpu":
        slim = replace(config.network, width=16, embedding_channels=32)
        return replace(config, network=slim, batch_size=4, crop=128, learning_rate=1e-3, checkpoint_every=100,
                       picture_every=100)  # fmt: skip
    return config


def with_settings(
    config: TrainingConfig, settings: tuple[str, ...], steps: int | None = None
) -> TrainingConfig:
    """Change fields by ``KEY=VALUE`` texts; a dot reaches into the network (``network.width=32``),
    values are TOML.

    Raises:
        ConfigError: no such field, or a value that does not fit it.
    """
    values = config_to_dict(config)
    if steps is not None:
        values["steps"] = steps
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set takes KEY=VALUE, got {setting!r}")
        *path, last = key.strip().split(".")
        place = values
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ConfigError(
                    f"--set {key.strip()}: the field '{part}' has no fields of its own"
                )
        try:
            place[last] = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            place[last] = text
    return config_from_dict(TrainingConfig, values, where="--set")
