"""A machine on which Ray, MLflow, decord, faiss and numba are not installed, as far as Python can
see."""

from __future__ import annotations

import os
from pathlib import Path

ABSENT = ("ray", "mlflow", "decord", "faiss", "numba")

# Python imports this module at its start, in child processes too.
_SITECUSTOMIZE = f"""
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} on a bare machine")

sys.meta_path.insert(0, Absent())
"""


def bare_environment(folder: Path) -> dict[str, str]:
    """Environment of a process, and of its children, that can import none of ``ABSENT``.

    Args:
        folder: to write a module into.
    """
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITECUSTOMIZE)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "PYTEST", "MLFLOW"))
    }
    return kept | {"PYTHONPATH": str(folder)}
