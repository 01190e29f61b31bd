"""Appearance module (III-C, Fig. 3d): a narrow affinity at full resolution that regularises the
embedding in training.

The paper gives it one sentence: A^a "calculates the visual correspondence for the reference frame",
is "used through Q_{t-1}", as a "regularization". Two readings are implemented: literally, the
reference's own labels are reconstructed through the affinity between the two frames; time-reversed,
Q_t is carried to Q_{t-1}.

Shapes: B batch, C embedding channels, K labels, H x W frame.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from .attention import Similarity

RADIUS = 1  # a 3 x 3 window (III-C)


def appearance(
    F_ref: Tensor,
    F_t: Tensor,
    Q_ref: Tensor,
    Q_t: Tensor,
    reading: Literal["literal", "time_reversed"] = "literal",
    similarity: Similarity | None = None,
) -> Tensor:
    """Reconstruct the reference's labels within a 3 x 3 window at full resolution.

    literal:        Q^_ref = A^a(queries F_ref, keys F_t) . Q_ref
    time_reversed:  Q^_ref = A^a(queries F_ref, keys F_t) . Q_t

    Args:
        F_ref, F_t: (B, C, H, W) embeddings of the nearest reference and of the target.
        Q_ref, Q_t: (B, K, H, W) their one-hot labels.
        reading: ``"literal"`` or ``"time_reversed"``.
        similarity: of embeddings; None uses ``Similarity()``.

    Returns:
        (B, K, H, W) reconstruction of ``Q_ref``: its target in either reading.
    """
    if similarity is None:
        similarity = Similarity()
    values = Q_ref if reading == "literal" else Q_t
    return similarity.attend(F_ref, F_t[:, None], values[:, None], RADIUS)
