"""The registered model behind MLflow's own scoring server.

    python benchmarks/serving.py VIDEO MASK [--model FILE]

Registers a model in a new store (the untrained slim network, unless a file is given), starts
``mlflow models serve`` on loopback, posts the video and the mask in base64, and compares the
response with the masks of the tracker in this process, which must be bit-identical. A damaged
mask must give HTTP status 400.
"""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.network.tracker import FAST
from corrfractal.video import open_video
from inference import SERVING_FILE

START_TIMEOUT_SECONDS = 180.0


@click.command()
@click.argument("video", type=click.Path(exists=True, path_type=Path))
@click.argument("mask", type=click.Path(exists=True, path_type=Path))
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="A .safetensors file.")
def main(video: Path, mask: Path, model: Path | None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uri = register(Path(folder), model)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = ["mlflow", "models", "serve", "-m", "models:/corrfractal/1"]
        command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
        print("$", *command, flush=True)
        log = (Path(folder) / "serve.log").open("w")
        # MLflow starts uvicorn by name, so the folder of the interpreter must be on the PATH.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": uri,
            "OMP_NUM_THREADS": "1",
            "PATH": path,
        }
        server = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stdout=log, stderr=log
        )
        try:
            started = time.monotonic()
            wait_for_server(f"http://127.0.0.1:{port}/ping", server, Path(log.name))
            print(f"responds to /ping after {time.monotonic() - started:.0f} s", flush=True)
            compare(
                f"http://127.0.0.1:{port}/invocations",
                video,
                mask,
                Path(folder) / "model.safetensors",
            )
        finally:
            server.terminate()
            server.wait(30)
            log.close()


def register(folder: Path, model: Path | None) -> str:
    """Register the model as version 1 in a new store; return the store's URI."""
    import mlflow
    import torch

    from corrfractal.registry.connection import open_experiment
    from corrfractal.registry.registration import register as to_registry
    from corrfractal.registry.store import sqlite_uri

    weights = folder / "model.safetensors"
    if model is None:
        torch.manual_seed(0)
        CorrFractal(CorrFractalConfig(width=16, embedding_channels=32)).save(weights)
    else:
        weights.write_bytes(model.read_bytes())
    uri = sqlite_uri(folder / "mlflow.db")
    with mlflow.start_run(experiment_id=open_experiment(uri)) as run:
        pass
    to_registry(weights, run.info.run_id, uri, "0" * 64, serving_file=SERVING_FILE)
    return uri


def wait_for_server(url: str, server: subprocess.Popen[Any], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.5)
    raise SystemExit(f"the server does not respond:\n{log.read_text()[-3000:]}")


def post(url: str, video: bytes, mask: bytes) -> Any:
    row = {"video": base64.b64encode(video).decode(), "mask": base64.b64encode(mask).decode()}
    body = json.dumps({"dataframe_records": [row], "params": {"fast": True}}).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as response:
        return json.load(response)


def compare(url: str, video: Path, mask: Path, weights: Path) -> None:
    started = time.monotonic()
    rows = post(url, video.read_bytes(), mask.read_bytes())["predictions"]
    seconds = time.monotonic() - started
    masks = [np.array(Image.open(io.BytesIO(base64.b64decode(row["mask"])))) for row in rows]
    frames = iter(open_video(video).frames())
    tracker = CorrFractal.load(weights).tracker(next(frames).image, masks[0], FAST)
    equal = [
        bool((tracker.step(frame.image) == mask).all())
        for frame, mask in zip(frames, masks[1:], strict=True)
    ]
    print(
        f"{len(masks)} masks of {masks[0].shape[1]}x{masks[0].shape[0]} in {seconds:.1f} s; "
        f"columns {list(rows[0])}"
    )
    print(f"equal to the masks of the tracker in this process: {sum(equal)} of {len(equal)}")
    try:
        post(url, video.read_bytes(), b"no picture")
    except urllib.error.HTTPError as exc:
        message = json.load(exc)["message"].split("Error: ")[-1]
        print(f"a damaged mask: status {exc.code}, {message}")
    if not all(equal):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
