"""A checkpoint is complete or does not exist."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from training.state.checkpoint import Checkpoint, latest_checkpoint, save_checkpoint


def checkpoint(step: int) -> Checkpoint:
    weights = {"weight": torch.full((50,), float(step))}
    return Checkpoint(
        step=step, model=weights, optimizer={}, shards_digest="s", config_digest="c", run_id="r"
    )


def test_the_newest_is_read_as_it_was_saved(tmp_path: Path) -> None:
    for step in (3, 12):
        save_checkpoint(tmp_path, checkpoint(step), keep=5)
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.run_id) == (12, "r")
    assert torch.equal(found.model["weight"], torch.full((50,), 12.0))


@pytest.mark.parametrize("damage", ["truncate", "flip", "no companion"])
def test_a_damaged_newest_is_skipped_for_the_previous_one(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, checkpoint(1), keep=5)
    path = save_checkpoint(tmp_path, checkpoint(2), keep=5)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    else:
        path.with_suffix(".json").unlink()
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1


def test_only_the_newest_are_kept_and_stray_files_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.pt.99.tmp").write_bytes(b"half")
    for step in range(1, 6):
        save_checkpoint(tmp_path, checkpoint(step), keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "step-00000004.json", "step-00000004.pt", "step-00000005.json", "step-00000005.pt",
    ]  # fmt: skip


def test_an_empty_folder_has_none(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None


def test_a_checkpoint_that_would_run_code_is_not_read(tmp_path: Path) -> None:
    """The file is replaced by a pickle that makes a file when it is loaded, with a matching
    companion."""
    import hashlib
    import json
    import pickle

    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    path = save_checkpoint(tmp_path, checkpoint(1), keep=1)
    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_suffix(".json").write_text(json.dumps({"step": 1, "sha256": digest}))
    assert latest_checkpoint(tmp_path) is None
    assert not (tmp_path / "ran").exists()
