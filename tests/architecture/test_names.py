"""The names that others rely on, and where they come from."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path

import pytest

import corrfractal

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "name", ["corrfractal", "pipeline", "training", "inference", "studio", "cluster"]
)
def test_each_top_level_name_resolves_inside_the_repository(name: str) -> None:
    """The names are generic, so a stranger in site-packages could stand before them."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve() == (ROOT / name / "__init__.py").resolve()


# Name -> parameters. Those after "*" are keyword-only; "=" has a default.
PUBLIC = {
    "CorrFractal": "config=",
    "CorrFractal.embed": "self images keep=",
    "CorrFractal.label_tracker": "self first_frame labels config=",
    "CorrFractal.load": "name",
    "CorrFractal.propagate": "self video masks config=",
    "CorrFractal.save": "self path metadata=",
    "CorrFractal.tracker": "self first_frame first_mask config=",
    "CorrFractalConfig": "* width= embedding_channels= aggregation= stem_stride= correspondence= "
    "appearance= bottleneck=",
    "FrameMask": "* index time mask",
    "TrackerConfig": "* densities= refinement_density= radius= density= follow_motion= "
    "weigh_by_certainty= long_term= short_term= annotated= soft= resolution= max_pixels= "
    "precision=",
    "evaluate": "benchmark data * out model= split= config= workers= overwrite=",
    "hadamard_responses": "frames selection basis=",
    "open_video": "path decoder= size=",
    "quantize_clip": "frames config= seed= codebook= device=",
    "restricted_attention": "query key value radius scale= mask_border=",
    "shards.ClipSet": "location manifest",
    "shards.open": "shards",
    "shards.open_webdataset": "shards * views= frames= shuffle= seed= **options",
}


def test_the_public_names_are_frozen() -> None:
    assert set(corrfractal.__all__) == {name.partition(".")[0] for name in PUBLIC}
    shards = {"Clip", *(name.removeprefix("shards.") for name in PUBLIC if "shards." in name)}
    assert set(corrfractal.shards.__all__) == shards


@pytest.mark.parametrize("name", PUBLIC)
def test_the_parameters_of_public_names_are_frozen(name: str) -> None:
    assert _parameters(attrgetter(name)(corrfractal)) == PUBLIC[name]


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert len(inspect.getdoc(attrgetter(name)(corrfractal)) or "") > 30


def _parameters(function: Callable[..., object]) -> str:
    words = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in words:
            words.append("*")
        if parameter.kind is parameter.VAR_KEYWORD:
            words.append(f"**{parameter.name}")
            continue
        words.append(parameter.name + ("" if parameter.default is parameter.empty else "="))
    return " ".join(words)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = (
        "import sys, corrfractal; print([m for m in ('torch', 'numpy', 'cv2') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="corrfractal"):
        _ = corrfractal.no_such_name
