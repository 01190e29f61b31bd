"""Configuration of the whole workflow: one TOML file with a section for each stage.

The fields of a section are those of the stage's own configuration:

    # Relative paths start at the folder of this file.
    sources = ["videos", "more/*.mp4"]
    out = "runs/first"
    # Rung of the paper's ablation: base, +A, +P, +B, or +C (the default: the full method).
    rung = "+B"

    [precompute]                   # pipeline.config.PipelineConfig
    size = 256
    [precompute.quantization]
    n_patterns = 6

    [training]                     # preset, profile, and fields of training.config.TrainingConfig
    profile = "cpu"
    steps = 300

    [evaluation]                   # omit this section without annotated sequences
    data = "/data/DAVIS"
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from corrfractal.common.config import Config, config_from_dict, config_to_dict
from corrfractal.common.errors import ConfigError
from corrfractal.common.workflow_file import LADDER, check_table, merged, read_workflow_values
from corrfractal.files.storage import is_uri, place, refuse_password
from corrfractal.registry.store import canonical_uri
from pipeline.config import PipelineConfig
from training.config import TrainingConfig, configuration

__all__ = ["LADDER", "EvaluationConfig", "WorkflowConfig", "read_workflow"]


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """The benchmark on which the trained model and the baselines are scored."""

    data: str
    """Folder of a data set in the layout of DAVIS-2017."""
    fast: bool = False
    """Three densities instead of six."""


@dataclass(frozen=True, kw_only=True)
class WorkflowConfig(Config):
    """Configuration of all stages of a workflow."""

    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    """Videos, in the forms that ``corrfractal precompute`` accepts."""
    out: str
    """Folder for shards, training run, scores and report, local or a URI."""
    workers: Annotated[int, Field(ge=1)] = 2
    """Number of DDP processes."""
    tasks: Annotated[int, Field(ge=1)] | None = None
    """Number of shards, and of sequences, processed at a time; None: ``workers``. On a cluster, set
    it to the number of CPUs that the cluster has or can scale up to."""
    tracking_uri: str | None = None
    """MLflow store; a relative path starts at the folder of this file. None: the environment's
    ``MLFLOW_TRACKING_URI``, or else ``mlflow.db`` in ``out``."""
    precompute: PipelineConfig = field(default_factory=PipelineConfig)
    """How videos become shards."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the network is trained."""
    use_gpu: bool = False
    """Whether each training worker gets a GPU; set by the profile."""
    evaluation: EvaluationConfig | None = None
    """The benchmark to score on; None: no evaluation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for location in (*self.sources, self.out):
            refuse_password(location)


def read_workflow(path: Path, settings: tuple[str, ...] = ()) -> WorkflowConfig:
    """Read a workflow file; relative paths in it start at its folder.

    Args:
        path: TOML file.
        settings: ``KEY=VALUE`` texts that override its fields, such as ``training.steps=300``.

    Raises:
        NotFoundError: no such file.
        ConfigError: invalid TOML, or a field that is unknown or out of range; names the field.
    """
    values = read_workflow_values(path, settings)

    # Preset and profile name a recipe; the other fields of the section override it.
    overrides = dict(check_table(path, "training", values.get("training", {})))
    preset = overrides.pop("preset", "base")
    profile = overrides.pop("profile", "gpu")
    try:
        recipe = configuration(preset, profile)
    except ConfigError as exc:
        raise ConfigError(f"{path}: field 'training': {exc}") from exc
    values["training"] = merged(config_to_dict(recipe), overrides)
    values.setdefault("use_gpu", profile == "gpu")

    config = config_from_dict(WorkflowConfig, values, where=str(path))
    return _with_absolute_paths(config, path.absolute().parent)


def _with_absolute_paths(config: WorkflowConfig, folder: Path) -> WorkflowConfig:
    """``config`` with relative paths resolved against ``folder``."""
    tracking_uri = config.tracking_uri
    if tracking_uri is not None:
        tracking_uri = canonical_uri(tracking_uri, folder)
    evaluation = config.evaluation
    if evaluation is not None:
        evaluation = replace(evaluation, data=_absolute(evaluation.data, folder))
    sources = tuple(_absolute(source, folder) for source in config.sources)
    return replace(
        config,
        sources=sources,
        out=_absolute(config.out, folder),
        tracking_uri=tracking_uri,
        evaluation=evaluation,
    )


def _absolute(path: str, folder: Path) -> str:
    location = place(path)
    return str(location) if is_uri(location) else str(folder / Path(location).expanduser())
