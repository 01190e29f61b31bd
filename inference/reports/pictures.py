"""Pictures of reports: strips of frames with their masks, subtraction images, tables of objects."""

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
STRIP_FRAMES = 5
GAP = 6
NEUTRAL = "#808890"  # readable on white and on black
EXTRA, MISSED, CONFUSED = (255, 140, 0), (60, 140, 255), (255, 60, 200)  # orange, blue, magenta


def object_table(objects: Sequence[ObjectScore]) -> Table:
    """A row per object with J, F, recall and decay, sorted by J&F."""
    best_first = sorted(objects, key=lambda score: score.JF, reverse=True)
    shares = ("J&F %", "J %", "F %", "J recall %", "F recall %")
    header = ("object", *shares, "J decay", "F decay", "frames")
    return Table(header=header, rows=tuple(_row(score) for score in best_first))


def overlay_strip(
    rows: Sequence[Sequence[tuple[U8, U8]]], width: int = STRIP_WIDTH, opacity: float = 0.5
) -> Picture:
    """Frames tinted by their masks, side by side, in rows.

    Args:
        rows: equally long rows of (frame, mask): uint8 (H, W, 3) RGB and uint8 (H, W).
        width: of the whole picture, in pixels.
    """
    each = (width - GAP * (len(rows[0]) - 1)) // len(rows[0])
    tiles = [[tile(frame, mask, each, opacity) for frame, mask in row] for row in rows]
    return picture_grid(tiles, width)


def mask_strip(
    shown: Sequence[tuple[U8, U8, U8 | None]], names: Sequence[str], opacity: float
) -> Picture:
    """Frames with their predicted masks, above the same frames with their annotations if all have
    one.

    Args:
        shown: frame, prediction and annotation of some frames.
        names: of these frames.
        opacity: of the masks.
    """
    rows = [[(frame, mask) for frame, mask, _ in shown]]
    which = "Predicted"
    if all(truth is not None for *_, truth in shown):
        rows.append([(frame, truth) for frame, _, truth in shown if truth is not None])
        which = "Predicted (above) and annotated (below)"
    return Picture(
        data=overlay_strip(rows, opacity=opacity).data,
        caption=f"{which}, frames {', '.join(names)}.",
    )


def skip_first(count: int) -> range:
    """Indices of all frames after the first, which is given; of the first if there is no other."""
    return range(min(1, count - 1), count)


def sample_evenly(indices: Sequence[int]) -> list[int]:
    """At most ``STRIP_FRAMES`` of some indices, evenly spaced, including the ends."""
    positions = np.linspace(0, len(indices) - 1, STRIP_FRAMES).round()
    return sorted({indices[int(position)] for position in positions})


def subtraction(truth: U8, mask: U8) -> U8:
    """Prediction xor truth as a picture (paper, Fig. 6).

    Args:
        truth, mask: uint8 (H, W) object ids.

    Returns:
        uint8 (H, W, 3) RGB: black where they agree, ``EXTRA`` where only the prediction has an
        object, ``MISSED`` where only the truth has one, ``CONFUSED`` where they have different
        objects.
    """
    picture = np.zeros((*truth.shape, 3), dtype=np.uint8)
    differ = (truth ^ mask) > 0
    picture[differ] = CONFUSED
    picture[differ & (truth == 0)] = EXTRA
    picture[differ & (mask == 0)] = MISSED
    return picture


def picture_grid(rows: Sequence[Sequence[U8]], width: int = STRIP_WIDTH) -> Picture:
    """Pictures of one size, uint8 (H, W, 3) RGB, in rows and columns with gaps, as a JPEG file."""
    columns = len(rows[0])
    each = (width - GAP * (columns - 1)) // columns
    height = round(rows[0][0].shape[0] * each / rows[0][0].shape[1])

    canvas_size = (len(rows) * (height + GAP) - GAP, columns * (each + GAP) - GAP, 3)
    canvas = np.full(canvas_size, 128, dtype=np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            top = y * (height + GAP)
            left = x * (each + GAP)
            small = cv2.resize(image, (each, height), interpolation=cv2.INTER_AREA)
            canvas[top : top + height, left : left + each] = small

    ok, data = cv2.imencode(
        ".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    assert ok, "cv2.imencode refuses no uint8 image"
    return Picture(data=bytes(data))


def finish_plot(plot: Any, caption: str) -> Picture:
    """A matplotlib figure as a picture that is readable on a light and on a dark page."""
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


def tile(frame: U8, mask: U8, width: int, opacity: float) -> U8:
    """A frame scaled to ``width`` and tinted by its mask."""
    height = round(frame.shape[0] * width / frame.shape[1])
    small_frame = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA)
    # Scaled before blending: outlines drawn at full size would become too thin to see.
    small_mask = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
    return blend(small_frame, small_mask, opacity)


def _row(score: ObjectScore) -> tuple[Cell, ...]:
    shares = (score.JF, score.J.mean, score.F.mean, score.J.recall, score.F.recall)
    decays = (f"{100 * score.J.decay:+.1f}", f"{100 * score.F.decay:+.1f}")
    return (score.name, *(Share(value=share) for share in shares), *decays, len(score.j_frames))
