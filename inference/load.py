"""Find and load a model: a registered version, a run, a folder, a file, the starter or a baseline.

``resolve_model`` finds the weights and records where they came from; ``open_model`` loads them, in
whatever process needs them. Only ``*.safetensors`` files are read: nothing is unpickled.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from corrfractal.common.errors import CallError, IntegrityError, NotFoundError
from corrfractal.files.atomic import file_sha256
from corrfractal.network.tracker import TrackerConfig
from corrfractal.registry.names import CANDIDATE, CHAMPION, PROJECT
from corrfractal.registry.weights import StoredModel, fetch, fetch_default, only_weights

from .protocols import F32, U8, MaskTracker, Model, SoftLabelTracker

if TYPE_CHECKING:
    from corrfractal import CorrFractal

STARTER = "starter"
"""The slim network that ships with the package (docs/reference/starter-model.md): the default while
no model is registered."""

COPY = "baseline:copy"
COLOUR = "baseline:colour"
UNTRAINED = "baseline:untrained"
BASELINES = (COPY, COLOUR, UNTRAINED)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """A model that was found but not loaded yet.

    Attributes:
        name: for reports, such as ``models:/corrfractal/3``.
        digest: SHA-256 of the weights, or the name of a baseline: equal digests give equal masks.
        path: safetensors file; None for a baseline.
        run_id: MLflow run that trained it, where known.
        registered: (name, version) in the MLflow registry, if it came from there.
    """

    name: str
    digest: str
    path: Path | None = None
    run_id: str | None = None
    registered: tuple[str, str] | None = None


def resolve_model(name: str | None, download_to: Path | None = None) -> ModelSource:
    """Find a model.

    Args:
        name: ``starter``, baseline, file, folder, ``models:/...``, ``runs:/...``, a bare run id,
            ``champion``, ``candidate`` or a version number. None: the champion of the registry;
            otherwise its candidate; otherwise the starter.
        download_to: folder for weights of the MLflow store. None: read them in place if the store
            is local, otherwise download them to a temporary folder.

    Raises:
        NotFoundError: no such model.
        CallError: the name is a file that is not safetensors, or a folder without exactly one.
    """
    if name is None:
        try:
            return _from_store(fetch_default(download_to))
        except NotFoundError as exc:
            log.info(
                f"{exc}. Using the starter model that ships with the package "
                "(docs/reference/starter-model.md)"
            )
            name = STARTER

    # Reserved names take precedence over files of the same name.
    if name == STARTER:
        return _from_file(STARTER, Path(__file__).parent / "starter.safetensors")
    if name in BASELINES:
        return ModelSource(name=name, digest=name)
    if name.startswith(("models:/", "runs:/")):
        return _from_store(fetch(name, download_to))

    path = Path(name)
    if path.is_dir():
        files = sorted(path.rglob("*.safetensors"))
        path = Path(only_weights([str(file) for file in files], name))
    if path.is_file():
        return _from_file(name, path)
    # Tested last: a file may be named like a run, a version or an alias.
    if re.fullmatch(r"[0-9a-f]{32}", name):
        return _from_store(fetch(f"runs:/{name}/model", download_to))
    if re.fullmatch(r"[0-9]{1,9}", name):
        return _from_store(fetch(f"models:/{PROJECT}/{name}", download_to))
    if name in (CHAMPION, CANDIDATE):
        return _from_store(fetch(f"models:/{PROJECT}@{name}", download_to))
    raise NotFoundError(
        f"no such model: {name}; give a safetensors file, a model folder, {CHAMPION}, {CANDIDATE}, "
        "a version number, models:/NAME@ALIAS, "
        f"runs:/ID/model or {', '.join((STARTER, *BASELINES))}"
    )


def find_weights(name: str) -> Path:
    """The model file of a network, for ``CorrFractal.load``.

    Args:
        name: as in ``resolve_model``.

    Raises:
        NotFoundError: no such model.
        CallError: as ``resolve_model``; also for a baseline, which has no file.
    """
    source = resolve_model(name)
    if source.path is None:
        raise CallError(f"{name} is a baseline without a model file: name a trained model")
    return source.path


def open_model(source: ModelSource) -> Model:
    """Load a model, onto the GPU of this process if there is one.

    Raises:
        NotFoundError: the weights no longer exist.
        IntegrityError: the file is damaged, is not a CorrFractal network, or was changed after
            ``resolve_model``.
    """
    if source.digest == COPY:
        return _CopyModel()

    # Imported late: resolving a model, and copying masks, need no torch.
    import torch

    from corrfractal import CorrFractal

    if source.digest == COLOUR:
        from .color_baseline import colour_matching

        network = colour_matching()
    elif source.path is None:
        network = _untrained()
    else:
        network = CorrFractal.load(source.path)
        # Hashed after loading, so that a file replaced in between is noticed.
        if file_sha256(source.path) != source.digest:
            raise IntegrityError(
                f"the model {source.path} was changed after it was found; rerun the same command"
            )
    return network.to("cuda" if torch.cuda.is_available() else "cpu")


class _CopyModel:
    """The trivial baseline: the first mask, unchanged, for every frame."""

    def tracker(self, first_frame: U8, first_mask: U8, config: TrackerConfig) -> MaskTracker:
        return _CopyTracker(first_mask)

    def label_tracker(
        self, first_frame: U8, labels: F32, config: TrackerConfig
    ) -> SoftLabelTracker:
        return _CopyLabels(labels)


class _CopyTracker:
    def __init__(self, mask: U8) -> None:
        self._mask = mask

    def step(self, frame: U8, mask: U8 | None = None) -> U8:
        if mask is not None:
            self._mask = np.where(mask > 0, mask, self._mask)
        return self._mask


class _CopyLabels:
    def __init__(self, labels: F32) -> None:
        self._labels = labels

    def step_labels(self, frame: U8) -> F32:
        return self._labels


def _untrained() -> CorrFractal:
    """A slim network with random weights of seed 0: what the architecture does without training."""
    import torch

    from corrfractal import CorrFractal, CorrFractalConfig

    # The caller's random state is left unchanged.
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
            f"the model {path} is not a .safetensors file, and no other format is loaded"
        )
    return ModelSource(name=name, digest=file_sha256(path), path=path.resolve())
