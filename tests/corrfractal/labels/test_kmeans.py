"""The engines of k-means beside faiss on the CPU, and the identity of what they label."""

from __future__ import annotations

from dataclasses import replace

import faiss
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from corrfractal.common.errors import CallError
from corrfractal.labels.kmeans import choose_engine, fit_centroids, has_faiss_gpu, lloyd
from corrfractal.labels.quantization import QuantizationConfig, quantize_clip
from pipeline.config import PipelineConfig


@pytest.fixture(scope="module")
def points() -> np.ndarray:
    """float32 (2000, 8): twenty overlapping clouds."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(20, 8)) * 2
    return (centres[rng.integers(20, size=2000)] + rng.normal(size=(2000, 8))).astype(np.float32)


def nearest(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, float]:
    """Label of each point, and the inertia: the sum of squared distances to the own centroid."""
    distances = np.square(points[:, None] - centroids[None]).sum(axis=2)
    return distances.argmin(axis=1), float(distances.min(axis=1).sum())


def agreement(a: np.ndarray, b: np.ndarray, clusters: int) -> float:
    """Share of equal labels, after the permutation that makes most of them equal."""
    counts = np.zeros((clusters, clusters), int)
    np.add.at(counts, (a, b), 1)
    rows, columns = linear_sum_assignment(-counts)
    return counts[rows, columns].sum() / len(a)


def test_from_the_same_start_torch_gives_the_labels_of_faiss(points: np.ndarray) -> None:
    start = points[:16].copy()
    kmeans = faiss.Kmeans(8, 16, niter=10, min_points_per_centroid=1, max_points_per_centroid=999)
    kmeans.train(points, init_centroids=start)
    theirs, their_inertia = nearest(points, kmeans.centroids)
    ours = lloyd(torch.from_numpy(points), torch.from_numpy(start), 10)
    labels, inertia = nearest(points, ours.numpy())
    assert (labels == theirs).mean() > 0.999
    assert inertia == pytest.approx(their_inertia, rel=1e-4)


def test_from_its_own_start_torch_fits_as_well_as_faiss(points: np.ndarray) -> None:
    """Other starts end in other local optima: over a few seeds the inertia is the same."""
    inertias = {"faiss": 0.0, "torch": 0.0}
    labels = {}
    for seed in range(8):
        for engine in inertias:
            rng = np.random.default_rng(seed)
            centroids = fit_centroids(points, 16, 10, rng, engine)
            assert centroids.dtype == np.float32
            labels[engine], inertia = nearest(points, centroids)
            inertias[engine] += inertia
        assert agreement(labels["faiss"], labels["torch"], 16) > 0.5
    assert inertias["torch"] == pytest.approx(inertias["faiss"], rel=0.03)


def test_the_configured_engine_decides_the_labels(moving_frames: np.ndarray) -> None:
    frames = moving_frames[:2]
    config = QuantizationConfig(fit_pixels=1024)
    by_engine = {
        engine: quantize_clip(frames, replace(config, kmeans=engine), 1)[0]
        for engine in ("auto", "faiss", "torch")
    }
    np.testing.assert_array_equal(by_engine["auto"], by_engine["faiss"])
    assert (by_engine["auto"] != by_engine["torch"]).any()
    on_torch = quantize_clip(frames, replace(config, kmeans="faiss"), 1, device="cpu")[0]
    assert agreement(on_torch.ravel(), by_engine["faiss"].ravel(), 16) > 0.99


@pytest.mark.skipif(has_faiss_gpu(), reason="needs a faiss without CUDA")
def test_faiss_gpu_is_chosen_where_it_is_installed_and_refused_elsewhere(
    points: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_engine(None) == "faiss"
    assert choose_engine("cpu") == choose_engine("cuda") == "torch"
    with pytest.raises(CallError, match="needs a build of faiss for CUDA"):
        fit_centroids(points, 16, 10, np.random.default_rng(0), "faiss-gpu")
    monkeypatch.setattr(faiss, "StandardGpuResources", object(), raising=False)
    assert choose_engine("cuda:0") == "faiss-gpu"
    assert choose_engine("cpu") == "torch"
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(CallError, match="faiss finds no GPU"):
        fit_centroids(points, 16, 10, np.random.default_rng(0), "faiss-gpu")


def test_the_recipe_names_the_engine_that_was_chosen_and_old_recipes_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = PipelineConfig()
    assert "kmeans" not in config.recipe()["quantization"]
    for device in ("cpu", "torch", "cuda"):
        named = replace(config, device=device).with_engine()
        assert named.quantization.kmeans == ("faiss" if device == "cpu" else "torch")
        assert named.recipe() == replace(config, device=device).recipe()
        assert "kmeans" not in named.recipe()["quantization"]

    by_torch = replace(config, quantization=replace(config.quantization, kmeans="torch"))
    assert by_torch.recipe()["quantization"]["kmeans"] == "torch"
    monkeypatch.setattr(faiss, "StandardGpuResources", object(), raising=False)
    on_gpu = replace(config, device="cuda")
    assert on_gpu.with_engine().quantization.kmeans == "faiss-gpu"
    assert on_gpu.recipe()["quantization"]["kmeans"] == "faiss-gpu"
    assert on_gpu.recipe() == on_gpu.with_engine().recipe()
