"""What reports show: strips of overlaid frames, subtraction images, tables of objects."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from corrfractal.common.report_page import Cell, Picture, Share, Table
from inference.metrics.jf import ObjectScore
from inference.prompts.mask_images import blend

U8 = npt.NDArray[np.uint8]

STRIP_WIDTH = 1560  # pixels: 1.5 times the width of the report's text, for sharp screens
GAP = 6
NEUTRAL = "#808890"  # readable on white and on black
EXTRA, MISSED, CONFUSED = (255, 140, 0), (60, 140, 255), (255, 60, 200)  # orange, blue, magenta


def object_table(objects: Sequence[ObjectScore]) -> Table:
    """A row per object with J, F, recall and decay, sorted by J&F."""
    rows = tuple(_row(score) for score in sorted(objects, key=_jf, reverse=True))
    header = (
        "object",
        "J&F %",
        "J %",
        "F %",
        "J recall %",
        "F recall %",
        "J decay",
        "F decay",
        "frames",
    )
    return Table(header=header, rows=rows)


def overlay_strip(
    rows: Sequence[Sequence[tuple[U8, U8]]], width: int = STRIP_WIDTH, opacity: float = 0.5
) -> Picture:
    """Frames with their masks laid over them, side by side, one row of pictures above the other.

    Args:
        rows: equally long rows of (frame, mask): uint8 (H, W, 3) RGB and uint8 (H, W).
        width: of the whole picture, in pixels.
    """
    each = (width - GAP * (len(rows[0]) - 1)) // len(rows[0])
    return picture_grid(
        [[tile(frame, mask, each, opacity) for frame, mask in row] for row in rows], width
    )


def subtraction(truth: U8, mask: U8) -> U8:
    """The paper's Fig. 6: prediction xor truth, uint8 (H, W) both, as a picture (H, W, 3): black
    where they agree.

    Where they differ: ``EXTRA`` where the prediction has an object and the truth none, ``MISSED``
    the other way, and ``CONFUSED`` where both have one, but not the same.
    """
    picture = np.zeros((*truth.shape, 3), dtype=np.uint8)
    differ = (truth ^ mask) > 0
    picture[differ] = CONFUSED
    picture[differ & (truth == 0)] = EXTRA
    picture[differ & (mask == 0)] = MISSED
    return picture


def picture_grid(rows: Sequence[Sequence[U8]], width: int = STRIP_WIDTH) -> Picture:
    """Equally large pictures, uint8 (H, W, 3) RGB, in rows and columns with a gap between."""
    each = (width - GAP * (len(rows[0]) - 1)) // len(rows[0])
    height = round(rows[0][0].shape[0] * each / rows[0][0].shape[1])
    canvas = np.full(
        (len(rows) * (height + GAP) - GAP, len(rows[0]) * (each + GAP) - GAP, 3),
        128,
        dtype=np.uint8,
    )
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top, left = y * (height + GAP), x * (each + GAP)
            small = cv2.resize(image, (each, height), interpolation=cv2.INTER_AREA)
            canvas[top : top + height, left : left + each] = small
    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    assert ok, "cv2.imencode refuses no uint8 image"
    return Picture(data=bytes(data))


def finish_plot(plot: Any, caption: str) -> Picture:
    """A matplotlib figure as a picture that can be read on a light and on a dark page."""
    for axes in plot.axes:
        axes.margins(x=0.01)
        axes.grid(color=NEUTRAL, alpha=0.25, lw=0.6)
        axes.tick_params(colors=NEUTRAL)
        axes.xaxis.label.set_color(NEUTRAL)
        for spine in axes.spines.values():
            spine.set_visible(False)
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, labelcolor=NEUTRAL)
    buffer = io.BytesIO()
    plot.savefig(buffer, format="png", transparent=True)
    return Picture(data=buffer.getvalue(), caption=caption)


def _row(score: ObjectScore) -> tuple[Cell, ...]:
    shares = (_jf(score), score.J.mean, score.F.mean, score.J.recall, score.F.recall)
    decays = (f"{100 * score.J.decay:+.1f}", f"{100 * score.F.decay:+.1f}")
    return (score.name, *(Share(value=share) for share in shares), *decays, len(score.j_frames))


def tile(frame: U8, mask: U8, width: int, opacity: float) -> U8:
    """A frame scaled to ``width`` with its mask laid over it; the mask is scaled first, so that
    rims stay thin."""
    height = round(frame.shape[0] * width / frame.shape[1])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    return blend(small, cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST), opacity)


def _jf(score: ObjectScore) -> float:
    return (score.J.mean + score.F.mean) / 2
