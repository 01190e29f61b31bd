"""The picture of a training run: what was seen, what was asked for, what came out of each module,
and the embedding.

A row per sample. ``PCA`` shows the first three principal components of the embedding as red, green
and blue, fitted on both frames of the row together: what has the same colour in both is what the
network takes for the same.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from corrfractal.network.appearance import appearance
from corrfractal.network.correspondence import reconstruct
from corrfractal.network.model import LABELS, CorrFractal
from corrfractal.shards.clip import colorize
from training.data.batches import Batch

U8 = npt.NDArray[np.uint8]

SAMPLES = 4  # rows at most
GAP = 2  # pixels between the tiles
MIN_SIDE = 112  # smaller tiles are enlarged: the names of the columns need the room
COLUMNS = (
    "reference", "target", "reference's\nlabels", "target's\nlabels", "appearance:\nreference",
    "correspondence:\ntarget", "PCA,\nreference", "PCA,\ntarget",
)  # fmt: skip


def save_picture(
    path: Path, model: CorrFractal, batch: Batch, densities: tuple[float, float]
) -> None:
    """Write the picture as PNG.

    The network sees all channels and is in evaluation mode, as in use, not the damaged input of the
    training step; its weights and statistics stay untouched.

    Args:
        path: of the file.
        model: the network, bare.
        batch: samples; the first ``SAMPLES`` are shown.
        densities: of the correspondence module's reconstruction.
    """
    count = min(SAMPLES, len(batch.frames))
    frames, labels = batch.frames[:count], batch.labels[:count]
    embeddings, guess_a, guess_c = _outputs(model, frames, labels, densities)
    rows = []
    for i in range(count):
        seen = frames[i, [0, -1]].permute(0, 2, 3, 1).cpu().numpy()
        asked = colorize(labels[i, [0, -1]].cpu().numpy())
        guesses = [guess_c[i]] if guess_a is None else [guess_a[i], guess_c[i]]
        made = [colorize(guess.argmax(dim=0).to("cpu", torch.uint8).numpy()) for guess in guesses]
        rows.append([*seen, *asked, *made, *pca_colors(embeddings[i, [0, -1]].cpu().numpy())])
    names = [name for name in COLUMNS if guess_a is not None or not name.startswith("appearance")]
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(rows, names).save(path)


def pca_colors(embeddings: npt.NDArray[np.float32]) -> U8:
    """Embeddings (T, C, H, W) as colours, uint8 (T, H, W, 3): principal components fitted on all T
    frames, each stretched so that all but the outer hundredths fill the range."""
    from sklearn.decomposition import PCA

    T, C, H, W = embeddings.shape
    vectors = embeddings.transpose(0, 2, 3, 1).reshape(-1, C)
    parts = PCA(n_components=min(3, C), random_state=0).fit_transform(vectors)
    low, high = np.percentile(parts, (1, 99), axis=0)
    shown = np.clip((parts - low) / np.maximum(high - low, 1e-9), 0, 1) * 255
    shown = np.pad(shown, ((0, 0), (0, 3 - shown.shape[1])))
    return shown.round().astype(np.uint8).reshape(T, H, W, 3)


@torch.no_grad()
def _outputs(
    model: CorrFractal, frames: Tensor, labels: Tensor, densities: tuple[float, float]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Embeddings (B, M, C, H, W); reconstructions of the nearest reference by the appearance
    module, None where it is off, and of the target by the correspondence module, (B, K, H, W)."""
    config, was_training = model.config, model.training
    model.eval()
    B, M = frames.shape[:2]
    embeddings = model.embed(frames.flatten(0, 1)).unflatten(0, (B, M))
    model.train(was_training)
    one_hot = F.one_hot(labels.long(), LABELS).movedim(-1, 2).float()
    F_ref, F_t = embeddings[:, :-1], embeddings[:, -1]
    guess_c = reconstruct(F_ref, one_hot[:, :-1], F_t, densities, model.in_training)
    if config.appearance == "off":
        return embeddings, None, guess_c
    similarity = model.in_training.similarity
    guess_a = appearance(
        F_ref[:, 0], F_t, one_hot[:, 0], one_hot[:, -1], config.appearance, similarity
    )
    return embeddings, guess_a, guess_c


def _sheet(rows: list[list[U8]], names: list[str]) -> Image.Image:
    """Tiles in rows and columns, the names above."""
    enlarge = -(-MIN_SIDE // min(rows[0][0].shape[:2]))
    rows = [[tile.repeat(enlarge, axis=0).repeat(enlarge, axis=1) for tile in row] for row in rows]
    h, w = rows[0][0].shape[:2]
    size, head = 14, 38
    sheet = Image.new(
        "RGB", (len(names) * (w + GAP) - GAP, head + len(rows) * (h + GAP) - GAP), "white"
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size)
    for x, name in enumerate(names):
        draw.text((x * (w + GAP) + 2, 2), name, fill="black", font=font, spacing=1)
        for y, row in enumerate(rows):
            sheet.paste(Image.fromarray(row[x]), (x * (w + GAP), head + y * (h + GAP)))
    return sheet
