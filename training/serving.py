"""The registered model's front: MLflow runs this file (models from code, nothing pickled) beside ``model.safetensors``.

In: a table with the columns ``video`` (bytes of a video file) and ``mask`` (bytes of a PNG with the objects of the
first frame). Out: a row per frame of the first row's video, with ``frame`` (its number) and ``mask`` (bytes of a PNG
with its object ids).
"""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import set_model
from PIL import Image

from corrfractal import CorrFractal
from corrfractal.video import open_video


class MaskPropagation(mlflow.pyfunc.PythonModel):
    """Propagates a first mask through a video."""

    def load_context(self, context: Any) -> None:
        self.model = CorrFractal.load(context.artifacts["weights"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        row = model_input.iloc[0]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            path.write_bytes(row["video"])
            frames = open_video(path).frames()
            with Image.open(io.BytesIO(row["mask"])) as image:
                masks = [np.array(image, dtype=np.uint8)]
            tracker = self.model.tracker(next(iter(frames)).image, masks[0])
            masks += [tracker.step(frame.image) for frame in frames]
        return pd.DataFrame({"frame": range(len(masks)), "mask": [_png(mask) for mask in masks]})


def _png(mask: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


set_model(MaskPropagation())
