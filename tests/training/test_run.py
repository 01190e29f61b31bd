"""A run's folder holds one run: the same call resumes it, another one is refused before anything is
started."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from corrfractal.common.config import config_to_dict
from corrfractal.common.errors import CallError, ConfigError, CorrFractalError
from corrfractal.registry.store import sqlite_uri
from corrfractal.registry.versions import find_version
from training.config import TrainingConfig
from training.ray_backend import run_in_thread, stop_on_signal
from training.request import check_request
from training.run import train
from training.state.stop import stop_requested


def test_only_fields_that_do_not_change_the_weights_may_change_on_resume(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    server = "http://127.0.0.1:9"  # down, which does not prevent resuming

    def asked(config: TrainingConfig, store: str = server):
        return check_request(tiny_shards, tmp_path, config, store, (1, 2))[0]

    first = replace(asked(tiny_config, "sqlite:///none.db"), run_id="r", tracking_uri=server)
    (tmp_path / "job.json").write_text(json.dumps(config_to_dict(first)))
    asked(tiny_config)
    assert (
        asked(
            replace(tiny_config, loader_workers=3, recompute=True, checkpoint_every=7)
        ).config.loader_workers
        == 3
    )
    with pytest.raises(
        ConfigError, match=r"holds another run: 'config\.accumulate' was 1 and is now 2"
    ):
        asked(replace(tiny_config, accumulate=2))


def test_a_run_of_version_0_1_0_is_resumed(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    server = "http://127.0.0.1:9"
    job, _ = check_request(tiny_shards, tmp_path, tiny_config, "sqlite:///none.db", (1, 2))
    values = config_to_dict(replace(job, run_id="r", tracking_uri=server))
    values["config"]["evaluator"] = "inference.evaluation:score_network"
    del values["order"]
    (tmp_path / "job.json").write_text(json.dumps(values))
    job, _ = check_request(tiny_shards, tmp_path, tiny_config, server, (1, 2))
    assert job.config == tiny_config


def test_a_run_of_an_earlier_version_with_another_order_is_refused_unless_it_is_finished(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    server = "http://127.0.0.1:9"
    config = replace(tiny_config, batch_size=2)  # two shards: each slot has its own
    job, _ = check_request(tiny_shards, tmp_path, config, "sqlite:///none.db", (1, 2))
    values = config_to_dict(replace(job, run_id="r", tracking_uri=server))
    (tmp_path / "job.json").write_text(json.dumps(values))
    check_request(tiny_shards, tmp_path, config, server, (1, 2))

    del values["order"]
    (tmp_path / "job.json").write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="visits the samples in another order: finish it with"):
        check_request(tiny_shards, tmp_path, config, server, (1, 2))
    (tmp_path / "result.json").write_text("{}")
    check_request(tiny_shards, tmp_path, config, server, (1, 2))


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_a_model_that_cannot_be_registered_stays_in_the_folder_and_the_same_call_registers_it(
    tiny_shards: Path,
    tiny_config: TrainingConfig,
    registered: tuple[Path, list[Path]],
    tmp_path: Path,
) -> None:
    folder = tmp_path / "project"
    shutil.copytree(registered[0].parent, folder)
    uri, out = sqlite_uri(folder / "mlflow.db"), folder / "run0"
    version = find_version("1", uri)
    mlflow.MlflowClient().delete_registered_model(version.name)
    config = replace(tiny_config, steps=4, seed=0, picture_every=4)
    job, _ = check_request(tiny_shards, tmp_path / "new", config, uri, (1, 1))
    (out / "job.json").write_text(
        json.dumps(config_to_dict(replace(job, run_id=version.run_id, out=str(out))))
    )
    shutil.rmtree(folder / "mlartifacts" / "models")
    (folder / "mlartifacts" / "models").write_text("no folder")

    said = rf"complete and the model is {out}/model\.safetensors, but it is not registered: .* The same command again"
    with pytest.raises(CorrFractalError, match=said):
        train(tiny_shards, out, config, tracking_uri=uri, workers=1)
    (folder / "mlartifacts" / "models").unlink()
    assert (
        train(tiny_shards, out, config, tracking_uri=None, workers=1).model.run_id == version.run_id
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_driver_stops_the_workers_and_a_second_one_does_not_wait(
    tmp_path: Path, number: signal.Signals
) -> None:
    def worker() -> None:
        while not stop_requested(tmp_path):
            time.sleep(0.01)

    before = signal.getsignal(number)
    with stop_on_signal(tmp_path) as stopping:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        run_in_thread(worker)
        assert stopping.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert not stop_requested(tmp_path)
    assert signal.getsignal(number) == before


def test_an_error_in_another_thread_is_raised_in_the_main_one() -> None:
    def fails() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        run_in_thread(fails)


@pytest.mark.parametrize("name", ["result.json", "model.safetensors", "checkpoints"])
def test_a_folder_with_files_of_others_is_refused(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CallError, match=f"{name} exists, and was not written by this command"):
        check_request(tiny_shards, tmp_path, tiny_config, "sqlite:///none.db", (1, 2))
    with pytest.raises(CallError, match="is inside the input"):
        check_request(tiny_shards, tiny_shards / "run", tiny_config, "sqlite:///none.db", (1, 2))
