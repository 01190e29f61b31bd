"""Send the metrics and files of a run to MLflow, in the background.

``metrics.jsonl`` is the queue: a thread reads its new lines and sends them. A call to an SQL store
takes 25 ms and one over HTTP 130 ms, which the training loop does not wait for.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from corrfractal.common.text import without_password
from corrfractal.registry.connection import configure_mlflow
from corrfractal.registry.mlflow_errors import first_line

from .metrics_file import MetricLine

CLOSE_TIMEOUT = 60.0  # seconds to wait at the end of a run for a server that does not answer
FIRST_PAUSE = 1.0  # seconds between the first two attempts
LONGEST_PAUSE = 30.0
LINES_PER_BATCH = 30
METRICS_PER_REQUEST = 1000  # MLflow's limit

log = logging.getLogger(__name__)


class Uploader:
    """Uploads to one run, by id: metrics in order and each step once, whenever the server answers.

    A server that is down costs the training nothing. Unsent lines remain in the file: if this
    process dies too, the uploader of the resumed run reads them again. It asks the server once for
    the last step that arrived, and sends later ones only. A request that is repeated has the same
    step and time as before, and MLflow's stores keep one of two equal metrics.

    Args:
        uri: MLflow store.
        run_id: of the run.
        metrics: the metrics file; it may not exist yet.
    """

    def __init__(self, uri: str, run_id: str, metrics: Path) -> None:
        import mlflow

        configure_mlflow()  # short timeouts: retries are up to this class
        # Else MLflow prints the address of a run that ends, with its password, and Ray stores what
        # a worker prints.
        mlflow.set_tracking_uri(uri)
        self._client = mlflow.MlflowClient(uri)
        self._run_id = run_id
        self._shown_uri = without_password(uri)

        self._metrics = metrics
        self._offset = 0  # bytes of the metrics file that are sent
        self._arrived: int | None = None  # last step that the server had at the start
        self._files: deque[tuple[Path, str | None]] = deque()

        self._changed = threading.Event()
        self._changed.set()  # the file may hold lines of earlier processes
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="uploader", daemon=True)
        self._thread.start()

    def new_lines(self) -> None:
        """Send the lines that were appended to the metrics file."""
        self._changed.set()

    def artifact(self, path: Path, folder: str | None = None) -> None:
        """Send a file, after the metrics so far.

        Args:
            path: of the file.
            folder: of the run's artefacts; None: the top one.
        """
        self._files.append((path, folder))
        self._changed.set()

    def close(self, status: str | None, timeout: float = CLOSE_TIMEOUT) -> bool:
        """Wait until everything is sent, then set the status of the run.

        Args:
            status: FINISHED or FAILED; None leaves the run as it is.
            timeout: seconds.

        Returns:
            Whether all of that succeeded in time. If not, the next ``Uploader`` of the run sends
            the rest.
        """
        deadline = time.monotonic() + timeout
        self._closing = True
        self._changed.set()
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._warn_incomplete("")
            return False
        while status is not None:
            try:
                self._client.set_terminated(self._run_id, status)
                break
            except Exception as exc:
                if time.monotonic() > deadline:
                    self._warn_incomplete(f" ({first_line(exc)})")
                    return False
                time.sleep(1)
        return True

    def _warn_incomplete(self, reason: str) -> None:
        log.warning(
            f"{self._shown_uri} did not take everything in time{reason}; the same command again "
            "delivers the rest"
        )

    def _run(self) -> None:
        """The thread: send until ``close`` was called and nothing is left."""
        while True:
            self._changed.wait()
            self._changed.clear()
            closing = self._closing  # read before sending: nothing is added after `close`
            self._send_all()
            if closing:
                return

    def _send_all(self) -> None:
        """Send until nothing is left; retry for as long as it takes."""
        pause = FIRST_PAUSE
        while True:
            try:
                sent = self._send_next()
            # Any error: the server is down, its disk is full, ... The training must continue.
            except Exception as exc:
                if pause == FIRST_PAUSE:
                    log.warning(
                        f"{self._shown_uri} takes no metrics ({first_line(exc)}); they are kept "
                        "and sent later"
                    )
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
                continue
            if pause > FIRST_PAUSE:
                log.info(f"{self._shown_uri} takes metrics again")
                pause = FIRST_PAUSE
            if not sent:
                return

    def _send_next(self) -> bool:
        """Send the next lines, or else the next file; False if there is neither."""
        lines = self._unsent_lines()
        if lines:
            self._send_metrics([MetricLine.from_json(line) for line in lines])
            self._offset += sum(map(len, lines))
            return True
        if self._files:
            path, folder = self._files[0]
            if path.exists():
                self._client.log_artifact(self._run_id, str(path), folder)
            self._files.popleft()
            return True
        return False

    def _unsent_lines(self) -> list[bytes]:
        """The next complete lines of the metrics file."""
        try:
            with self._metrics.open("rb") as file:
                file.seek(self._offset)
                lines = list(islice(file, LINES_PER_BATCH))
        except FileNotFoundError:
            return []
        # The last line may be incomplete: it is being written, or the disk is full.
        return [line for line in lines if line.endswith(b"\n")]

    def _send_metrics(self, lines: Sequence[MetricLine]) -> None:
        from mlflow.entities import Metric

        if self._arrived is None:
            history = self._client.get_metric_history(self._run_id, "loss")
            self._arrived = max((point.step for point in history), default=0)
        metrics = []
        for line in lines:
            if line.step > self._arrived:
                for name, value in line.values.items():
                    metrics.append(Metric(name, value, line.time, line.step))
        for start in range(0, len(metrics), METRICS_PER_REQUEST):
            self._client.log_batch(
                self._run_id, metrics=metrics[start : start + METRICS_PER_REQUEST]
            )
