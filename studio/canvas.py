"""The picture with its masks as an element of the page, and a slider over frames; ``canvas.js`` and
``slider.js`` are their other halves."""

from __future__ import annotations

from typing import Any

from nicegui import ui

from .project import Kind, Project
from .studio import ChosenModel

STYLE = """
.studio-canvas { width: 100%; user-select: none; }
.studio-view { position: relative; overflow: hidden; background: #111; border-radius: 6px;
  touch-action: none; cursor: crosshair; display: flex; justify-content: center; }
.studio-view.panning { cursor: grabbing; }
.studio-layers { position: relative; width: 100%; transform-origin: 0 0; }
.studio-layers img, .studio-layers svg { position: absolute; inset: 0; width: 100%; height: 100%;
  pointer-events: none; image-rendering: auto; }
.studio-problem { position: absolute; left: 8px; right: 8px; bottom: 8px; padding: 8px 12px;
  background: #b00020; color: #fff; border-radius: 4px; }
.studio-strip { position: relative; height: 18px; margin-top: 8px; border-radius: 4px;
  background: rgba(128, 128, 128, 0.25); cursor: pointer; touch-action: none; overflow: hidden; }
.studio-strip span { position: absolute; top: 0; bottom: 0; min-width: 3px; }
.studio-strip .ready { background: rgba(66, 165, 245, 0.65); min-width: 0; }
.studio-strip .mark { background: #ff9800; }
.studio-strip .here { border: 2px solid currentColor; box-sizing: border-box; min-width: 5px; }
.studio-bar { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; margin-top: 6px; }
.studio-bar button { min-width: 34px; height: 34px; border: 1px solid rgba(128, 128, 128, 0.4);
  border-radius: 4px; background: transparent; color: inherit; cursor: pointer; }
.studio-bar input { flex: 1 1 120px; min-width: 80px; accent-color: #1976d2; }
.studio-slider { accent-color: #1976d2; min-width: 80px; }
.studio-bar .count { font-variant-numeric: tabular-nums; font-size: 13px; min-width: 120px; }
"""


class _Element(ui.element):
    """An element whose state is in its properties."""

    def set(self, **props: Any) -> None:
        """Change properties; only changes are sent."""
        changed = {name: value for name, value in props.items() if self._props.get(name) != value}
        if changed:
            self._props.update(changed)
            self.update()


class FrameSlider(_Element, component="slider.js"):
    """A slider over the frames of a video, at 0 after ``set(video=..., frames=...)``. Its event
    ``seek`` has the frame."""

    def __init__(self) -> None:
        super().__init__()
        self.set(video=-1, frames=1)


class Canvas(_Element, component="canvas.js"):
    """Shows a frame with its masks, and tells what is drawn.

    Events: ``draw`` (a stroke with its frame), ``seek`` (``frame``), ``command`` (``name``,
    ``value``, ``frame``) for keys that concern the server.

    Args:
        drawable: whether the picture can be drawn on.
        keys: whether keys are for this picture.
        bar: whether it has its own strip and buttons; otherwise ``latest`` is the frame.
    """

    def __init__(self, *, drawable: bool, keys: bool, bar: bool = True) -> None:
        super().__init__()
        # Before `show`, an empty picture
        self.set(video=-1, frames=1, fps=1.0, width=16, height=9, marks=[], ready=[0, 0])
        self.set(latest=-1, version=0, model="", kind="objects", radius=8.0)
        self.set(color="#ffffff", opacity=0.55, drawable=drawable, keys=keys, bar=bar)

    def show(self, number: int, project: Project, model: ChosenModel, kind: Kind) -> None:
        """Show the present state of a video with the results of a model."""
        marks = project.marked_frames()
        if kind == "points":
            marks = [] if project.point_frame is None else [project.point_frame]
        self.set(
            video=number,
            frames=project.info.frames,
            fps=project.info.fps,
            width=project.info.width,
            height=project.info.height,
            marks=marks,
            ready=list(project.ready_range(kind, model.folder)),
            version=project.version,
            model=model.folder,
            kind=kind,
        )
