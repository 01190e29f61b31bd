"""Reports are one file that needs nothing else."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal.common.errors import NotFoundError
from corrfractal.common.report_page import Section, Share, Table, write_report
from inference.benchmarks.base import AnyPicturedBenchmark
from inference.benchmarks.davis import Davis
from inference.benchmarks.jhmdb import Jhmdb
from inference.benchmarks.vip import Vip
from inference.benchmarks.youtubevos import YoutubeVos
from inference.config import InferenceConfig
from inference.load import open_model, resolve_model
from inference.reports.benchmark_report import benchmark_report
from inference.reports.davis_report import evaluation_report, read_evaluation, worst_frames
from inference.reports.pictures import (
    CONFUSED,
    EXTRA,
    MISSED,
    object_table,
    overlay_strip,
    subtraction,
)
from inference.reports.sections import ReportSettings


def test_a_report_fetches_nothing_and_escapes_what_it_is_given(
    tmp_path: Path, moving_frames: np.ndarray
) -> None:
    mask = np.ones((160, 192), dtype=np.uint8)
    sections = [
        Section(
            title="<b>A & B</b>",
            text="One.\n\nTwo.",
            pictures=(overlay_strip([[(moving_frames[0], mask)]]),),
        ),
        Section(
            title="Numbers",
            table=Table(header=("name", "share", "n"), rows=(("x", Share(value=0.5), 3),)),
        ),
    ]
    write_report(tmp_path / "report.html", "Title", sections)
    text = (tmp_path / "report.html").read_text()
    assert "://" not in text
    assert all(value.startswith("data:image/") for value in re.findall(r'src="([^"]*)"', text))
    assert "&lt;b&gt;A &amp; B&lt;/b&gt;" in text
    assert text.count("<p>") == 2
    assert "--value: 50.0" in text


def test_a_strip_holds_its_frames_side_by_side(moving_frames: np.ndarray) -> None:
    row = [(frame, np.zeros((160, 192), dtype=np.uint8)) for frame in moving_frames[:3]]
    picture = overlay_strip([row, row], width=612)
    image = cv2.imdecode(np.frombuffer(picture.data, dtype=np.uint8), cv2.IMREAD_COLOR)
    assert image.shape == (2 * 167 + 6, 612, 3)


def test_a_row_must_fit_its_header() -> None:
    with pytest.raises(ValueError, match="1 cells, the header 2"):
        Table(header=("a", "b"), rows=(("x",),))


@pytest.fixture
def evaluated(davis: Path, tmp_path: Path) -> Path:
    """The folder of an evaluation of copied masks, with the report."""
    source = resolve_model("baseline:copy")
    config = InferenceConfig()
    out = tmp_path / "evaluated"
    out.mkdir()
    model = open_model(source)
    results = [
        Davis(davis).evaluate(name, out, source, model, config) for name in ("moving", "still")
    ]
    settings = ReportSettings(config=config, model={"model": source.name}, digest="0" * 64)
    evaluation = Davis(davis).summarize(results, source, out)
    evaluation_report(
        out / "report.html", evaluation, Davis(davis), settings, baseline=read_evaluation(out)
    )
    return out


def test_the_report_of_davis_has_curves_and_pictures_best_sequence_first(evaluated: Path) -> None:
    text = (evaluated / "report.html").read_text()
    assert "://" not in text
    assert text.count("<img") == 4
    assert text.count("<polyline") == 2 * 2 * 2 * 2  # sequences, objects, measures, models
    assert text.index('id="still"') < text.index('id="moving"')
    assert ">+0.0</td>" in text  # the same evaluation set beside itself
    assert "0" * 64 in text
    evaluation = read_evaluation(evaluated)
    names = [row[0] for row in object_table(evaluation.objects).rows]
    assert names[:2] == ["still_1", "still_2"]
    moving = [o for o in evaluation.objects if o.sequence == "moving"]
    assert worst_frames(moving) == [5]
    with pytest.raises(NotFoundError, match="holds no finished evaluation"):
        read_evaluation(evaluated / "masks")


@pytest.mark.parametrize(
    ("kind", "folder", "expected"),
    [(Vip, "vip", "hair"), (YoutubeVos, "youtubevos", "overall"), (Jhmdb, "jhmdb", "PCK@0.1")],
)
def test_every_data_set_has_a_report_with_its_sequences_in_pictures(
    kind: Callable[[Path], AnyPicturedBenchmark],
    folder: str,
    expected: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    benchmark = kind(request.getfixturevalue(folder))
    source = resolve_model("baseline:copy")
    config = InferenceConfig()
    model = open_model(source)
    out = tmp_path / "evaluated"
    out.mkdir()
    results = [benchmark.evaluate(name, out, source, model, config) for name in benchmark.names()]
    summary = benchmark.summarize(results, source, out)
    settings = ReportSettings(config=config, model={"model": source.name})
    benchmark_report(out / "report.html", summary, results, benchmark, settings)
    text = (out / "report.html").read_text()
    assert "://" not in text
    assert expected in text
    assert text.count("<img") == len(results) == 1
    assert all(f'id="{result.name}"' in text for result in results)


def test_a_subtraction_image_is_the_xor_of_prediction_and_truth() -> None:
    truth = np.array([[0, 0, 1, 1, 1]], dtype=np.uint8)
    mask = np.array([[0, 2, 1, 0, 2]], dtype=np.uint8)
    assert [tuple(p) for p in subtraction(truth, mask)[0]] == [
        (0, 0, 0),
        EXTRA,
        (0, 0, 0),
        MISSED,
        CONFUSED,
    ]


@pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs Chromium, to lay the report out"
)
def test_a_browser_lays_the_report_out_without_a_network(evaluated: Path, tmp_path: Path) -> None:
    """Every picture is decoded, the page is no wider than its window, and nothing is asked of a
    network."""
    probe = (
        "<script>addEventListener('load', () => { const images = [...document.images];"
        "document.title = JSON.stringify({images: images.filter(i => i.naturalWidth > 0).length,"
        "wide: document.documentElement.scrollWidth > innerWidth, requests:"
        "performance.getEntriesByType('resource').filter(r => "
        "!r.name.startsWith('data:')).length}); });</script>"
    )
    page = tmp_path / "probe.html"
    page.write_text((evaluated / "report.html").read_text().replace("</body>", probe + "</body>"))
    flags = (
        "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking"
    )
    flags += " disable-component-update disable-sync dump-dom"
    command = [
        "chromium",
        *(f"--{flag}" for flag in flags.split()),
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=True, timeout=120
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    assert json.loads(title[1]) == {"images": 4, "wide": False, "requests": 0}
