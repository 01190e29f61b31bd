"""The dashboard asks for metrics that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_metric_of_the_dashboard_is_one_that_the_code_counts() -> None:
    dashboard = json.loads((ROOT / "cluster" / "monitoring" / "dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = set(re.findall(r"ray_(corrfractal_\w+)_total", " ".join(queries)))
    pipeline, training = ((ROOT / stage / "run.py").read_text() for stage in ("pipeline", "training"))
    counted = set(re.findall(r'Counter\("(corrfractal_\w+)"', pipeline))
    texts = training[training.index("texts = {") : training.index("counters = ")]
    counted |= {f"corrfractal_train_{name}" for name in re.findall(r'"([a-z_]+)": "', texts)}
    assert asked == counted
