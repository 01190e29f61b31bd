"""Training configuration: presets of the method (III-E1), and a slim profile for CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from corrfractal.common.config import Config, config_from_dict, config_to_dict
from corrfractal.common.errors import ConfigError
from corrfractal.common.workflow_file import apply_settings, merged, read_table
from corrfractal.network.attention import Similarity
from corrfractal.network.model import CorrFractalConfig

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]

REFERENCES = {
    "base": (-1,),
    "full": (-1, -3, -5, 0, 5),
}
"""Reference frames of a preset, nearest first. Negative: relative to the target frame t; otherwise
the index of a frame of the clip."""

PRESETS = ("base", "full", "paper")
PROFILES = ("gpu", "cpu")

RESUMABLE_FIELDS = (
    "loader_workers",
    "batches_ahead",
    "cache_gb",
    "checkpoint_every",
    "keep_checkpoints",
    "recompute",
    "evaluate_on",
    "evaluate_every",
)
"""Fields that do not change the weights: a resumed run may have other values."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """One training run. The same configuration and shards give the same order of samples on any
    number of workers."""

    network: CorrFractalConfig = field(default_factory=CorrFractalConfig)
    """The network."""
    references: Literal["base", "full"] = "base"
    """``base``: I_{t-1}; ``full``: I_0, I_5, I_{t-1}, I_{t-3}, I_{t-5}."""
    batch_size: Count = 24
    """Samples of a step, over all workers together."""
    epochs: Count = 5
    """Passes over the shards, if ``steps`` is not given."""
    steps: Count | None = None
    """Length of the run in steps."""
    learning_rate: float = 2e-4
    """Of Adam; halved after 2/5, 3/5 and 4/5 of the run, which for five epochs is after epochs 2, 3
    and 4."""
    crop: Annotated[int, Field(ge=16)] | None = None
    """Side in pixels of a random square crop of the stored frames; None: no crop."""
    channel_dropout: Share = 0.7
    """Probability that one or two of R, G, B are dropped from all frames of a sample (the input
    bottleneck)."""
    clip_gradient: float = 1.0
    """Largest norm of the gradient."""
    accumulate: Count = 1
    """Number of parts of the batch that pass the network one after another; their gradients are
    summed. Batch normalisation sees one part at a time, of all workers together, so the weights
    depend slightly on this number, but not on the number of workers."""
    recompute: bool = False
    """Gradient checkpointing in the backbone: activations are recomputed in the backward pass
    instead of stored."""
    compile: bool = False
    """``torch.compile`` for the backbone."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """``bf16``: automatic mixed precision in the backbone."""
    min_label_entropy: Annotated[float, Field(ge=0)] = 1.0
    """Bits per pixel. Shards with a lower label entropy are refused: most pixels have the same
    label. 0: no bound."""
    min_label_change: Share = 0.01
    """Share of the labels that differ from the previous frame. Shards below are refused: nothing
    moves. 0: no bound."""
    max_label_change: Share = 0.85
    """The same from above: the labels are noise and do not carry over to the next frame. 1: no
    bound."""
    seed: int = 0
    """Decides initial weights, order, crops, dropped channels and densities."""
    shuffle_window: Count = 16
    """Shards whose samples are mixed with each other, over all samples of a batch together; each
    has at least one to itself. With fewer shards than samples in a batch, an epoch is a full
    shuffle."""
    loader_workers: Annotated[int, Field(ge=0)] | None = None
    """Processes that prepare batches for each worker; 0: a thread of the worker. None: without a
    GPU a thread; with GPUs the workers of a host share its cores, keep one each, and use up to 8 of
    the others."""
    batches_ahead: Count = 2
    """Batches that the thread, or each of the processes, prepares before their turn."""
    cache_gb: Annotated[float, Field(gt=0)] = 10.0
    """Disk space for shards from a URI on each host, in GB; ``train --dry-run`` estimates it."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    keep_checkpoints: Count = 3
    """Number of newest checkpoints that are kept."""
    log_every: Count = 10
    """Steps between logged metrics, which are means over these steps."""
    picture_every: Count = 200
    """Steps between pictures of frame, labels and reconstruction."""

    evaluate_on: str | None = None
    """Folder of a small annotated set in the layout of DAVIS-2017, on which rank 0 scores the
    network during training."""
    evaluate_every: Count = 1000
    """Steps between such evaluations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of accumulate, {self.accumulate}"
            )

    @property
    def clip_frames_needed(self) -> int:
        """Stored frames that a clip must have: the farthest reference, and a target after it."""
        farthest = 0
        for reference in REFERENCES[self.references]:
            # Index of the first target that has this reference before it.
            first_target = -reference if reference < 0 else reference + 1
            farthest = max(farthest, first_target)
        return farthest + 1


def configuration(preset: str = "base", profile: str = "gpu") -> TrainingConfig:
    """A recipe (``docs/decisions/0059``).

    Args:
        preset: ``base``: the paper's method with one reference and one deviation: affinities are
            those of the cosine over a temperature; ``full``: the same with five references;
            ``paper``: ``base`` in the paper's words, with <q, k> / sqrt(C).
        profile: ``gpu``: the published sizes; ``cpu``: a slim network and, unless the preset is
            ``paper``, the recipe of the starter model.

    Raises:
        ConfigError: there is no such preset or profile.
    """
    for name, value, known in (("preset", preset, PRESETS), ("profile", profile, PROFILES)):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")

    literal = preset == "paper"
    config = TrainingConfig(references="full" if preset == "full" else "base")
    if not literal:
        config = replace(config, network=_with_cosine(config.network))
    if profile == "gpu":
        return config

    config = replace(
        config,
        network=replace(config.network, width=16, embedding_channels=32),
        batch_size=4,
        crop=128,
        learning_rate=1e-3,
        checkpoint_every=100,
        picture_every=100,
    )
    if literal:
        return config
    return replace(
        config, network=_for_small_budgets(config.network), batch_size=8, learning_rate=2e-3
    )


def _with_cosine(network: CorrFractalConfig) -> CorrFractalConfig:
    similarity = Similarity(kind="cosine", test_temperature=0.02)
    return replace(network, correspondence=replace(network.correspondence, similarity=similarity))


def _for_small_budgets(network: CorrFractalConfig) -> CorrFractalConfig:
    """One affinity at one density, which makes several times more steps an hour; no appearance
    module; at test time a grid and windows that reach far, and colour beside the embedding."""
    correspondence = replace(
        network.correspondence,
        multi_density=False,
        radius=8,
        test_radius=12,
        test_pixels=854 * 480,
        test_cells=142 * 80,
        follow_motion=True,
        weigh_by_certainty=True,
        similarity=Similarity(kind="cosine", test_temperature=0.05, colour_temperature=0.0003),
    )
    return replace(network, stem_stride=2, appearance="off", correspondence=correspondence)


def configuration_of_table(table: Mapping[str, Any], where: str) -> TrainingConfig:
    """The configuration of a ``[training]`` table: ``preset`` and ``profile`` name a recipe, and
    the other fields override it.

    Raises:
        ConfigError: no such preset, profile or field, or a value does not suit it.
    """
    overrides = dict(table)
    preset = overrides.pop("preset", "base")
    profile = overrides.pop("profile", "gpu")
    recipe = configuration(preset, profile)
    return config_from_dict(TrainingConfig, merged(config_to_dict(recipe), overrides), where=where)


def with_settings(
    config: TrainingConfig, settings: tuple[str, ...], steps: int | None = None
) -> TrainingConfig:
    """Change fields by ``KEY=VALUE`` texts, as of ``--set``.

    Args:
        config: to start from.
        settings: as in ``corrfractal.common.workflow_file.apply_settings``.
        steps: of ``--steps``.

    Raises:
        ConfigError: there is no such field, or the value does not suit it.
    """
    values = apply_settings(config_to_dict(config), settings)
    if steps is not None:
        values["steps"] = steps
    return config_from_dict(TrainingConfig, values, where="--set")


def requested_configuration(
    config_file: Path | None,
    settings: tuple[str, ...],
    *,
    preset: str | None,
    profile: str | None,
    steps: int | None,
    gpu: bool,
) -> tuple[TrainingConfig, str]:
    """The configuration that a command line asks for, and its profile: options of their own
    override ``--set``, which overrides the file.

    Args:
        config_file: workflow file, of which the ``[training]`` table counts.
        settings: of ``--set``.
        preset, profile, steps: of these options; None: not given.
        gpu: whether there is a GPU, which decides the profile if nothing else does.

    Raises:
        CallError: no such file, or a value does not suit its field.
    """
    table: dict[str, Any] = {"profile": "gpu" if gpu else "cpu"}
    if config_file is not None:
        table = {"profile": "gpu", **read_table(config_file, "training")}
    options = {"preset": preset, "profile": profile}
    table |= {name: value for name, value in options.items() if value is not None}
    config = configuration_of_table(table, where=str(config_file or "command line"))
    return with_settings(config, settings, steps), table["profile"]
