"""What a run tells MLflow: parameters, data set, metrics, pictures. One run per training, resumed
with it; rank 0 only.

Metrics are sent in the background: a call to an SQL store takes 25 ms and one over HTTP 130 ms.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrfractal.common.console import say
from corrfractal.common.text import without_password
from corrfractal.registry.connection import (
    first_line,
    mlflow_errors,
    open_experiment,
    settle_mlflow,
)
from corrfractal.registry.provenance import describe_run

PATIENCE = 60.0  # seconds to wait at the end of a run for a server that is away
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0  # seconds between two attempts
LINES = 30  # of metrics in one request, which holds 1000 at most


def start_run(
    uri: str, name: str, params: Mapping[str, Any], shards: str | Path, shards_digest: str
) -> str:
    """Create a run with its parameters, its data set, and what code makes it; returns the run id."""
    import mlflow

    experiment = open_experiment(uri)
    with mlflow_errors():
        with mlflow.start_run(experiment_id=experiment, run_name=name) as run:
            mlflow.log_params({key: str(value)[:500] for key, value in params.items()})
            describe_run(shards, shards_digest, "train")
        # Leaving the block has ended the run.
        mlflow.MlflowClient().update_run(run.info.run_id, status="RUNNING")
    return str(run.info.run_id)


@dataclass(frozen=True, kw_only=True)
class MetricLine:
    """Metrics of a step and when they were taken, Unix milliseconds: a line of ``metrics.jsonl``."""

    step: int
    time: int
    values: Mapping[str, float]


class RunLog:
    """Delivers to one run, by id, from a thread: in order, each line once, whenever the server can
    be reached.

    A server that is away costs the training nothing. What it missed waits here, and in
    ``metrics.jsonl`` if this process dies too; ``backlog`` are the lines of earlier processes. The
    server is asked once what it has already.

    Args:
        uri, run_id: the run.
        backlog: lines that may or may not have arrived.
        tell: says to the user that the server is away, and that it is back.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        backlog: Sequence[MetricLine] = (),
        tell: Callable[[str], None] = say,
    ) -> None:
        import mlflow

        settle_mlflow()  # a request gives up soon: it is this class that repeats it
        # MLflow prints the address of a run that ends, with its password, and Ray keeps what a
        # worker prints.
        mlflow.set_tracking_uri(uri)
        self._client, self._run_id, self._tell = mlflow.MlflowClient(uri), run_id, tell
        self._uri = without_password(uri)
        self._waiting: deque[MetricLine | tuple[Path, str | None]] = deque(backlog)
        self._changed, self._closing = threading.Condition(), False
        self._arrived: int | None = None
        self._thread = threading.Thread(target=self._deliver_all, name="tracking", daemon=True)
        self._thread.start()

    def metrics(self, line: MetricLine) -> None:
        """Send metrics of a step, in the background."""
        self._put(line)

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Send a file, in the background."""
        self._put((path, folder))

    def close(self, status: str | None, patience: float = PATIENCE) -> bool:
        """Wait until everything has arrived, then mark the run FINISHED or FAILED; None leaves it
        running.

        Returns:
            Whether all of that came about within ``patience`` seconds. If not, a later ``RunLog``
            delivers it.
        """
        deadline = time.monotonic() + patience
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(patience)
        while status is not None and not self._thread.is_alive():
            try:
                self._client.set_terminated(self._run_id, status)
                return True
            except Exception as exc:
                if time.monotonic() > deadline:
                    return self._late(exc)
                time.sleep(1)
        return not self._thread.is_alive() or self._late(None)

    def _put(self, item: MetricLine | tuple[Path, str | None]) -> None:
        with self._changed:
            self._waiting.append(item)
            self._changed.notify_all()

    def _deliver_all(self) -> None:
        pause = FIRST_PAUSE
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing)
                if not self._waiting:
                    return
                items = list(self._waiting)
            try:
                done = self._deliver(items)
            except Exception as exc:  # away, or its disk is full: whatever it is, the run continues
                if pause == FIRST_PAUSE:
                    self._tell(
                        f"warning: {self._uri} takes no metrics ({first_line(exc)}); they are kept "
                        "and sent later"
                    )
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if pause > FIRST_PAUSE:
                self._tell(f"{self._uri} takes metrics again")
                pause = FIRST_PAUSE
            with self._changed:
                for _ in range(done):
                    self._waiting.popleft()

    def _deliver(self, items: Sequence[MetricLine | tuple[Path, str | None]]) -> int:
        """Send a file, or all metrics up to the next one; returns how many items that were.

        A repeated metric has the time of the first attempt, so a store that did take it keeps one
        copy.
        """
        from mlflow.entities import Metric

        if not isinstance(first := items[0], MetricLine):
            if first[0].exists():
                self._client.log_artifact(self._run_id, str(first[0]), first[1])
            return 1
        if self._arrived is None:
            history = self._client.get_metric_history(self._run_id, "loss")
            self._arrived = max((point.step for point in history), default=0)
        lines = list(itertools.takewhile(lambda item: isinstance(item, MetricLine), items))[:LINES]
        new = [line for line in lines if isinstance(line, MetricLine) and line.step > self._arrived]
        metrics = [
            Metric(name, value, line.time, line.step)
            for line in new
            for name, value in line.values.items()
        ]
        if metrics:
            self._client.log_batch(self._run_id, metrics=metrics)
        return len(lines)

    def _late(self, exc: Exception | None) -> bool:
        why = f" ({first_line(exc)})" if exc else ""
        self._tell(
            f"warning: {self._uri} did not take everything in time{why}; the same command again "
            "delivers the rest"
        )
        return False
