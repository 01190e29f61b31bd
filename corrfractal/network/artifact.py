"""A trained network as one safetensors file: weights, configuration and provenance. No pickle: a
model file cannot execute code.

The file's metadata holds ``format`` (name and version of this layout), ``config`` (JSON of the
network's configuration) and free text fields such as the digest of the shards that the model was
trained on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from corrfractal.common.config import Config, config_from_dict, config_to_dict
from corrfractal.common.errors import ConfigError, IntegrityError, NotFoundError
from corrfractal.files.atomic import publish

FORMAT = "corrfractal/1"
LFS_POINTER = b"version https://git-lfs"

C = TypeVar("C", bound=Config)
M = TypeVar("M", bound=nn.Module)


def save(
    tensors: Mapping[str, Tensor], config: Config, path: str | Path, metadata: Mapping[str, str]
) -> None:
    """Write a model file in one atomic step."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    header = {
        **metadata,
        "format": FORMAT,
        "config": json.dumps(config_to_dict(config), sort_keys=True),
    }
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        temporary,
        header,
    )
    publish(temporary, path)


def read_metadata(path: str | Path) -> dict[str, str]:
    """Metadata of a model file of this project.

    Raises:
        NotFoundError: no such file.
        IntegrityError: not a safetensors file, or not of this format.
    """
    if not Path(path).is_file():
        raise NotFoundError(f"no such model file: {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as exc:
        raise IntegrityError(
            f"{path} is not a readable safetensors file: {_diagnosis(path, exc)}"
        ) from exc
    if metadata.get("format") != FORMAT:
        raise IntegrityError(
            f"{path} is a safetensors file but not a {FORMAT} model: {metadata.get('format')!r}"
        )
    return metadata


def load(path: str | Path, config_type: type[C]) -> tuple[C, dict[str, Tensor]]:
    """Configuration and weights of a model file.

    Raises:
        NotFoundError, IntegrityError: as ``read_metadata``; also for weights that are not finite.
    """
    try:
        values = json.loads(read_metadata(path)["config"])
        config = config_from_dict(config_type, values, where=str(path))
    except (KeyError, ValueError, TypeError, RecursionError, ConfigError) as exc:
        raise IntegrityError(f"{path} does not say which network it holds: {exc}") from exc
    with safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    for name, tensor in tensors.items():
        # A network with one NaN predicts background everywhere, without an error.
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise IntegrityError(
                f"the weights in {path} are not all finite numbers, see {name}: its training "
                "diverged"
            )
    return config, tensors


def build(network: Callable[[], M], tensors: Mapping[str, Tensor], path: str | Path) -> M:
    """Build a network and load these weights.

    Args:
        network: constructor without arguments. It is called first on the meta device, which
            allocates nothing: a hostile file could claim a network that exceeds memory.
        tensors: the weights.
        path: their file, for messages.

    Raises:
        IntegrityError: names the tensors that do not fit.
    """
    with torch.device("meta"):
        expected = {name: _kind(value) for name, value in network().state_dict().items()}
    found = {name: _kind(value) for name, value in tensors.items()}
    if expected != found:
        names = expected.keys() | found.keys()
        odd = sorted(name for name in names if found.get(name) != expected.get(name))
        raise IntegrityError(
            f"the weights in {path} do not fit its own configuration: {', '.join(odd[:3])} ..."
        )
    model = network()
    fill(model, tensors, path)
    return model


def _kind(tensor: Tensor) -> tuple[torch.Size, bool]:
    """Shape, and whether it is floating point: half precision can be loaded, integers cannot."""
    return tensor.shape, tensor.is_floating_point()


def _diagnosis(path: str | Path, error: Exception) -> str:
    with Path(path).open("rb") as file:
        if file.read(len(LFS_POINTER)) == LFS_POINTER:
            return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    return str(error)


def fill(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put weights into a network; IntegrityError names what does not fit."""
    try:
        model.load_state_dict(dict(tensors))
    except RuntimeError as exc:
        raise IntegrityError(
            f"the weights in {path} do not fit its own configuration: {exc}"
        ) from exc
