"""k-means of the pseudo-labels (III-A), by one of three engines.

    faiss       on the CPU, one thread
    faiss-gpu   the same algorithm on a GPU; needs a build of faiss for CUDA
    torch       on the device of the channels; needs no faiss

Each starts from points that the seed draws, and rounds sums in its own way: the engine is part of
a data set's identity (``docs/decisions/0053``). Shapes: N points, D channels, K clusters.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import CallError

Engine = Literal["faiss", "faiss-gpu", "torch"]
F32 = npt.NDArray[np.float32]


def choose_engine(device: str | None) -> Engine:
    """The engine for channels that are computed on a device.

    Args:
        device: None: by compiled loops on the CPU; otherwise as PyTorch names it.
    """
    if device is None:
        return "faiss"
    if device.startswith("cuda") and has_faiss_gpu():
        return "faiss-gpu"
    return "torch"


def has_faiss_gpu() -> bool:
    """Whether the installed faiss, if any, is a build for CUDA."""
    try:
        import faiss
    except ImportError:
        return False
    return hasattr(faiss, "StandardGpuResources")


def fit_centroids(
    points: F32,
    clusters: int,
    iterations: int,
    rng: np.random.Generator,
    engine: Engine,
    device: str | None = None,
) -> F32:
    """k-means centroids, float32 (K, D).

    Args:
        points: float32 (N, D).
        clusters: K.
        iterations: of Lloyd's algorithm.
        rng: draws the first centroids.
        engine: see above.
        device: of ``torch``; None is the CPU.

    Raises:
        CallError: the engine is not installed.
    """
    if engine == "torch":
        import torch

        first = rng.choice(len(points), clusters, replace=False)
        start = torch.from_numpy(points[first]).to(device or "cpu")
        centroids = lloyd(torch.from_numpy(points).to(device or "cpu"), start, iterations)
        return np.asarray(centroids.cpu().numpy(), dtype=np.float32)
    return _fit_by_faiss(
        points, clusters, iterations, int(rng.integers(1, 2**31 - 1)), gpu=engine == "faiss-gpu"
    )


def lloyd(points: Any, centroids: Any, iterations: int) -> Any:
    """Lloyd's iterations from given centroids, as tensors: (N, D) and (K, D) -> (K, D).

    Sums are matrix products instead of scattered additions, whose order differs between runs on a
    GPU. Empty clusters move to the points that are farthest from their own centroids. Nothing waits
    for the device.
    """
    import torch
    import torch.nn.functional as F

    K = len(centroids)
    for _ in range(iterations):
        distances, nearest = torch.cdist(points, centroids).min(dim=1)
        members = F.one_hot(nearest, K).to(points)
        counts = members.sum(dim=0)
        means = (members.T @ points) / counts.clamp(min=1)[:, None]

        # The first empty cluster takes the farthest point, the second one the next.
        empty = counts == 0
        farthest = points[distances.topk(min(K, len(points))).indices]
        order = (empty.cumsum(dim=0) - 1).clamp(min=0)
        centroids = torch.where(empty[:, None], farthest[order], means)
    return centroids


def _fit_by_faiss(points: F32, clusters: int, iterations: int, seed: int, *, gpu: bool) -> F32:
    try:
        import faiss
    except ImportError as exc:
        raise CallError(
            "k-means by faiss needs the extra corrfractal[cpu] or corrfractal[gpu]; without it "
            "use kmeans = 'torch' and --device cuda"
        ) from exc
    if gpu and not has_faiss_gpu():
        raise CallError(
            "kmeans = 'faiss-gpu' needs a build of faiss for CUDA (the extra corrfractal[gpu] in "
            "place of corrfractal[cpu]); use 'torch', or 'auto'"
        )
    # Without a GPU faiss would use the CPU and say nothing.
    if gpu and faiss.get_num_gpus() == 0:
        raise CallError("kmeans = 'faiss-gpu': faiss finds no GPU; see `corrfractal doctor`")

    threads = faiss.omp_get_max_threads()
    blas_threshold = faiss.cvar.distance_compute_blas_threshold
    # One thread: faiss sums in thread order, which would change the last digits.
    faiss.omp_set_num_threads(1)
    # No BLAS: for so few centroids and channels it takes twice as long.
    faiss.cvar.distance_compute_blas_threshold = len(points) + 1
    try:
        kmeans = faiss.Kmeans(
            points.shape[1],
            clusters,
            niter=iterations,
            seed=seed,
            gpu=gpu,
            max_points_per_centroid=math.ceil(len(points) / clusters),
            min_points_per_centroid=1,
        )
        kmeans.train(points)
    finally:
        faiss.omp_set_num_threads(threads)
        faiss.cvar.distance_compute_blas_threshold = blas_threshold
    return np.asarray(kmeans.centroids, dtype=np.float32).reshape(clusters, -1)
