"""Nothing of the folder where a command is given is imported, in no process of ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = str(Path(sys.executable).parent / "corrfractal")
ROOT = Path(__file__).parents[2]

# Of Python, of the libraries, of our own layers; and what Python and pytest import without being
# asked. Not importlib,
# nor corrfractal: `python -m corrfractal` takes these from the working folder before a line of ours
#     can run.
MODULES = ("statistics", "random", "json", "typing", "re", "socket", "selectors")
MODULES += ("numpy", "cv2", "torch", "click", "ray", "mlflow", "numba", "PIL", "av")
MODULES += ("pipeline", "inference", "cluster", "sitecustomize", "usercustomize", "conftest")
PACKAGES = ("training", "multiprocessing")

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder of modules and packages that leave a mark when they are imported, and then raise."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in MODULES:
        (folder / f"{name}.py").write_text(_trap(tmp_path, name))
    for name in PACKAGES:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(_trap(tmp_path, name))
    return folder


@pytest.fixture
def run(hostile: Path) -> Run:
    """Run a line in the hostile folder; it must succeed and import nothing of that folder."""

    def call(*line: str, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PYTHON", "PYTEST", "MLFLOW"))
        }
        done = subprocess.run(
            line, cwd=hostile, env=clean | variables, capture_output=True, text=True, timeout=120
        )
        assert not (hostile.parent / "imported").exists(), (hostile.parent / "imported").read_text()
        assert done.returncode == 0, done.stderr
        return done

    return call


def _trap(folder: Path, name: str) -> str:
    mark = folder / "imported"
    return f"open({str(mark)!r}, 'a').write({name!r} + ' ')\nraise RuntimeError('the module of the user ran')\n"


def test_precompute_and_its_ray_workers_import_nothing_of_the_working_folder(
    run: Run, tiny_video: Path
) -> None:
    done = run(
        COMMAND, "precompute", str(tiny_video), "--out", "shards", "--workers", "1", "--json"
    )
    assert json.loads(done.stdout)["sampled"] == 1


@pytest.mark.parametrize(
    "line",
    [[COMMAND, "plan"], [sys.executable, "-m", "corrfractal", "plan"]],
    ids=["script", "module"],
)
def test_the_command_itself_imports_nothing_of_the_working_folder(
    run: Run, tiny_video: Path, line: list[str]
) -> None:
    assert "clips" in run(*line, str(tiny_video)).stdout


def test_the_doctor_imports_nothing_of_the_working_folder(run: Run) -> None:
    assert json.loads(run(sys.executable, "-m", "corrfractal", "doctor", "--json").stdout)[
        "findings"
    ]


@pytest.mark.parametrize(
    "entries", ["", ".", "{elsewhere}:", ":{elsewhere}", "{here}", "./", "lib"]
)
def test_an_entry_of_pythonpath_that_means_the_working_folder_is_dropped_for_this_process_and_its_children(
    hostile: Path, tmp_path: Path, entries: str
) -> None:
    for module in ("sitecustomize", "usercustomize", "typing", "re", "json"):
        (hostile / f"{module}.py").unlink()  # what Python imports before a line of ours can run
    (hostile / "lib").mkdir()
    given = entries.format(here=hostile, elsewhere=tmp_path)
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); from corrfractal.runtime import search_path\n"
        "import os, subprocess\n"
        "print(os.environ.get('PYTHONPATH', ''), os.getcwd() in sys.path, sys.path[0])\n"
        "print(subprocess.check_output([sys.executable, '-c', 'import statistics; print(1)'], "
        "text=True))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=hostile,
        env={"PYTHONPATH": given},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kept = str(tmp_path) if "elsewhere" in entries else ""
    assert done.stdout.splitlines()[0] == f"{kept} False {ROOT}"
    assert not (tmp_path / "imported").exists()


def test_loader_processes_import_nothing_of_the_working_folder(run: Run) -> None:
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); import corrfractal.runtime.search_path, "
        "multiprocessing\n"
        "child = multiprocessing.get_context('forkserver').Process(target=print, args=('ran',))\n"
        "child.start(); child.join(); sys.exit(child.exitcode)"
    )
    assert run(sys.executable, "-P", "-c", code).stdout == "ran\n"


def test_a_program_that_uses_the_library_keeps_its_search_path(tmp_path: Path) -> None:
    (tmp_path / "statistics.py").write_text("mean = 'mine'\n")
    code = f"import sys; sys.path.append({str(ROOT)!r}); import corrfractal, statistics; print(statistics.mean)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={}, capture_output=True, text=True
    )
    assert done.stdout == "mine\n", done.stderr


def test_ray_is_started_in_one_place_which_gives_workers_their_search_path() -> None:
    layers = ("corrfractal", "pipeline", "training", "inference", "cluster")
    files = [path for layer in layers for path in (ROOT / layer).rglob("*.py")]
    assert [path.name for path in files if "ray.init(" in path.read_text(encoding="utf-8")] == [
        "ray_session.py"
    ]
