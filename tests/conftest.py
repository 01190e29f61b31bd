"""What all tests share: real input where it is stored beside the checkout, tiny real videos
otherwise, one Ray session."""

from __future__ import annotations

import functools
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_sample_image

from benchmarks.scale_bytes import BUCKET, CountingApp, counting_store
from corrfractal.common.logs import configure_logging
from corrfractal.runtime.process import configure_process
from corrfractal.video import write_video
from tests.tracking_server import TrackingServer

configure_process()  # before a test imports Ray
if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers share the CPUs: threads of several PyTorches would wait for one another, spinning.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
configure_logging()  # messages as a command shows them
os.environ.setdefault(
    "MLFLOW_TRACKING_URI", "sqlite:////nonexistent/tests-must-name-their-own-store.db"
)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Divide the files among the workers of pytest-xdist; all that use ``ray_session`` go to one.

    A second Ray would cost a fifth of a CPU, even while it is idle.
    """
    from xdist.scheduler import LoadScopeScheduling

    class FilesScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "ray" if _uses_ray_session(config.rootpath / file) else file

    return FilesScheduling(config, log)


@functools.cache
def _uses_ray_session(file: Path) -> bool:
    return re.search(r"\bray_session\b(?!\.py)", file.read_text(encoding="utf-8")) is not None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real videos and data sets beside the checkout."""
    path = Path(__file__).parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"needs the real data in {path}, which is not part of the repository")
    return path


@pytest.fixture(scope="session")
def photograph() -> np.ndarray:
    """A real photograph, uint8 (427, 640, 3) RGB."""
    return np.ascontiguousarray(load_sample_image("china.jpg"))


@pytest.fixture(scope="session")
def moving_frames(photograph: np.ndarray) -> np.ndarray:
    """24 frames, uint8 (24, 160, 192, 3): a window that moves 3 pixels right and 1 down per frame
    over a photograph."""
    return np.stack([photograph[100 + t : 260 + t, 50 + 3 * t : 242 + 3 * t] for t in range(24)])


@pytest.fixture(scope="session")
def swaying_frames(moving_frames: np.ndarray) -> Callable[[int], list[np.ndarray]]:
    """As many frames as asked for: those of ``moving_frames``, there and back, without a jump."""
    return lambda count: [moving_frames[23 - abs(23 - t % 46)] for t in range(count)]


@pytest.fixture(scope="session")
def tiny_video(moving_frames: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``moving_frames`` as a real h264 file."""
    path = tmp_path_factory.mktemp("video") / "tiny.mp4"
    write_video(path, moving_frames, fps=24)
    return path


@pytest.fixture(scope="session")
def s3_server() -> Iterator[CountingApp]:
    """A real server of the S3 protocol with an empty bucket, on loopback, which counts the bytes
    that it sends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with counting_store() as (app, _):
        yield app


@pytest.fixture(scope="session")
def s3(s3_server: CountingApp) -> str:
    """The URI of the bucket of ``s3_server``."""
    return f"s3://{BUCKET}"


@pytest.fixture(scope="session")
def ray_session(s3: str) -> Iterator[None]:
    """One private Ray on two CPUs for the whole run: starting it costs more than most tests. It
    knows the S3 server."""
    from corrfractal.runtime.ray_session import ray_session as session

    with session(cpus=2):
        yield


@pytest.fixture
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A real MLflow server on loopback, started."""
    server = TrackingServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
