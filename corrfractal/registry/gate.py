"""The gate before ``champion``: every reason why a version must not be promoted.

A version passes if

1. its data set is known, and the manifest stored with its run has the same digest;
2. its weights are those that were registered, and load as a network;
3. its signature is the one that callers rely on;
4. its J&F on the named evaluation set is not worse than the champion's, both scored on the same
   files with the same settings.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from corrfractal.common.errors import CorrFractalError
from corrfractal.files.atomic import file_sha256
from corrfractal.shards.manifest import MANIFEST, load_manifest

from .mlflow_errors import first_line, mlflow_errors
from .names import UNKNOWN
from .provenance import download_copy
from .registration import signature
from .scores import Scores
from .versions import ModelVersion
from .weights import download_weights


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Reasons against a promotion (empty: the version passes), and the scores that decided."""

    reasons: tuple[str, ...]
    scores: Scores | None
    baseline: Scores | None


def evaluate_gate(
    version: ModelVersion, champion: ModelVersion | None, dataset: str, tolerance: float
) -> GateResult:
    """Check a version of MLflow's current store.

    Args:
        version: the version to be promoted.
        champion: the current champion, if any.
        dataset: name of the evaluation set.
        tolerance: accepted loss of J&F against the champion, a fraction.
    """
    reasons = [*_check_data_set(version), *_check_weights(version), *_check_signature(version)]
    registered = version.weights_sha256
    # Scores by basis: of the files that were registered, not of weights replaced later.
    own = {s.basis: s for s in version.scores if s.dataset == dataset and s.weights == registered}
    if not own:
        reasons.append(f"it has no scores on {dataset}: {_evaluate_hint(dataset, version)}")
        return GateResult(reasons=tuple(reasons), scores=None, baseline=None)
    if champion is None:
        newest = max(own.values(), key=lambda s: s.at)
        return GateResult(reasons=tuple(reasons), scores=newest, baseline=None)

    held = champion.weights_sha256
    theirs = {s.basis: s for s in champion.scores if s.dataset == dataset and s.weights == held}
    common = own.keys() & theirs.keys()
    if not common:
        reasons.append(
            f"the champion, {champion.uri}, has no scores on {dataset} of the same files with the "
            f"same settings: {_evaluate_hint(dataset, champion)}"
        )
        return GateResult(reasons=tuple(reasons), scores=None, baseline=None)

    # Several bases may be common, such as full and `--fast`: the newest evaluation decides.
    scores = max((own[basis] for basis in common), key=lambda s: s.at)
    baseline = theirs[scores.basis]
    if tolerance < baseline.JF - scores.JF:
        reasons.append(
            f"it is worse: J&F {100 * scores.JF:.2f} % on {dataset}, the champion {champion.uri} "
            f"has {100 * baseline.JF:.2f} %, and the tolerance is {100 * tolerance:g} points"
        )
    return GateResult(reasons=tuple(reasons), scores=scores, baseline=baseline)


def _check_data_set(version: ModelVersion) -> list[str]:
    if version.shards_digest == UNKNOWN:
        return ["its data set is unknown: the version has no tag shards.digest"]
    with tempfile.TemporaryDirectory() as folder:
        try:
            download_copy(version.run_id, MANIFEST, folder)
            manifest = load_manifest(folder)
        except CorrFractalError as exc:
            return [f"the manifest of its data set cannot be read from its run: {first_line(exc)}"]
    if manifest.digest != version.shards_digest:
        return [f"the manifest of its run is of another data set, {manifest.digest[:12]}"]
    return []


def _check_weights(version: ModelVersion) -> list[str]:
    from corrfractal import CorrFractal

    with tempfile.TemporaryDirectory() as folder:
        try:
            path = download_weights(version.uri, Path(folder))
            found = file_sha256(path)
            if found != version.weights_sha256:
                return [
                    f"its weights are not those that were registered: {found[:12]}, not "
                    f"{version.weights_sha256[:12]}"
                ]
            # The hash shows that nothing changed, loading that it is a network at all.
            CorrFractal.load(path)
        except (OSError, CorrFractalError) as exc:
            return [f"its weights do not load: {first_line(exc)}"]
    return []


def _check_signature(version: ModelVersion) -> list[str]:
    import mlflow

    try:
        with mlflow_errors(model=version.uri):
            found = mlflow.models.get_model_info(version.uri).signature
    except CorrFractalError as exc:
        return [f"its description cannot be read: {first_line(exc)}"]
    return [] if found == signature() else [f"its signature is not the expected one: {found}"]


def _evaluate_hint(dataset: str, version: ModelVersion) -> str:
    command = dataset.partition("2017")[0]
    return (
        f"run `corrfractal evaluate {command} --data DIR --model {version.uri}`, with the same "
        "options for both"
    )
