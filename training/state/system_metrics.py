"""Load of the machine on which rank 0 runs: processor, memory, disk, network and GPUs."""

from __future__ import annotations

PREFIX = "system/"
"""Of the names of these metrics, as MLflow's own system metrics have it."""


class SystemMetrics:
    """Samples MLflow's monitors together with the metrics of the run.

    MLflow's own sampling thread is not used: it ends at the first request that the server does not
    answer. Sampled here, the values have the step of the other metrics and are sent with them.
    """

    def __init__(self, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        self._monitors = SystemMetricsMonitor(run_id).monitors

    def sample(self) -> dict[str, float]:
        """Means or counts since the last call, by name with ``PREFIX``."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update(monitor.aggregate_metrics())
            monitor.clear_metrics()
        return {f"{PREFIX}{name}": float(value) for name, value in values.items()}
