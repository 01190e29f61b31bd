"""The registered model as a service.

MLflow runs this file as it is ("models from code", nothing is pickled), next to
``model.safetensors`` and a copy of the ``corrfractal`` package alone. It must therefore import
nothing of this repository but ``corrfractal``.

Input: a table with the columns ``video`` (bytes of a video file) and ``mask`` (bytes of a PNG with
the objects of its first frame: palette or grey, 0 = background). Output: a row per frame of every
video, with ``video`` (number of the input row), ``frame`` (index) and ``mask`` (bytes of a grey PNG
with object ids). In JSON, bytes are base64. The parameter ``fast`` selects three densities instead
of six.

Input that cannot be read is answered with status 400 and the reason. A video that is damaged or cut
short at a later frame yields the masks of the frames before it, then one row with an empty
``mask``.
"""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import numpy.typing as npt
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
    """Propagates the mask of the first frame through each video."""

    def load_context(self, context: Any) -> None:
        self.model = CorrFractal.load(context.artifacts["weights"])

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        config = FAST if (params or {}).get("fast") else TrackerConfig()
        inputs = zip(model_input["video"], model_input["mask"], strict=True)
        rows: list[dict[str, Any]] = []
        for number, (video, mask) in enumerate(inputs):
            try:
                for frame, png in enumerate(self._propagate(video, mask, config)):
                    rows.append({"video": number, "frame": frame, "mask": png})
            except CorrFractalError as exc:
                raise MlflowException.invalid_parameter_value(f"row {number}: {exc}") from exc
        return pd.DataFrame(rows)

    def _propagate(self, video: bytes, mask: bytes, config: TrackerConfig) -> Iterator[bytes]:
        """The mask of each frame, as PNG."""
        with tempfile.TemporaryDirectory() as folder:
            video_path = Path(folder) / "video"
            video_path.write_bytes(video)
            mask_path = Path(folder) / "mask"
            mask_path.write_bytes(mask)

            # Decoders need a file: containers are read by seeking.
            frames = iter(open_video(video_path).frames())
            first = next(frames).image
            try:
                first_mask = read_first_mask(mask_path, first.shape[:2])
            except MaskError as exc:
                # The client knows no temporary file of ours.
                raise MaskError(str(exc).replace(f"the mask {mask_path}", "the mask")) from exc

            tracker = self.model.tracker(first, first_mask, config)
            yield _png(first_mask)
            # A status of 400 would discard the masks of the good frames.
            try:
                for frame in frames:
                    yield _png(tracker.step(frame.image))
            except VideoError as exc:
                logging.getLogger(__name__).warning("%s", exc)
                yield DAMAGED


def _png(mask: npt.NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


set_model(MaskPropagation())
