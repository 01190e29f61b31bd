"""The dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path

from training.meter import StepTime
from training.ray_backend import STEP_COUNTERS

ROOT = Path(__file__).parents[2]


def test_every_metric_of_the_dashboard_is_one_that_the_code_counts() -> None:
    dashboard = json.loads(
        (ROOT / "cluster" / "deploy" / "monitoring" / "dashboard.json").read_text()
    )
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    queried = set(re.findall(r"ray_(corrfractal_\w+)_total", " ".join(queries)))
    source = (ROOT / "pipeline" / "store" / "execute.py").read_text()
    counted = set(re.findall(r'Counter\(\s*"(corrfractal_\w+)"', source))
    counted |= {f"corrfractal_train_{name}" for name in STEP_COUNTERS}
    assert {"steps", *(field.name for field in fields(StepTime))} == set(STEP_COUNTERS)
    assert queried == counted
