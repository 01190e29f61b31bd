"""One workflow file gives every command the settings that ``corrfractal run`` takes from it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import read_workflow
from corrfractal.common.errors import ConfigError
from corrfractal.common.workflow_file import apply_settings, read_table, with_settings
from corrfractal.labels.quantization import QuantizationConfig
from pipeline.cli import _configuration as pipeline_configuration
from training.config import configuration_of_table

TEXT = """
sources = ["videos"]
out = "out"
rung = "+A"
[precompute]
size = 64
[training]
profile = "cpu"
preset = "full"
steps = 7
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A workflow file with a rung below the full method."""
    path = tmp_path / "workflow.toml"
    path.write_text(TEXT)
    return path


def test_precompute_and_train_read_the_settings_that_run_reads(file: Path) -> None:
    workflow = read_workflow(file)
    assert workflow.precompute.quantization.n_patterns == 0
    assert pipeline_configuration(file, ()) == workflow.precompute
    table = read_table(file, "training")
    assert configuration_of_table(table, where="file") == workflow.training


def test_set_overrides_the_file_in_every_command(file: Path) -> None:
    workflow = read_workflow(file, ("precompute.clip.fps=15", "training.steps=9", "rung=+C"))
    assert (workflow.precompute.clip.fps, workflow.training.steps) == (15.0, 9)
    assert workflow.precompute.quantization.n_patterns > 0
    assert pipeline_configuration(file, ("clip.fps=15",)).clip.fps == 15.0


def test_an_option_of_its_own_overrides_set(file: Path) -> None:
    config = pipeline_configuration(file, ("device=cpu", "max_bad=0.5"), {"max_bad": 0.1})
    assert config.max_bad == 0.1


def test_values_are_toml_or_text_and_the_original_stays(file: Path) -> None:
    values = {"a": {"b": 1}}
    changed = apply_settings(values, ("a.b=[1, 2]", "a.c=true", "name=plain text", "x.y=1.5"))
    assert changed == {"a": {"b": [1, 2], "c": True}, "name": "plain text", "x": {"y": 1.5}}
    assert values == {"a": {"b": 1}}


@pytest.mark.parametrize("setting", ["n_patterns", "n_patterns.x=1", "pattern=1", "n_patterns=x"])
def test_a_wrong_setting_is_refused_with_its_name(setting: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        with_settings(QuantizationConfig(), (setting,))


def test_a_file_without_the_table_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.toml"
    path.write_text("[tool]\n")
    with pytest.raises(ConfigError, match=r"other\.toml has no \[training\] table"):
        read_table(path, "training")
