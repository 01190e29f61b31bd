"""Where an evaluated model came from, for reports."""

from __future__ import annotations

import json

from corrfractal.common.config import flatten
from corrfractal.common.errors import CorrFractalError
from corrfractal.network.artifact import read_metadata
from corrfractal.registry.provenance import run_facts
from inference.load import ModelSource

LONGEST = 400  # characters of a fact


def describe_model(source: ModelSource) -> dict[str, str]:
    """Facts about a model for people: name, hash of the weights, metadata of the file, and run and
    version of MLflow. An unreachable MLflow is a fact too, not an error."""
    facts = {"model": source.name, "weights (SHA-256)": source.digest}
    if source.path is not None:
        facts["file"] = str(source.path)
        facts |= dict(sorted(read_metadata(source.path).items()))
    if source.run_id is not None:
        try:
            facts |= run_facts(source.run_id, source.registered)
        except CorrFractalError as exc:
            facts["MLflow"] = str(exc)
    return {key: _plain(value) for key, value in facts.items()}


def _plain(value: str) -> str:
    """A nested JSON value on one line, shortened to ``LONGEST``."""
    # Metadata of safetensors files are strings, some of which are JSON.
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    if isinstance(parsed, dict):
        value = ", ".join(f"{key} {item}" for key, item in flatten(parsed).items())
    return value if len(value) <= LONGEST else value[:LONGEST] + " ..."
