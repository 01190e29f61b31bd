"""A registered model in a process that has its declared requirements and nothing else.

    python benchmarks/serve_alone.py VIDEO [--model models:/corrfractal@candidate] [--tracking-uri
    URI]

Builds a fresh virtual environment from the model's own ``requirements.txt``, loads the model there
with ``mlflow.pyfunc.load_model``, and predicts masks for a real video from a first mask, an ellipse
in the middle. The first of them must equal those of ``CorrFractal.load`` here, and neither Ray nor
a package of this project may be installed there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import cv2
import mlflow
import numpy as np
from PIL import Image

from corrfractal import CorrFractal
from corrfractal.registry.store import tracking_uri
from corrfractal.video import open_video

ALONE = """
import importlib.util, io, sys
import mlflow, numpy as np, pandas as pd
from PIL import Image
found = [name for name in sys.argv[4].split(",") if importlib.util.find_spec(name)]
assert not found, f"installed there: {found}"
model = mlflow.pyfunc.load_model(sys.argv[1])
row = {"video": open(sys.argv[2], "rb").read(), "mask": open(sys.argv[3], "rb").read()}
table = model.predict(pd.DataFrame([row]))
masks = np.stack([np.array(Image.open(io.BytesIO(mask))) for mask in table["mask"]])
np.save(sys.argv[5], masks)
print("there:", model.metadata.signature.outputs.input_names(), masks.shape, "ray" in sys.modules)
"""
COMPARED = 20  # frames; each mask depends on those before
STRANGERS = ("ray", "webdataset", "corrfractal", "training", "faiss", "pytest")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", default="models:/corrfractal@candidate")
    parser.add_argument("--tracking-uri")
    arguments = parser.parse_args()
    uri = tracking_uri(arguments.tracking_uri)
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        mask = _first_mask(arguments.video)
        Image.fromarray(mask).save(folder / "mask.png")
        needs = Path(
            mlflow.artifacts.download_artifacts(
                f"{arguments.model}/requirements.txt", dst_path=temporary
            )
        )
        python = _environment(folder / "venv", needs)
        started = time.monotonic()
        call = [python, "-I", "-c", ALONE, arguments.model, str(arguments.video.absolute()), "mask.png",
                ",".join(STRANGERS), "masks.npy"]  # fmt: skip
        clean = {"PATH": os.environ["PATH"], "HOME": temporary, "MLFLOW_TRACKING_URI": uri}
        subprocess.run(call, cwd=folder, env=clean, check=True)
        masks = np.load(folder / "masks.npy")
        print(
            f"alone: {len(masks)} masks in {time.monotonic() - started:.1f} s, import and load "
            "included"
        )
        weights = mlflow.artifacts.download_artifacts(
            f"{arguments.model}/artifacts/model.safetensors", dst_path=temporary
        )
        here = _masks(CorrFractal.load(weights), arguments.video, mask)
        share = float((here == masks[: len(here)]).mean())
        print(
            f"CorrFractal.load here: the first {len(here)} masks, {share:.4%} of the pixels equal"
        )
        print(
            f"object: {int((mask > 0).sum())} pixels in the first mask, "
            f"{int((masks[-1] > 0).sum())} in the last"
        )
        if share < 1:
            sys.exit("the masks differ")


def _environment(folder: Path, needs: Path) -> str:
    """Make a virtual environment with the requirements; returns its interpreter."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(needs)],
        check=True,
    )
    print(f"declared: {', '.join(needs.read_text().split())}")
    print(f"a fresh environment of them: {time.monotonic() - started:.0f} s")
    return python


def _first_mask(video: Path) -> np.ndarray:
    info = next(iter(open_video(video).frames())).image.shape
    mask = np.zeros(info[:2], dtype=np.uint8)
    cv2.ellipse(
        mask, (info[1] // 2, info[0] // 2), (info[1] // 6, info[0] // 4), 0, 0, 360, 1, thickness=-1
    )
    return mask


def _masks(model: CorrFractal, video: Path, mask: np.ndarray) -> np.ndarray:
    frames = open_video(video).frames()
    tracker = model.tracker(next(iter(frames)).image, mask)
    return np.stack([mask, *(tracker.step(frame.image) for frame in islice(frames, COMPARED - 1))])


if __name__ == "__main__":
    main()
