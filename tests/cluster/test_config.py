"""Properties of workflow files: paths, overrides, errors that name the field, and the ladder."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import LADDER, WorkflowConfig, read_workflow
from corrfractal.common.errors import CallError, ConfigError


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "workflow.toml"
    path.write_text('sources = ["videos"]\nout = "out"\n' + text)
    return path


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path) -> None:
    config = read_workflow(written(tmp_path, '[evaluation]\ndata = "davis"\n'))
    assert config.sources == (str(tmp_path / "videos"),)
    assert config.out == str(tmp_path / "out")
    assert config.evaluation is not None
    assert config.evaluation.data == str(tmp_path / "davis")


def test_the_fields_of_the_file_override_preset_and_profile(tmp_path: Path) -> None:
    text = (
        '[training]\nprofile = "cpu"\npreset = "full"\nsteps = 7\n[training.network]\nwidth = 8\n'
    )
    config = read_workflow(written(tmp_path, text))
    assert (config.training.references, config.training.steps) == ("full", 7)
    assert (config.training.network.width, config.training.network.embedding_channels) == (8, 32)


def test_a_password_in_a_source_is_refused_when_the_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "workflow.toml"
    path.write_text('sources = ["https://me:hunter2@host/list.txt"]\nout = "out"\n')
    with pytest.raises(CallError, match=r"me:\*\*\*@host") as refused:
        read_workflow(path)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[training]\nstep = 3\n", "training.step"),
        ("[precompute]\nsize = 1\n", "size"),
        ('rung = "+D"\n', "rung"),
        ("workers = 0\n", "workers"),
        ("tasks = 0\n", "tasks"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        read_workflow(written(tmp_path, text))


def test_each_rung_of_the_ladder_changes_one_module(tmp_path: Path) -> None:
    seen = []
    for rung in LADDER:
        config = read_workflow(written(tmp_path, f'rung = "{rung}"\n'))
        network = config.training.network
        seen.append(
            (
                network.appearance != "off",
                config.precompute.quantization.n_patterns > 0,
                network.aggregation,
                network.correspondence.multi_density,
            )
        )
    assert list(LADDER) == ["base", "+A", "+P", "+B", "+C"]
    assert seen == [tuple(k < rung for k in range(4)) for rung in range(5)]


def test_a_workflow_needs_a_source(tmp_path: Path) -> None:
    path = tmp_path / "workflow.toml"
    path.write_text('sources = []\nout = "out"\n')
    with pytest.raises(ConfigError, match="sources"):
        read_workflow(path)
    with pytest.raises(ValueError, match="sources"):
        WorkflowConfig(sources=(), out="out")
