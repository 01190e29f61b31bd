"""Reports are one file that needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from inference.config import InferenceConfig
from inference.evaluation import Davis
from inference.load import open_model, resolve_model
from inference.pictures import evaluation_report, object_table, overlay_strip
from inference.report import Section, Share, Table, write_report


def test_a_report_fetches_nothing_and_escapes_what_it_is_given(tmp_path: Path, moving_frames: np.ndarray) -> None:
    mask = np.ones((160, 192), dtype=np.uint8)
    sections = [
        Section(title="<b>A & B</b>", text="One.\n\nTwo.", pictures=(overlay_strip([[(moving_frames[0], mask)]]),)),
        Section(title="Numbers", table=Table(header=("name", "share", "n"), rows=(("x", Share(value=0.5), 3),))),
    ]
    write_report(tmp_path / "report.html", "Title", sections)
    text = (tmp_path / "report.html").read_text()
    assert "http" not in text
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


def test_an_evaluation_is_told_in_pictures_best_object_first(davis: Path, tmp_path: Path) -> None:
    source = resolve_model("baseline:copy")
    config = InferenceConfig()
    model = open_model(source)
    results = [Davis(davis).evaluate(name, tmp_path, source, model, config) for name in ("moving", "still")]
    evaluation = Davis(davis).summarize(results, source, tmp_path)
    evaluation_report(tmp_path / "report.html", evaluation, davis, tmp_path / "masks")
    text = (tmp_path / "report.html").read_text()
    assert "http" not in text
    assert text.count("<img") == 4
    assert text.index("<h2>still</h2>") < text.index("<h2>moving</h2>")
    names = [row[0] for row in object_table(evaluation.objects).rows]
    assert names[:2] == ["still_1", "still_2"]
