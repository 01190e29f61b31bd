"""A run's folder holds one run: the same call goes on, another is refused before anything is started."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from corrfractal.config import config_to_dict
from corrfractal.errors import ConfigError
from training.config import TrainingConfig
from training.run import _asked_to_stop, _beside, checked_job
from training.stop import stop_file


def test_fields_that_do_not_touch_the_weights_may_change_on_resume_and_others_not(
    tiny_shards: Path, tiny_config: TrainingConfig, tmp_path: Path
) -> None:
    server = "http://127.0.0.1:9"  # away, which does not keep a run from being resumed

    def asked(config: TrainingConfig, store: str = server):
        return checked_job(tiny_shards, tmp_path, config, store, (1, 2))

    first = replace(asked(tiny_config, "sqlite:///none.db"), run_id="r", tracking_uri=server)
    (tmp_path / "job.json").write_text(json.dumps(config_to_dict(first)))
    asked(tiny_config)
    assert asked(replace(tiny_config, loader_workers=3, recompute=True, checkpoint_every=7)).config.loader_workers == 3
    with pytest.raises(ConfigError, match=r"holds another run: 'config\.accumulate' was 1 and is now 2"):
        asked(replace(tiny_config, accumulate=2))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_driver_asks_the_workers_to_leave_and_a_second_one_does_not_wait(
    tmp_path: Path, number: signal.Signals
) -> None:
    def worker() -> None:
        while not stop_file(tmp_path).exists():
            time.sleep(0.01)

    before = signal.getsignal(number)
    with _asked_to_stop(tmp_path) as asked:
        threading.Timer(0.2, os.kill, (os.getpid(), number)).start()
        _beside(worker)
        assert asked.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert not stop_file(tmp_path).exists()
    assert signal.getsignal(number) == before


def test_what_fails_beside_the_main_thread_is_raised_in_it() -> None:
    def fails() -> None:
        raise ConfigError("wrong")

    with pytest.raises(ConfigError, match="wrong"):
        _beside(fails)
