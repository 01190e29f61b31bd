"""Refuse data sets from which nothing can be learned, before anything is started."""

from __future__ import annotations

from pathlib import Path

from corrfractal.common.errors import BoundExceededError
from corrfractal.shards.manifest import LabelStatistics

from .config import TrainingConfig


def check_labels(labels: LabelStatistics, config: TrainingConfig, shards: str | Path) -> None:
    """Compare the labels of a data set with the bounds of a configuration.

    Args:
        labels: statistics of the manifest.
        config: holds the bounds.
        shards: named in the error.

    Raises:
        BoundExceededError: a value is out of bounds; names both and the setting.
    """
    entropy = labels.entropy
    change = labels.change_rate
    if entropy < config.min_label_entropy:
        _refuse(
            shards,
            f"the labels have collapsed: they hold {entropy:.2f} bits a pixel, and the most "
            f"frequent label covers {max(labels.occupancy, default=1.0):.0%} of the pixels",
            f"min_label_entropy={config.min_label_entropy:g}",
            "min_label_entropy=0",
        )
    if change < config.min_label_change:
        _refuse(
            shards,
            f"the labels never change: {change:.2%} of them differ from the frame before",
            f"min_label_change={config.min_label_change:g}",
            "min_label_change=0",
        )
    if change > config.max_label_change:
        _refuse(
            shards,
            f"the labels are noise: {change:.0%} of them differ from the frame before",
            f"max_label_change={config.max_label_change:g}",
            "max_label_change=1",
        )


def _refuse(shards: str | Path, seen: str, bound: str, override: str) -> None:
    raise BoundExceededError(
        f"{shards}: {seen} (bound: {bound}). Look at them with `corrfractal inspect {shards} "
        "--html labels.html`, leave such videos out and precompute again, or train all the same "
        f"with --set {override}"
    )
