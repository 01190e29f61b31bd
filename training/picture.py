"""The picture of a training run: what was seen, what was asked for, what came out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from corrfractal.sample import colorize

from .batches import Batch
from .step import StepResult

SAMPLES = 4  # rows at most


def save_picture(path: Path, batch: Batch, result: StepResult) -> None:
    """Rows of samples; columns: reference frame, target frame, reference labels, target labels, reconstruction.

    Written as PNG. Dropped colour channels are shown as they were stored: the picture is of the data.
    """
    guess = result.reconstruction.argmax(dim=1).to("cpu").numpy().astype(np.uint8)
    frames = batch.frames.permute(0, 1, 3, 4, 2).cpu().numpy()
    labels = batch.labels.cpu().numpy()
    rows = [
        np.concatenate(
            [frames[i, 0], frames[i, -1], colorize(labels[i, 0]), colorize(labels[i, -1]), colorize(guess[i])], axis=1
        )
        for i in range(min(SAMPLES, len(frames)))
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
