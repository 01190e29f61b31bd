"""The devices that the tests of this folder run on, and their inputs.

    pytest tests/gpu                                              the CPU, and a GPU if there is one
    CORRFRACTAL_REQUIRE_GPU=1 pytest --confcutdir=tests/gpu tests/gpu        a machine with a GPU

``--confcutdir`` leaves out the fixtures of the other tests, whose packages such a machine may lack:
nothing here imports ray, mlflow, decord, faiss or numba.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import torch.nn.functional as F


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Each device in turn. Without a GPU its tests are skipped, or fail where one is required."""
    if request.param == "cuda" and not torch.cuda.is_available():
        if os.environ.get("CORRFRACTAL_REQUIRE_GPU") == "1":
            pytest.fail("CORRFRACTAL_REQUIRE_GPU=1, and PyTorch finds no GPU")
        pytest.skip("needs a GPU")
    # Float32 means float32: by default convolutions round their inputs to 10 bits on a GPU.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """The same random inputs in every test, and one thread."""
    threads = torch.get_num_threads()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def drifting_frames() -> np.ndarray:
    """uint8 (6, 64, 80, 3): a window that moves 2 pixels right and 1 down per frame over blobs of
    colour."""
    generator = torch.Generator().manual_seed(1)
    blobs = torch.rand(1, 3, 12, 16, generator=generator)
    scene = F.interpolate(blobs, (96, 128), mode="bicubic", align_corners=False).clamp(0, 1)
    pixels = (scene[0] * 255).byte().permute(1, 2, 0).numpy()
    frames = [pixels[t : t + 64, 2 * t : 2 * t + 80] for t in range(6)]
    return np.ascontiguousarray(np.stack(frames))
