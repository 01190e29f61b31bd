"""The names that others rely on, and where they come from."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import corrfractal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["corrfractal", "pipeline", "training", "inference", "cluster"])
def test_each_top_level_name_resolves_inside_the_repository(name: str) -> None:
    """The names are generic, so a stranger in site-packages could stand before them."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == (ROOT / name / "__init__.py").resolve()


def test_the_public_names_are_frozen() -> None:
    frozen = {
        "CorrFractal",
        "CorrFractalConfig",
        "hadamard_responses",
        "quantize_clip",
        "restricted_attention",
    }
    assert set(corrfractal.__all__) == frozen
    assert all(callable(getattr(corrfractal, name)) for name in frozen)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="corrfractal"):
        _ = corrfractal.no_such_name
