"""Which model: a registered version, a run, a folder, a file, the starter, a baseline -> something
that makes trackers.

``resolve_model`` finds the weights and says where they came from; ``open_model`` loads them, in
whatever process needs them. Only ``*.safetensors`` files are ever read: nothing is unpickled.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from corrfractal.common.console import say
from corrfractal.common.errors import CallError, IntegrityError, NotFoundError
from corrfractal.common.files import file_sha256
from corrfractal.network.tracker import TrackerConfig
from corrfractal.registry.weights import StoredModel, fetch, fetch_default, only_weights

if TYPE_CHECKING:
    from corrfractal import CorrFractal

U8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float32]

STARTER = "starter"
"""The slim network that comes with the program (docs/starter-model.md), for whoever has trained
none yet."""
BASELINES = ("baseline:copy", "baseline:colour", "baseline:untrained")


class Tracker(Protocol):
    """Carries the masks of a first frame through a video."""

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        """Object ids, uint8 (H, W), of the next ``frame``; a given ``mask`` overwrites where it is
        above 0."""
        ...


class LabelTracker(Protocol):
    """Carries soft labels of a first frame, such as heat maps, through a video."""

    def step_labels(self, frame: U8) -> Float:
        """Labels, float32 (K, H, W), of the next ``frame``."""
        ...


class Model(Protocol):
    """Whatever makes trackers."""

    def tracker(self, first_frame: U8, first_mask: U8, config: TrackerConfig) -> Tracker:
        """A tracker that starts from a frame, uint8 (H, W, 3) RGB, and its object ids, uint8 (H,
        W)."""
        ...

    def label_tracker(self, first_frame: U8, labels: Float, config: TrackerConfig) -> LabelTracker:
        """A tracker that starts from a frame and its soft labels, float32 (K, H, W)."""
        ...


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found, not yet loaded.

    Attributes:
        name: how reports call it, such as ``models:/corrfractal/3``.
        digest: SHA-256 of the weights, or the name of a baseline: equal digests give equal masks.
        path: safetensors file; None for a baseline.
        run_id: MLflow run that made it, where known.
        registered: (name, version) in the MLflow registry, where it came from there.
    """

    name: str
    digest: str
    path: Path | None = None
    run_id: str | None = None
    registered: tuple[str, str] | None = None


def resolve_model(name: str | None, download_to: Path | None = None) -> ModelSource:
    """Find a model.

    Args:
        name: ``starter``, baseline, file, folder, ``models:/...``, ``runs:/...`` or a bare run id;
            None is the registry's champion or, while there is none, its candidate or, where nothing
            is registered, the starter.
        download_to: folder for weights of the MLflow store (default: where they lie, or a temporary
            one).

    Raises:
        NotFoundError: there is no such model.
        CallError: the name is a file that is not safetensors, or a folder without exactly one.
    """
    if name is None:
        try:
            return _from_store(fetch_default(download_to))
        except NotFoundError as exc:
            say(
                f"{exc}. Until then: the starter model that comes with the program "
                "(docs/starter-model.md)"
            )
            name = STARTER
    if name == STARTER:
        return _from_file(STARTER, Path(__file__).parent / "starter.safetensors")
    if name in BASELINES:
        return ModelSource(name=name, digest=name)
    if name.startswith(("models:/", "runs:/")):
        return _from_store(fetch(name, download_to))
    path = Path(name)
    if path.is_dir():
        path = Path(only_weights([str(p) for p in sorted(path.rglob("*.safetensors"))], name))
    if path.is_file():
        return _from_file(name, path)
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _from_store(fetch(f"runs:/{name}/model", download_to))
    raise NotFoundError(
        f"no such model: {name}; give a safetensors file, a model folder, models:/NAME@ALIAS, "
        "runs:/ID/model or " + ", ".join((STARTER, *BASELINES))
    )


def open_model(source: ModelSource) -> Model:
    """Load a model that was found, onto the GPU of this process where there is one.

    Raises:
        NotFoundError: the weights are gone.
        IntegrityError: the file is damaged, not a CorrFractal network, or no longer the one that
        was found.
    """
    if source.digest == "baseline:copy":
        return _CopyModel()
    import torch

    from corrfractal import CorrFractal

    if source.digest == "baseline:colour":
        from .color_baseline import colour_matching

        network = colour_matching()
    else:
        network = _untrained() if source.path is None else CorrFractal.load(source.path)
    if source.path is not None and file_sha256(source.path) != source.digest:
        raise IntegrityError(
            f"the model {source.path} was changed after it was found: run the same command again"
        )
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


class _CopyModel:
    """The baseline that every method must beat: the first mask, unchanged, for every frame."""

    def tracker(self, first_frame: U8, first_mask: U8, config: TrackerConfig) -> Tracker:
        return _CopyTracker(first_mask)

    def label_tracker(self, first_frame: U8, labels: Float, config: TrackerConfig) -> LabelTracker:
        return _CopyLabels(labels)


class _CopyTracker:
    def __init__(self, mask: U8) -> None:
        self._mask = mask

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        if mask is not None:
            self._mask = np.where(mask > 0, mask, self._mask)
        return self._mask


class _CopyLabels:
    def __init__(self, labels: Float) -> None:
        self._labels = labels

    def step_labels(self, frame: U8) -> Float:
        return self._labels


def _untrained() -> CorrFractal:
    """A slim network with the weights of seed 0: what the architecture does before it has learnt
    anything."""
    import torch

    from corrfractal import CorrFractal, CorrFractalConfig

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CorrFractal(CorrFractalConfig(width=16, embedding_channels=32)).eval()


def _from_store(stored: StoredModel) -> ModelSource:
    return ModelSource(
        name=stored.uri,
        digest=file_sha256(stored.weights),
        path=stored.weights.resolve(),
        run_id=stored.run_id,
        registered=stored.registered,
    )


def _from_file(name: str, path: Path) -> ModelSource:
    if path.suffix != ".safetensors":
        raise CallError(
            f"the model {path} is not a .safetensors file: other formats are not opened"
        )
    return ModelSource(name=name, digest=file_sha256(path), path=path.resolve())
