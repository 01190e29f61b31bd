"""The file that MLflow runs to serve a registered model stands on its own."""

from __future__ import annotations

import ast
import sys

from inference import SERVING_FILE


def test_serving_imports_nothing_of_this_repository_but_corrfractal() -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(SERVING_FILE.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import has no package there"
            assert node.module is not None
            imported.add(node.module.partition(".")[0])
    assert "corrfractal" in imported
    third_parties = {"PIL", "mlflow", "numpy", "pandas"}
    assert imported - sys.stdlib_module_names <= {"corrfractal"} | third_parties
