"""Look up versions of the registered model: list them, or find one by any of its names.

The number of requests does not grow with the number of versions: MLflow's searches return pages of
thousands of versions, and the metrics of their runs are fetched ``RUNS_PER_REQUEST`` at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from corrfractal.common.errors import NotFoundError
from corrfractal.common.text import without_password

from .connection import open_store
from .mlflow_errors import NoSuchVersionError, mlflow_errors
from .names import DIGEST_TAG, PROJECT, SCORES_PREFIX, UNKNOWN, WEIGHTS_TAG
from .scores import Scores, scores_from_text

RUNS_PER_REQUEST = 100
"""Run ids in one search filter. With 500, a busy server missed the timeout of 12 seconds; MLflow's
filter parser (sqlparse) refuses 10,000 tokens."""


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """A registered version.

    Attributes:
        name: registered model.
        version: number, from 1.
        aliases: such as ``candidate``, sorted.
        run_id: run that trained it; empty for a version registered by hand.
        created: ISO 8601, UTC.
        shards_digest: digest of its data set, or ``unknown``.
        metrics: last values of its run.
        tags: see ``names``.
        scores: evaluations noted on it.
    """

    name: str
    version: int
    aliases: tuple[str, ...]
    run_id: str
    created: str
    shards_digest: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    scores: tuple[Scores, ...]

    @property
    def uri(self) -> str:
        """Its name for ``--model``, such as ``models:/corrfractal/3``."""
        return f"models:/{self.name}/{self.version}"

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of its weights when they were registered, or ``unknown``."""
        return self.tags.get(WEIGHTS_TAG, UNKNOWN)

    @property
    def alias_text(self) -> str:
        """Its aliases for people to read."""
        return ", ".join(self.aliases) or "no alias"


def parse_model_name(model: str) -> tuple[str, int | str]:
    """Split the name of a version into registered model and version number or alias.

    Args:
        model: ``3``, ``candidate``, ``corrfractal/3``, ``corrfractal@candidate``, each with or
            without ``models:/`` in front.
    """
    name, _, version = model.removeprefix("models:/").replace("@", "/").rpartition("/")
    # Longer numbers overflow the integers of SQL; as aliases they are simply not found.
    if re.fullmatch(r"[0-9]{1,9}", version):
        return name or PROJECT, int(version)
    return name or PROJECT, version


def list_models(uri: str, name: str = PROJECT, *, metrics: bool = True) -> list[ModelVersion]:
    """All versions, newest first; none if a local store does not exist, which is not created.

    Args:
        uri: MLflow store.
        name: registered model.
        metrics: read those of the runs too, which takes three quarters of the time.

    Raises:
        CorrFractalError: the store cannot be used.
    """
    import mlflow

    if not open_store(uri):
        return []
    with mlflow_errors():
        records = mlflow.search_model_versions(filter_string=name_filter(name))
        records.sort(key=lambda record: -int(record.version))

        # MLflow's search leaves aliases out; the registered model lists them.
        aliases: dict[str, list[str]] = {}
        registered = find_registered_model(name)
        if registered is not None:
            for alias, version in registered.aliases.items():
                aliases.setdefault(str(version), []).append(alias)

        run_ids = {record.run_id for record in records}
        values = _metrics_of_runs(run_ids) if metrics else {}
    return [
        _model_version(record, aliases.get(str(record.version), ()), values) for record in records
    ]


def find_version(model: str, uri: str) -> ModelVersion:
    """One version of a store.

    Args:
        model: as in ``parse_model_name``.
        uri: MLflow store.

    Raises:
        NoSuchVersionError: no such version; the message lists the existing ones.
        CorrFractalError: the store cannot be used.
    """
    if open_store(uri):
        try:
            record = lookup(model)
        except NoSuchVersionError:
            pass
        else:
            with mlflow_errors():
                metrics = _metrics_of_runs({record.run_id})
            return _model_version(record, record.aliases, metrics)

    # Only a failed look-up pays for a list of all versions.
    name, _ = parse_model_name(model)
    versions = list_models(uri, name, metrics=False)
    known = ", ".join(f"{v.version} ({'/'.join(v.aliases) or 'no alias'})" for v in versions)
    raise NoSuchVersionError(
        f"no model '{model}' in {without_password(uri)}; existing versions: {known or 'none'}. "
        "`corrfractal models list` shows them"
    )


def lookup(model: str) -> Any:
    """MLflow's record of a version in its current store; one request.

    Args:
        model: as in ``parse_model_name``.

    Raises:
        NoSuchVersionError: no such version.
    """
    import mlflow

    name, version = parse_model_name(model)
    with mlflow_errors(model=model):
        client = mlflow.MlflowClient()
        if isinstance(version, int):
            return client.get_model_version(name, str(version))
        return client.get_model_version_by_alias(name, version)


def find_registered_model(name: str) -> Any | None:
    """MLflow's record of a registered model, with its aliases and tags; None if there is none."""
    import mlflow

    found = mlflow.MlflowClient().search_registered_models(name_filter(name))
    return found[0] if found else None


def name_filter(name: str) -> str:
    """The filter of MLflow's searches that matches one registered model.

    Raises:
        NotFoundError: the name contains a backslash or both kinds of quotes, which a filter cannot
            express.
    """
    quote = '"' if "'" in name else "'"
    if quote in name or "\\" in name:
        raise NotFoundError(f"no model '{name}': a registered model has no such name")
    return f"name={quote}{name}{quote}"


def _metrics_of_runs(run_ids: Iterable[str | None]) -> dict[str, dict[str, float]]:
    """Run id -> metrics; runs that no longer exist are left out.

    A version registered by hand may belong to a run of any experiment, so all are searched,
    deleted ones included.
    """
    import mlflow
    from mlflow.entities import ViewType

    # A hand-made version may have no run, or any text for its id: quotes would break the filter.
    wanted = sorted(id_ for id_ in run_ids if id_ and re.fullmatch(r"[\w-]+", id_))
    if not wanted:
        return {}
    experiments = [e.experiment_id for e in mlflow.search_experiments(view_type=ViewType.ALL)]
    metrics: dict[str, dict[str, float]] = {}
    for start in range(0, len(wanted), RUNS_PER_REQUEST):
        quoted = ", ".join(f"'{run_id}'" for run_id in wanted[start : start + RUNS_PER_REQUEST])
        runs = mlflow.search_runs(
            experiment_ids=experiments,
            filter_string=f"attributes.run_id IN ({quoted})",
            run_view_type=ViewType.ALL,
            output_format="list",
        )
        metrics |= {run.info.run_id: dict(run.data.metrics) for run in runs}
    return metrics


def _model_version(
    record: Any, aliases: Iterable[str], metrics: Mapping[str, Mapping[str, float]]
) -> ModelVersion:
    created = datetime.fromtimestamp(record.creation_timestamp / 1000, UTC)
    scores = [
        scores_from_text(text, where=f"tag {tag} of {record.name}/{record.version}")
        for tag, text in sorted(record.tags.items())
        if tag.startswith(SCORES_PREFIX)
    ]
    return ModelVersion(
        name=record.name,
        version=int(record.version),
        aliases=tuple(sorted(aliases)),
        run_id=record.run_id,
        created=created.isoformat(timespec="seconds"),
        shards_digest=record.tags.get(DIGEST_TAG, UNKNOWN),
        metrics=metrics.get(record.run_id, {}),
        tags=dict(record.tags),
        scores=tuple(scores),
    )
