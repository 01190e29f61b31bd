"""The tab that shows the masks of two models side by side."""

from __future__ import annotations

from nicegui import events, ui

from corrfractal.common.errors import CallError
from inference.load import COLOUR, STARTER
from inference.propagation.passes import BOTH

from .canvas import Canvas, FrameSlider
from .project import Project
from .studio import ChosenModel, Studio
from .widgets import REFRESH_SECONDS, ModelChoice, in_thread, notices


class Compare:
    """Two models on the video and the marks of the page.

    Args:
        studio: the state that all tabs of the browser share.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.number = -1
        self.project: Project | None = None
        self.frame = 0
        self._measured: tuple[object, ...] = ()
        self._share: float | None = None

    def build(self) -> None:
        """Place all elements, hidden."""
        first = self.studio.model
        second = self.studio.choose(COLOUR if first.name == STARTER else STARTER)
        self.choices: list[ModelChoice] = []
        self.canvases: list[Canvas] = []
        self.counts: list[ui.label] = []
        with ui.column().classes("w-full gap-3") as self.view:
            with ui.element("div").classes("grid w-full grid-cols-1 md:grid-cols-2 gap-4"):
                for label, model in (("Model A", first), ("Model B", second)):
                    with ui.column().classes("min-w-0 gap-2"):
                        self.choices.append(ModelChoice(self.studio, label, model))
                        self.canvases.append(Canvas(drawable=False, keys=False, bar=False))
                        self.counts.append(ui.label().classes("text-sm"))
            with ui.row().classes("w-full items-center no-wrap gap-4 px-2"):
                self.slider = FrameSlider().classes("grow")
                self.slider.on("seek", self._go)
                self.place = ui.label().classes("text-sm whitespace-nowrap")
            self.text = ui.label().classes("text-sm")
            self.button = ui.button(on_click=self._run).props("no-caps")
        self.view.set_visibility(False)
        ui.timer(REFRESH_SECONDS, self._refresh)

    def set_video(self, number: int, project: Project) -> None:
        """Compare on this video from now on."""
        self.number = number
        self.project = project
        self.slider.set(video=number, frames=project.info.frames)
        self._show_frame(0)

    def _go(self, event: events.GenericEventArguments) -> None:
        if self.project is not None:
            self._show_frame(max(0, min(self.project.info.frames - 1, int(event.args))))

    def _show_frame(self, frame: int) -> None:
        self.frame = frame
        for canvas in self.canvases:
            canvas.set(latest=frame)

    def _missing(self, project: Project) -> list[ChosenModel]:
        """The models without a mask on every frame."""
        models = dict.fromkeys(choice.model for choice in self.choices)
        return [m for m in models if project.ready(m.folder) != (0, project.info.frames)]

    @notices
    async def _run(self) -> None:
        if self.studio.runner.is_busy:
            await in_thread(self.studio.runner.stop)
            return
        if self.project is None:
            raise CallError("choose a video on the tab Mark first")
        missing = self._missing(self.project)
        await in_thread(self.studio.propagate, self.project, "objects", missing, BOTH)

    @notices
    async def _refresh(self) -> None:
        """Show the present state."""
        project, studio = self.project, self.studio
        if not self.view.visible:
            return
        busy = studio.runner.is_busy
        self.button.set_text("Stop" if busy else "Propagate what is missing")
        if project is None:
            self.text.set_text("Choose or drop a video on the tab Mark to begin.")
            return
        self.button.set_enabled(busy or bool(self._missing(project)))
        frame = self.frame
        models = [choice.model for choice in self.choices]
        for model, canvas, count in zip(models, self.canvases, self.counts, strict=True):
            canvas.show(self.number, project, model, "objects")
            first, end = project.ready(model.folder)
            count.set_text(f"{end - first} of {project.info.frames} frames have masks")
        self.place.set_text(f"{frame} / {project.info.frames - 1}")

        # Both masks are read: only if something changed, and not on the thread of the server
        state = (self.number, frame, project.version, *models)
        if state != self._measured:
            folders = [model.folder for model in models]
            self._share = await in_thread(project.difference, frame, *folders)
            self._measured = state
        self.text.set_text(f"Frame {frame}: {self._difference()}. {studio.state()}")

    def _difference(self) -> str:
        if self._share is None:
            return "a mask is missing"
        return f"the masks differ in {100 * self._share:.2f} % of the pixels"
