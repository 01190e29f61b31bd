"""The whole workflow in one TOML file. A section per stage; the fields are those of the stage's own
configuration.

sources = ["videos", "more/*.mp4"]      # relative paths start at the folder of this file
out = "runs/first"
rung = "+B"                             # of the paper's ablation: base, +A, +P, +B, +C (the default: everything)

[precompute]                            # pipeline.config.PipelineConfig
size = 256
[precompute.quantization]
n_patterns = 6

[training]                              # preset, profile, and any field of training.config.TrainingConfig
profile = "cpu"
steps = 300

[evaluation]                            # leave it out if there is nothing annotated to score on
data = "/data/DAVIS"
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from corrfractal.common.config import Config, config_from_dict, config_to_dict, read_toml
from corrfractal.common.errors import ConfigError
from corrfractal.common.storage import refuse_password
from corrfractal.registry.store import canonical_uri
from pipeline.config import PipelineConfig
from training.config import TrainingConfig, configuration

# The paper's ablation (Table 3): each rung adds one module to the one before; "+C" is the whole
# method.
_A: dict[str, Any] = {"appearance": "literal"}
_WITHOUT: dict[str, Any] = {
    "appearance": "off",
    "aggregation": False,
    "correspondence": {"multi_density": False},
}
_COLOUR: dict[str, Any] = {"quantization": {"n_patterns": 0}}
LADDER: dict[str, dict[str, Any]] = {
    "base": {"precompute": _COLOUR, "training": {"network": _WITHOUT}},
    "+A": {"precompute": _COLOUR, "training": {"network": _WITHOUT | _A}},
    "+P": {"training": {"network": _WITHOUT | _A}},
    "+B": {"training": {"network": _WITHOUT | _A | {"aggregation": True}}},
    "+C": {},
}


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(Config):
    """What the trained model is scored on, beside the untrained network and copying the first mask."""

    data: str
    """Folder of a data set in the layout of DAVIS-2017."""
    fast: bool = False
    """Three densities instead of six."""


@dataclass(frozen=True, kw_only=True)
class WorkflowConfig(Config):
    """Everything that decides a workflow."""

    sources: tuple[str, ...]
    """Videos, as ``corrfractal precompute`` takes them."""
    out: str
    """Folder for shards, run, scores and report."""
    workers: int = 2
    """DDP processes."""
    tasks: int | None = None
    """Shards, and sequences, at a time; None: ``workers``. On a cluster: its CPUs, or those that it
    may grow to."""
    tracking_uri: str | None = None
    """MLflow store, a relative path starting at the folder of this file; None: MLFLOW_TRACKING_URI,
    else ``mlflow.db`` in ``out``."""
    precompute: PipelineConfig = field(default_factory=PipelineConfig)
    """How videos become shards."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    """How the network is trained."""
    use_gpu: bool = False
    """A GPU for each training worker; set by the profile."""
    evaluation: EvaluationConfig | None = None
    """What to score on."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sources:
            raise ValueError("sources is empty")
        for location in (*self.sources, self.out):
            refuse_password(location)
        if self.workers < 1:
            raise ValueError(f"workers must be at least 1, got {self.workers}")
        if self.tasks is not None and self.tasks < 1:
            raise ValueError(f"tasks must be at least 1, got {self.tasks}")


def read_workflow(path: Path) -> WorkflowConfig:
    """Read a workflow file; relative paths in it start at its folder.

    Raises:
        NotFoundError: no such file.
        ConfigError: not TOML, or a field that is unknown or out of range; names it.
    """
    values = read_toml(path)
    rung = values.pop("rung", "+C")
    if not isinstance(rung, str) or rung not in LADDER:
        raise ConfigError(f"{path}: field 'rung' must be one of {', '.join(LADDER)}, got {rung!r}")
    values = merged(LADDER[rung], values)
    training = values.get("training", {})
    if not isinstance(training, dict):
        raise ConfigError(f"{path}: field 'training' must be a table, got {training!r}")
    training = dict(training)
    preset = training.pop("preset", "base")
    profile = training.pop("profile", "gpu")
    try:
        recipe = configuration(preset, profile)
    except ConfigError as exc:
        raise ConfigError(f"{path}: field 'training': {exc}") from exc
    values["training"] = merged(config_to_dict(recipe), training)
    values.setdefault("use_gpu", profile == "gpu")
    config = config_from_dict(WorkflowConfig, values, where=str(path))
    folder = path.absolute().parent
    evaluation = config.evaluation
    return replace(
        config,
        sources=tuple(
            s if "://" in s else str(folder / Path(s).expanduser()) for s in config.sources
        ),
        out=str(folder / Path(config.out).expanduser()),
        tracking_uri=config.tracking_uri and canonical_uri(config.tracking_uri, folder),
        evaluation=evaluation
        and replace(evaluation, data=str(folder / Path(evaluation.data).expanduser())),
    )


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` laid over it, table by table."""
    result = dict(base)
    for key, value in changes.items():
        deeper = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = merged(base[key], value) if deeper else value
    return result
