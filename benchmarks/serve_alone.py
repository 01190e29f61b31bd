"""A registered model in a process that has only the model's declared requirements.

    python benchmarks/serve_alone.py VIDEO [--model models:/corrfractal@candidate]
        [--tracking-uri URI]

Creates a virtual environment from the model's own ``requirements.txt``, loads the model in it
with ``mlflow.pyfunc.load_model``, and predicts masks for a real video from a first mask, an
ellipse in the centre. The first masks must equal those of ``CorrFractal.load`` in this process.
Neither Ray nor a package of this project may be installed in the environment.
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

# Runs in the environment, where this project is not installed.
PREDICT = """
import importlib.util, io, sys
import mlflow, numpy as np, pandas as pd
from PIL import Image
found = [name for name in sys.argv[4].split(",") if importlib.util.find_spec(name)]
assert not found, f"not declared, but installed: {found}"
model = mlflow.pyfunc.load_model(sys.argv[1])
row = {"video": open(sys.argv[2], "rb").read(), "mask": open(sys.argv[3], "rb").read()}
table = model.predict(pd.DataFrame([row]))
masks = np.stack([np.array(Image.open(io.BytesIO(mask))) for mask in table["mask"]])
np.save(sys.argv[5], masks)
print("outputs:", model.metadata.signature.outputs.input_names(), masks.shape, "ray" in sys.modules)
"""
# Number of frames that are compared; each mask depends on the previous ones.
COMPARED = 20
# Packages that must not be installed.
UNDECLARED = ("ray", "webdataset", "corrfractal", "training", "faiss", "pytest")


def main() -> None:
    """Predict in a fresh environment, and compare the masks."""
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
        requirements = Path(
            mlflow.artifacts.download_artifacts(
                f"{arguments.model}/requirements.txt", dst_path=temporary
            )
        )
        python = _environment(folder / "venv", requirements)
        started = time.monotonic()
        call = [python, "-I", "-c", PREDICT, arguments.model, str(arguments.video.absolute())]
        call += ["mask.png", ",".join(UNDECLARED), "masks.npy"]
        environment = {"PATH": os.environ["PATH"], "HOME": temporary, "MLFLOW_TRACKING_URI": uri}
        subprocess.run(call, cwd=folder, env=environment, check=True)
        seconds = time.monotonic() - started
        masks = np.load(folder / "masks.npy")
        print(
            f"declared requirements only: {len(masks)} masks in {seconds:.1f} s, "
            "including import and load"
        )
        weights = mlflow.artifacts.download_artifacts(
            f"{arguments.model}/artifacts/model.safetensors", dst_path=temporary
        )
        expected = _masks(CorrFractal.load(weights), arguments.video, mask)
        share = float((expected == masks[: len(expected)]).mean())
        print(f"CorrFractal.load: the first {len(expected)} masks, {share:.4%} of the pixels equal")
        print(
            f"object: {int((mask > 0).sum())} pixels in the first mask, "
            f"{int((masks[-1] > 0).sum())} in the last"
        )
        if share < 1:
            sys.exit("the masks differ")


def _environment(folder: Path, requirements: Path) -> str:
    """Create a virtual environment with the requirements; return its interpreter."""
    started = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run(
        [
            python,
            "-m",
            "pip",
            "install",
            "-q",
            "--disable-pip-version-check",
            "-r",
            str(requirements),
        ],
        check=True,
    )
    print(f"declared: {', '.join(requirements.read_text().split())}")
    print(f"created their environment: {time.monotonic() - started:.0f} s")
    return python


def _first_mask(video: Path) -> np.ndarray:
    height, width = next(iter(open_video(video).frames())).image.shape[:2]
    mask = np.zeros((height, width), dtype=np.uint8)
    centre = (width // 2, height // 2)
    radii = (width // 6, height // 4)
    cv2.ellipse(mask, centre, radii, 0, 0, 360, 1, thickness=-1)
    return mask


def _masks(model: CorrFractal, video: Path, mask: np.ndarray) -> np.ndarray:
    frames = open_video(video).frames()
    tracker = model.tracker(next(iter(frames)).image, mask)
    return np.stack([mask, *(tracker.step(frame.image) for frame in islice(frames, COMPARED - 1))])


if __name__ == "__main__":
    main()
