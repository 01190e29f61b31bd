"""The registered model's front: MLflow runs this file (models from code, nothing pickled) beside
``model.safetensors``.

In: a table with the columns ``video`` (bytes of a video file) and ``mask`` (bytes of a PNG with the
objects of its first frame: palette or grey, 0 = background). Out: a row per frame of every video,
with ``video`` (the row it came in), ``frame`` (its number) and ``mask`` (bytes of a grey PNG with
its object ids). In JSON, bytes are base64. With the parameter ``fast``, three densities instead of
six. What cannot be read is answered with status 400 and the reason. A video that is damaged or cut
short later has the masks of its sound frames, then one row with an empty ``mask``.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from PIL import Image

from corrfractal import CorrFractal
from corrfractal.common.errors import CorrFractalError, MaskError, VideoError
from corrfractal.network.tracker import FAST, TrackerConfig
from corrfractal.video import open_video
from corrfractal.video.masks import read_first_mask

DAMAGED = b""  # in place of the mask of the first frame that cannot be decoded


class MaskPropagation(mlflow.pyfunc.PythonModel):
    """Propagates a first mask through a video."""

    def load_context(self, context: Any) -> None:
        self.model = CorrFractal.load(context.artifacts["weights"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        config = FAST if (params or {}).get("fast") else TrackerConfig()
        rows = []
        for number, (video, mask) in enumerate(
            zip(model_input["video"], model_input["mask"], strict=True)
        ):
            try:
                masks = enumerate(self._propagate(video, mask, config))
                rows += [{"video": number, "frame": frame, "mask": png} for frame, png in masks]
            except CorrFractalError as exc:
                raise MlflowException.invalid_parameter_value(f"row {number}: {exc}") from exc
        return pd.DataFrame(rows)

    def _propagate(self, video: bytes, mask: bytes, config: TrackerConfig) -> Iterator[bytes]:
        """PNG files of the masks, frame by frame."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "video"
            path.write_bytes(video)
            given = Path(folder) / "mask"
            given.write_bytes(mask)
            frames = iter(open_video(path).frames())
            first = next(frames).image
            try:
                first_mask = read_first_mask(given, first.shape[:2])
            except MaskError as exc:
                raise MaskError(str(exc).replace(f"the mask {given}", "the mask")) from exc
            tracker = self.model.tracker(first, first_mask, config)
            yield _png(first_mask)
            try:
                for frame in frames:
                    yield _png(tracker.step(frame.image))
            except VideoError as exc:
                logging.getLogger(__name__).warning("%s", exc)
                yield DAMAGED


def _png(mask: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


set_model(MaskPropagation())
