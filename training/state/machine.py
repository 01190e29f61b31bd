"""Who trains, on what: the attempts of a run, and what its machine does meanwhile."""

from __future__ import annotations

import json
import logging
import os
import socket
from datetime import UTC, datetime
from pathlib import Path

from corrfractal.registry.provenance import code_state

ATTEMPTS = "attempts.jsonl"


def note_attempt(out: Path, workers: tuple[int, int]) -> None:
    """Add a line to the run's folder: who continues it, with what code. The run gets the file
    when it ends.

    Args:
        workers: least and most.
    """
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "workers": workers,
    }
    with (out / ATTEMPTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps({**facts, **code_state()}) + "\n")


def talk_over(address: str) -> None:
    """Let gloo and nccl use the interface with this address, unless the environment names one: gloo
    looks up the host's name, and where that leads nowhere the workers of other hosts wait for one
    that listens on loopback."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if any(entry.address == address for entry in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)


class Machine:
    """What the machine of rank 0 does: processor, memory, disk, network, GPUs, as MLflow's own
    system metrics name it.

    MLflow's thread for them ends for good when the server does not answer once. Sampled with the
    run's other metrics they share those' step and delivery.
    """

    def __init__(self, run_id: str) -> None:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        # Says that there is no GPU
        logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
        self._monitors = SystemMetricsMonitor(run_id).monitors

    def sample(self) -> dict[str, float]:
        """Means or counts since the last call."""
        values: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            values.update(monitor.aggregate_metrics())
            monitor.clear_metrics()
        return {f"system/{name}": float(value) for name, value in values.items()}
