"""The picture of a training run: input frames, pseudo-labels, reconstructions of each module, and
the embedding.

A row per sample. ``PCA`` shows the first three principal components of the embedding as red, green
and blue, fitted on both frames of the row together: equal colours are similar embeddings.
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
from training.data.reading import Batch

U8 = npt.NDArray[np.uint8]

SAMPLES = 4  # rows at most
GAP = 2  # pixels between the tiles
MIN_SIDE = 112  # smaller tiles are enlarged, so that the names of the columns fit
FONT_SIZE = 14
HEADER = 38  # height of the names, pixels
COLUMNS = (
    "reference",
    "target",
    "reference's\nlabels",
    "target's\nlabels",
    "appearance:\nreference",
    "correspondence:\ntarget",
    "PCA,\nreference",
    "PCA,\ntarget",
)


def save_picture(
    path: Path, model: CorrFractal, batch: Batch, densities: tuple[float, float]
) -> None:
    """Write the picture as PNG.

    The network gets all channels and is in evaluation mode, unlike in the training step. Its
    weights and statistics are not changed.

    Args:
        path: of the file.
        model: the network, without a wrapper for data parallelism.
        batch: samples; the first ``SAMPLES`` are shown.
        densities: of the correspondence module's reconstruction.
    """
    count = min(SAMPLES, len(batch.frames))
    frames = batch.frames[:count]
    labels = batch.labels[:count]
    embeddings, guess_a, guess_c = _outputs(model, frames, labels, densities)

    # Of each sample the nearest reference and the target
    rows = []
    for i in range(count):
        images = frames[i, [0, -1]].permute(0, 2, 3, 1).cpu().numpy()
        label_colors = colorize(labels[i, [0, -1]].cpu().numpy())
        guesses = [guess_c[i]] if guess_a is None else [guess_a[i], guess_c[i]]
        guess_colors = []
        for guess in guesses:
            guess_colors.append(colorize(guess.argmax(dim=0).to("cpu", torch.uint8).numpy()))
        components = pca_colors(embeddings[i, [0, -1]].cpu().numpy())
        rows.append([*images, *label_colors, *guess_colors, *components])

    names = list(COLUMNS)
    if guess_a is None:
        names = [name for name in COLUMNS if not name.startswith("appearance")]
    path.parent.mkdir(parents=True, exist_ok=True)
    _sheet(rows, names).save(path)


def pca_colors(embeddings: npt.NDArray[np.float32]) -> U8:
    """Embeddings (T, C, H, W) as colours, uint8 (T, H, W, 3).

    Principal components are fitted on all T frames; each is scaled so that its 1st and 99th
    percentile become 0 and 255.
    """
    from sklearn.decomposition import PCA

    T, C, H, W = embeddings.shape
    vectors = embeddings.transpose(0, 2, 3, 1).reshape(-1, C)
    components = PCA(n_components=min(3, C), random_state=0).fit_transform(vectors)
    low, high = np.percentile(components, (1, 99), axis=0)
    colors = np.clip((components - low) / np.maximum(high - low, 1e-9), 0, 1) * 255
    colors = np.pad(colors, ((0, 0), (0, 3 - colors.shape[1])))
    return colors.round().astype(np.uint8).reshape(T, H, W, 3)


@torch.no_grad()
def _outputs(
    model: CorrFractal, frames: Tensor, labels: Tensor, densities: tuple[float, float]
) -> tuple[Tensor, Tensor | None, Tensor]:
    """The outputs of both modules for frames (B, M, 3, h, w) and labels (B, M, h, w).

    Returns:
        Embeddings (B, M, C, H, W); the nearest reference reconstructed by the appearance module,
        (B, K, H, W), or None if it is off; the target reconstructed by the correspondence module,
        (B, K, H, W).
    """
    config = model.config
    was_training = model.training
    model.eval()
    B, M = frames.shape[:2]
    embeddings = model.embed(frames.flatten(0, 1)).unflatten(0, (B, M))
    model.train(was_training)
    one_hot = F.one_hot(labels.long(), LABELS).movedim(-1, 2).float()
    F_ref = embeddings[:, :-1]
    F_t = embeddings[:, -1]
    guess_c = reconstruct(F_ref, one_hot[:, :-1], F_t, densities, model.in_training)
    if config.appearance == "off":
        return embeddings, None, guess_c
    similarity = model.in_training.similarity
    guess_a = appearance(
        F_ref[:, 0], F_t, one_hot[:, 0], one_hot[:, -1], config.appearance, similarity
    )
    return embeddings, guess_a, guess_c


def _sheet(rows: list[list[U8]], names: list[str]) -> Image.Image:
    """Tiles in rows and columns, with the columns' names above."""
    h, w = rows[0][0].shape[:2]
    enlarge = -(-MIN_SIDE // min(h, w))  # rounded up
    h *= enlarge
    w *= enlarge

    size = (len(names) * (w + GAP) - GAP, HEADER + len(rows) * (h + GAP) - GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for column, name in enumerate(names):
        x = column * (w + GAP)
        draw.text((x + 2, 2), name, fill="black", font=font, spacing=1)
        for row, tiles in enumerate(rows):
            tile = tiles[column].repeat(enlarge, axis=0).repeat(enlarge, axis=1)
            sheet.paste(Image.fromarray(tile), (x, HEADER + row * (h + GAP)))
    return sheet
