"""Appearance module (III-C, Fig. 3d): a narrow affinity at full resolution that regularises the
embedding in training.

The paper's text gives one sentence to it: A^a "calculates the visual correspondence for the
reference frame", is "used through Q_{t-1}", as a "regularization". Read literally, the reference's
own labels are reconstructed through the affinity between the two frames. The other reading runs
time backwards: Q_t is carried to Q_{t-1}. Both are switches.
"""

from __future__ import annotations

from torch import Tensor

from .attention import Similarity

READINGS = ("literal", "time_reversed", "off")
RADIUS = 1  # a 3 x 3 window


def appearance(
    F_ref: Tensor,
    F_t: Tensor,
    Q_ref: Tensor,
    Q_t: Tensor,
    reading: str = "literal",
    similarity: Similarity | None = None,
) -> Tensor:
    """Reconstruct the reference's labels within a 3 x 3 window at full resolution.

    literal:        Q^_ref = A^a(queries F_ref, keys F_t) . Q_ref
    time_reversed:  Q^_ref = A^a(queries F_ref, keys F_t) . Q_t

    Args:
        F_ref, F_t: (B, C, H, W) embeddings of the nearest reference and of the target.
        Q_ref, Q_t: (B, K, H, W) their one-hot labels.
        reading: ``"literal"`` or ``"time_reversed"``.
        similarity: of embeddings; the default's if None.

    Returns:
        (B, K, H, W) reconstruction of ``Q_ref``: its target in either reading.
    """
    values = Q_ref if reading == "literal" else Q_t
    return (similarity or Similarity()).attend(F_ref, F_t[:, None], values[:, None], RADIUS)
