"""One frame of propagation as it is written down: embedding at full resolution, resized, matched by
the naive attention over complete maps. The expected masks of the tracker's fast path."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from reference_attention import naive_restricted_attention

from corrfractal import CorrFractal
from corrfractal.network.correspondence import grid, resize_embedding, resize_labels

U8 = npt.NDArray[np.uint8]


def propagate_by_one_affinity(
    model: CorrFractal,
    frames: Sequence[U8],
    first_mask: U8,
    radius: int,
    density: float,
    *,
    weigh: bool = False,
) -> list[U8]:
    """Masks of all frames after the first, from frames 0, 5, t-1, t-3 and t-5; one object.
    ``weigh``: labels count by their certainty."""
    similarity = model.config.correspondence.similarity
    masks = [first_mask]
    embeddings: list[torch.Tensor] = []
    certainties: list[torch.Tensor | float] = [1.0]
    with torch.inference_mode():
        for t, frame in enumerate(frames):
            full = model.embed_to_match(torch.from_numpy(frame).permute(2, 0, 1)[None])
            size = grid(full, density)
            embeddings.append(similarity.prepare(resize_embedding(full, size)))
            if t == 0:
                continue
            memory = sorted({i for i in (0, 5, t - 1, t - 3, t - 5) if 0 <= i < t})
            labels = [
                resize_labels(
                    torch.tensor(np.stack((masks[i] == 0, masks[i] > 0)))[None].float(), size
                )
                for i in memory
            ]
            weighted = [q * certainties[i] for q, i in zip(labels, memory, strict=True)]
            q = naive_restricted_attention(
                embeddings[t],
                torch.stack([embeddings[i] for i in memory], dim=1),
                torch.stack(weighted, dim=1),
                radius,
                scale=1.0,
            )
            background_is_certain_far_from_the_object(q, torch.cat(labels), radius)
            lead = (q[:, :1] - q[:, 1:]).abs()
            certainties.append((lead * 255).round().clamp(13, 255) / 255 if weigh else 1.0)
            upsampled = resize_labels(q, frame.shape[:2])
            masks.append(first_mask.max() * upsampled[0].argmax(dim=0).numpy().astype(np.uint8))
    return masks[1:]


def background_is_certain_far_from_the_object(
    q: torch.Tensor, labels: torch.Tensor, radius: int
) -> None:
    """Set q (1, 2, h, w) to background in tiles of 8 x 8 cells that see no object in ``labels``
    (N, 2, h, w)."""
    h, w = q.shape[-2:]
    for y in range(0, h, 8):
        for x in range(0, w, 8):
            rows = slice(max(0, y - radius), y + 8 + radius)
            columns = slice(max(0, x - radius), x + 8 + radius)
            if (labels[:, 1, rows, columns] == 0).all():
                q[0, 0, y : y + 8, x : x + 8] = 1
                q[0, 1, y : y + 8, x : x + 8] = 0
