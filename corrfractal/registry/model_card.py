"""The model card of an exported version: Markdown after the YAML metadata that model hubs read.

The fields are those of https://huggingface.co/docs/hub/model-cards: ``license``, ``tags``,
``library_name``, ``pipeline_tag``, ``datasets``, ``metrics``, and ``model-index`` with a result for
each evaluation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from corrfractal.common.errors import CallError

from .pages import ABOUT, RunFacts, measures_by_set, model_sections, usage_text
from .versions import ModelVersion

OTHER_LICENSE = "other"
"""Hubs' name of a licence that they do not list."""
TASK = "mask-generation"
TAGS = (
    "video-object-segmentation",
    "dense-correspondence",
    "label-propagation",
    "self-supervised-learning",
    "pytorch",
    "safetensors",
)
LIMITS = """\
The network follows what looks alike from frame to frame. An object that leaves the picture, or one
next to a similar object, may be lost. The code is under the Apache License 2.0. The weights were
trained on the videos that `lineage.json` lists: check their licences before distributing them."""


def model_card(version: ModelVersion, facts: RunFacts, weights: Path, license_id: str) -> str:
    """The text of the card.

    Args:
        version: the exported version.
        facts: of the run that trained it.
        weights: its model file; the card names it without the folder.
        license_id: of the weights: an identifier of hubs, such as ``apache-2.0``.

    Raises:
        CallError: the licence is not an identifier.
    """
    from corrfractal.network.model import CorrFractal

    parameters = sum(p.numel() for p in CorrFractal.load(weights).parameters())
    metadata = yaml.safe_dump(
        card_metadata(version, facts, license_id), sort_keys=False, allow_unicode=True
    )
    parts = [
        f"---\n{metadata}---",
        f"# {version.name} {version.version}",
        f"{ABOUT} It has {parameters:,} weights.",
        "### How to load",
        usage_text(weights.name),
        *model_sections(version, facts),
        "### Limits and licence",
        LIMITS,
    ]
    return "\n\n".join(parts) + "\n"


def card_metadata(version: ModelVersion, facts: RunFacts, license_id: str) -> dict[str, Any]:
    """The metadata as plain values; without evaluations it has no ``model-index``."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license_id):
        raise CallError(
            f"{license_id!r} is not the identifier of a licence: write one such as apache-2.0, or "
            f"{OTHER_LICENSE}"
        )
    metadata: dict[str, Any] = {"license": license_id}
    if license_id == OTHER_LICENSE:
        metadata["license_name"] = "depends-on-training-videos"
    metadata |= {
        "library_name": "corrfractal",
        "pipeline_tag": TASK,
        "tags": list(TAGS),
        "datasets": [_data_set_id(facts, version.shards_digest)],
    }
    results = list(_results(version, facts))
    if results:
        names = {metric["name"] for result in results for metric in result["metrics"]}
        metadata["metrics"] = sorted(names)
        name = f"{version.name}-{version.version}"
        metadata["model-index"] = [{"name": name, "results": results}]
    return metadata


def _data_set_id(facts: RunFacts, digest: str) -> str:
    """Name and digest of the data set in the characters that hubs allow."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", facts.data_set).strip("-")
    return f"{name[:60] or 'shards'}-{digest[:12]}"


def _results(version: ModelVersion, facts: RunFacts) -> Iterator[dict[str, Any]]:
    """One result for each evaluation of these weights."""
    for s in version.scores:
        if s.weights == version.weights_sha256:
            identity = {
                "files": s.set_digest,
                "settings": s.settings,
                "sequences": s.sequences,
                "objects": s.objects,
            }
            yield _result(s.dataset, identity, {"J&F": s.JF, "J": s.J, "F": s.F})

    # Evaluations without ``Scores`` are metrics of the run.
    scored = {s.dataset for s in version.scores}
    for name, measures in measures_by_set(facts.run.data.metrics).items():
        if name not in scored:
            sequences = measures.pop("sequences", None)
            identity = {} if sequences is None else {"sequences": int(sequences)}
            yield _result(name, identity, measures)


def _result(dataset: str, identity: dict[str, Any], measures: dict[str, float]) -> dict[str, Any]:
    return {
        "task": {"type": TASK, "name": "Mask propagation through video"},
        "dataset": {"type": dataset, "name": dataset, "args": identity},
        "metrics": [
            {"type": re.sub(r"[^a-z0-9]+", "-", name.lower()), "name": name, "value": value}
            for name, value in measures.items()
        ],
    }
