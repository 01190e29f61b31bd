"""The gate before ``champion``: every reason why a version may not pass it.

A version passes when its data set is known down to the manifest, its weights are those that were
registered and load as a network, its signature is the one that callers rely on, and its J&F on the
named evaluation set is not worse than the champion's, both scored on the same files with the same
settings.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.errors import CorrFractalError
from corrfractal.common.files import file_sha256
from corrfractal.shards.manifest import MANIFEST, load_manifest

from .connection import first_line, mlflow_errors
from .scores import Scores
from .versions import WEIGHTS_TAG, ModelVersion, fetch_weights, signature


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """What the gate found. ``scores`` and ``baseline`` are the compared ones, where there are such."""

    reasons: tuple[str, ...]
    scores: Scores | None
    baseline: Scores | None


def evaluate_gate(
    version: ModelVersion, champion: ModelVersion | None, dataset: str, tolerance: float
) -> GateResult:
    """Look at a version of the store that MLflow points at.

    Args:
        version: that wants to be champion.
        champion: that is champion, if any.
        dataset: name of the evaluation set.
        tolerance: J&F that may be lost against the champion, a fraction.
    """
    reasons = [*_data_set(version), *_weights(version), *_signature(version)]
    scores, baseline, against = _compare(version, champion, dataset, tolerance)
    return GateResult(reasons=(*reasons, *against), scores=scores, baseline=baseline)


def _data_set(version: ModelVersion) -> list[str]:
    """The digest is known, and the manifest kept with the run has it."""
    import mlflow

    if version.shards_digest == "unknown":
        return ["its data set is unknown: the version has no tag shards.digest"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            uri = f"runs:/{version.run_id}/{MANIFEST}"
            with mlflow_errors(model=uri):
                path = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
            manifest = load_manifest(path)
        except CorrFractalError as exc:
            return [f"the manifest of its data set cannot be had from its run: {first_line(exc)}"]
    if manifest.digest != version.shards_digest:
        return [f"the manifest of its run is of another data set, {manifest.digest[:12]}"]
    return []


def _weights(version: ModelVersion) -> list[str]:
    """The file is the one that was registered, and holds a network."""
    from corrfractal import CorrFractal

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = fetch_weights(version, Path(folder))
            found, registered = file_sha256(path), version.tags.get(WEIGHTS_TAG, "unknown")
            if found != registered:
                return [
                    f"its weights are not those that were registered: {found[:12]}, not "
                    f"{registered[:12]}"
                ]
            CorrFractal.load(path)
        except (OSError, CorrFractalError) as exc:
            return [f"its weights do not load: {first_line(exc)}"]
    return []


def _signature(version: ModelVersion) -> list[str]:
    import mlflow

    try:
        with mlflow_errors(model=version.uri):
            found = mlflow.models.get_model_info(version.uri).signature
    except CorrFractalError as exc:
        return [f"its description cannot be read: {first_line(exc)}"]
    return [] if found == signature() else [f"its signature is not the expected one: {found}"]


def _compare(
    version: ModelVersion, champion: ModelVersion | None, dataset: str, tolerance: float
) -> tuple[Scores | None, Scores | None, list[str]]:
    """The two scores that decide: on the same basis, the newest where there are several; and what
    speaks against."""
    registered = version.tags.get(WEIGHTS_TAG)
    own = {s.basis: s for s in version.scores if s.dataset == dataset and s.weights == registered}
    if not own:
        return None, None, [f"it has no scores on {dataset}: {_evaluate(dataset, version)}"]
    if champion is None:
        return max(own.values(), key=lambda s: s.at), None, []
    held = champion.tags.get(WEIGHTS_TAG)
    theirs = {s.basis: s for s in champion.scores if s.dataset == dataset and s.weights == held}
    common = own.keys() & theirs.keys()
    if not common:
        return None, None, [
            f"the champion, {champion.uri}, has no scores on {dataset} of the same files with the "
            "same settings: "
            + _evaluate(dataset, champion)
        ]  # fmt: skip
    scores = max((own[basis] for basis in common), key=lambda s: s.at)
    baseline = theirs[scores.basis]
    if tolerance < baseline.JF - scores.JF:
        lost = f"J&F {100 * scores.JF:.2f} % on {dataset}, the champion {champion.uri} has {100 * baseline.JF:.2f} %"
        return (
            scores,
            baseline,
            [f"it is worse: {lost}, and the tolerance is {100 * tolerance:g} points"],
        )
    return scores, baseline, []


def _evaluate(dataset: str, version: ModelVersion) -> str:
    command = dataset.partition("2017")[0]
    return f"run `corrfractal evaluate {command} --data DIR --model {version.uri}`, with the same options for both"
