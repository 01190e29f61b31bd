"""The page: what is on it, and what happens when it is used.

Each browser tab has a ``Page``; all share the ``Studio``. Work that takes more than a moment runs
in a thread; errors become notices.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from nicegui import events, ui

from corrfractal.common.errors import CallError
from inference.propagation.passes import BOTH, Direction

from .canvas import STYLE, Canvas
from .compare import Compare
from .guard import UPLOAD
from .project import Item, Kind, Project, Stroke
from .studio import Studio
from .widgets import REFRESH_SECONDS, ModelChoice, in_thread, notices, notify

MARK, COMPARE = "Mark", "Compare"

TOOLS = {
    "brush": ("brush", "Brush (B)"),
    "eraser": ("auto_fix_normal", "Eraser (E)"),
    "polygon": ("polyline", "Polygon (P): click the corners; Enter or a double click closes it"),
    "box": ("crop_square", "Box (X): everything inside is the object"),
    "point": ("radio_button_checked", "Point (K): a small disk"),
}

DIRECTIONS: dict[str, tuple[Direction, ...]] = {
    "both ways": BOTH,
    "forward": ("forward",),
    "backward": ("backward",),
}

KEYS = """
| key | does |
|---|---|
| B, E, P, X, K | brush, eraser, polygon, box, point |
| 1 to 9, N | choose an object or key point; a new one |
| [ and ] | smaller, larger brush |
| Enter | close the polygon; otherwise propagate, pause, continue |
| Esc | drop the polygon |
| Ctrl+Z, Ctrl+Shift+Z | undo, redo on this frame |
| Delete | remove the marks of this frame |
| Left, Right; with Shift | one frame; ten frames |
| Home, End; Page Up, Page Down | first, last frame; previous, next marked frame |
| Space | play |
| F, H | follow the propagation; hide masks |
| + and -, wheel, 0 | zoom; the whole picture |
| Shift+drag, right or middle button | move the picture |
| ? | this list |
"""


def build_page(studio: Studio) -> None:
    """Register the page at ``/``."""

    @ui.page("/")
    async def page() -> None:
        await Page(studio).build()


class Page:
    """One browser tab.

    Args:
        studio: the state that all tabs share.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio
        self.number = -1
        self.project: Project | None = None
        self.compare = Compare(studio)
        self.kind: Kind = "objects"
        self.item = 1

    async def build(self) -> None:
        """Place all elements."""
        ui.add_css(STYLE)
        self.dark = ui.dark_mode(None)
        with ui.dialog() as self.help, ui.card():
            ui.markdown(KEYS)
            ui.button("Close", on_click=self.help.close).props("flat")
        with ui.header().classes("items-center no-wrap gap-2 py-1 px-3"):
            ui.label("CorrFractal studio").classes("text-lg font-medium truncate min-w-0")
            with ui.tabs().props("dense no-caps") as self.tabs:
                ui.tab(MARK)
                ui.tab(COMPARE)
            self.tabs.set_value(MARK)
            self.tabs.on_value_change(self._tab_chosen)
            ui.space()
            _icon_button("contrast", "Light or dark", self._switch_dark).props("color=white")
            _icon_button("keyboard", "Keys (?)", self.help.open).props("color=white")
        with ui.row().classes("w-full gap-4 items-start") as self.mark_view:
            with ui.column().classes("grow-[3] basis-[560px] min-w-0 gap-2"):
                self.canvas = Canvas(drawable=True, keys=True)
                self.canvas.on("draw", self._draw)
                self.canvas.on("command", self._command)
                self.status = ui.label().classes("text-sm")
                self.bar = ui.linear_progress(0, show_value=False, size="6px")
            with ui.column().classes("grow basis-[280px] max-w-full gap-3"):
                self._build_video()
                self._build_marks()
                self._build_run()
                self._build_downloads()
        self.compare.build()
        ui.timer(REFRESH_SECONDS, self._refresh)
        if self.studio.videos:
            self.videos.set_value(0)

    # What is on the page

    def _build_video(self) -> None:
        self.videos = ui.select({}, label="Video", on_change=self._video_chosen).classes("w-full")
        self._list_videos()
        # The name goes in a header, which a page of another origin could not send.
        name = "files => [{name: 'X-Name', value: encodeURIComponent(files[0].name)}]"
        upload = ui.upload(label="Drop a video here, or choose one", auto_upload=True)
        upload.props(f'url={UPLOAD} method=PUT send-raw flat bordered :headers="{name}"')
        upload.classes("w-full")
        upload.on("uploaded", self._uploaded, js_handler="e => emit(e.xhr.responseText)")
        upload.on("failed", self._upload_failed, js_handler="e => emit(e.xhr.responseText)")
        self.upload = upload

    def _build_marks(self) -> None:
        with ui.card().classes("w-full gap-2"):
            kinds = {"objects": "Objects", "points": "Key points"}
            toggle = ui.toggle(kinds, value="objects", on_change=self._kind_chosen)
            toggle.props("dense no-caps unelevated")
            with ui.row().classes("gap-1 items-center") as self.tool_row:
                self.tool_buttons = {
                    tool: _icon_button(icon, tool, functools.partial(self._use_tool, tool), hint)
                    for tool, (icon, hint) in TOOLS.items()
                }
            with ui.row().classes("w-full items-center no-wrap gap-3") as self.radius_row:
                ui.label("Brush").classes("text-sm")
                self.radius = ui.slider(min=1, max=200, value=12, on_change=self._show_brush)
                self.radius.classes("grow").props('aria-label="Radius of the brush in pixels"')
                ui.label().classes("text-sm whitespace-nowrap").bind_text_from(
                    self.radius, "value", lambda value: f"{value:g} px"
                )
            self._items()
            with ui.row().classes("gap-1"):
                ui.button("New", icon="add", on_click=self._new).props("dense no-caps flat")
                ui.button("Undo", icon="undo", on_click=self._undo).props("dense no-caps flat")
                ui.button("Clear frame", icon="layers_clear", on_click=self._clear).props(
                    "dense no-caps flat"
                )
        self._show_used("brush")

    @ui.refreshable_method
    def _items(self) -> None:
        """The objects or key points, one a line."""
        for item in self.project.items[self.kind] if self.project else []:
            with ui.row().classes("w-full items-center no-wrap gap-2"):
                choose = ui.button(str(item.id), on_click=functools.partial(self._choose, item.id))
                outline = "" if item.id == self.item else "outline"
                choose.props(f'dense {outline} padding="2px 9px" aria-label="choose {item.id}"')
                with ui.element("label").classes("shrink-0"):
                    color = ui.element("input").props(f'type=color aria-label="colour {item.id}"')
                    color.props(f"value={item.color}").classes("w-8 h-8 cursor-pointer")
                    color.on(
                        "change",
                        functools.partial(self._color, item),
                        js_handler="e => emit(e.target.value)",
                    )
                name = ui.input(value=item.name).props(f'dense aria-label="name {item.id}"')
                name.classes("grow min-w-0").on_value_change(functools.partial(self._name, item))
                name.props("debounce=400 maxlength=60")
                _icon_button("delete", f"remove {item.id}", functools.partial(self._remove, item))

    def _build_run(self) -> None:
        with ui.card().classes("w-full gap-2"):
            self.choice = ModelChoice(self.studio, "Model", self.studio.model)
            self.directions = ui.select(list(DIRECTIONS), value="both ways", label="Direction")
            self.directions.classes("w-full")
            with ui.row().classes("gap-2"):
                self.run_button = ui.button("Propagate", icon="play_arrow", on_click=self._run)
                self.run_button.props("no-caps")
                self.stop_button = ui.button("Stop", icon="stop", on_click=self._stop)
                self.stop_button.props("no-caps flat")

    def _build_downloads(self) -> None:
        with ui.card().classes("w-full gap-1"):
            ui.label("Download").classes("text-sm font-medium")
            with ui.row().classes("gap-1"):
                for label, what in (
                    ("Masks", "masks.zip"),
                    ("Marks", "marks.zip"),
                    ("Overlay", "overlay.mp4"),
                    ("Cut-out", "cutout.webm"),
                    ("Key points", "points.csv"),
                ):
                    ui.button(
                        label, icon="download", on_click=functools.partial(self._download, what)
                    ).props("dense no-caps flat")

    # Videos and models

    def _list_videos(self) -> None:
        self.videos.set_options({i: path.name for i, path in enumerate(self.studio.videos)})

    @notices
    async def _video_chosen(self, event: events.ValueChangeEventArguments[Any]) -> None:
        if event.value is None or event.value == self.number:
            return
        self.status.set_text("opening the video ...")
        # Of a long file without an index, every frame is read.
        project = await in_thread(self.studio.project, event.value)
        self.project = project
        self.number = event.value
        self.compare.set_video(self.number, project)
        if not project.items["objects"]:
            project.add("objects", save=False)
        self.radius.set_value(max(2, round(min(project.size) / 40)))
        self.item = 1
        self._items.refresh()
        self._show_brush()
        self._refresh()

    async def _uploaded(self, event: events.GenericEventArguments) -> None:
        self.upload.reset()
        self._list_videos()
        self.videos.set_value(int(event.args))

    async def _upload_failed(self, event: events.GenericEventArguments) -> None:
        self.upload.reset()
        notify(f"the video was not accepted: {event.args or 'the connection ended'}")

    # Marks

    def _kind_chosen(self, event: events.ValueChangeEventArguments[Any]) -> None:
        self.kind = event.value
        for row in (self.tool_row, self.radius_row):
            row.set_visibility(self.kind == "objects")
        self.item = 1
        if self.project is not None and not self.project.items[self.kind]:
            self.project.add(self.kind, save=False)
        self._items.refresh()
        self._show_brush()
        self._refresh()

    def _use_tool(self, tool: str) -> None:
        self.canvas.run_method("use", tool)
        self._show_used(tool)

    def _show_used(self, tool: str) -> None:
        for name, button in self.tool_buttons.items():
            button.props(remove="flat") if name == tool else button.props("flat")
        self.radius_row.set_visibility(tool in ("brush", "eraser"))

    def _show_brush(self) -> None:
        item = self._chosen_item()
        color = "#ffffff" if item is None else item.color
        self.canvas.set(radius=self.radius.value, color=color)

    def _chosen_item(self) -> Item | None:
        items = self.project.items[self.kind] if self.project else []
        return next((item for item in items if item.id == self.item), None)

    def _choose(self, number: int) -> None:
        self.item = number
        self._items.refresh()
        self._show_brush()

    @notices
    async def _new(self) -> None:
        if self.project is not None:
            self._choose(self.project.add(self.kind).id)

    def _name(self, item: Item, event: events.ValueChangeEventArguments[Any]) -> None:
        if self.project is not None and event.value.strip():
            item.name = event.value.strip()
            self.project.save()

    def _color(self, item: Item, event: events.GenericEventArguments) -> None:
        if self.project is not None:
            self.project.set_color(item, str(event.args))
            self._show_brush()

    @notices
    async def _remove(self, item: Item) -> None:
        if self.project is not None:
            await in_thread(self.project.remove, self.kind, item.id)
            self._items.refresh()
            self._refresh()

    @notices
    async def _draw(self, event: events.GenericEventArguments) -> None:
        project, drawn = self.project, event.args
        item = self._chosen_item()
        if project is None:
            return
        project.version += 1  # whatever comes of it, the picture drops the preview of the stroke
        if item is None:
            raise CallError("choose an object first, or add one")
        if self.kind == "points":
            x, y = drawn["path"][0]
            await in_thread(project.place, drawn["frame"], item.id, x, y, self.choice.model.folder)
        else:
            stroke = Stroke(
                tool=drawn["tool"],
                path=tuple((float(x), float(y)) for x, y in drawn["path"]),
                radius=float(drawn["radius"]),
            )
            await in_thread(project.draw, drawn["frame"], item.id, stroke, self.choice.model.folder)
        self._refresh()

    async def _undo(self) -> None:
        await self.canvas.run_method("tell", "undo")

    async def _clear(self) -> None:
        await self.canvas.run_method("tell", "clear")

    @notices
    async def _command(self, event: events.GenericEventArguments) -> None:
        """What a key asks for."""
        name, value, frame = (event.args[key] for key in ("name", "value", "frame"))
        project = self.project
        if name == "help":
            self.help.open()
        elif name == "tool":
            self._show_used(value)
        elif name == "radius":
            self.radius.set_value(max(1, min(200, round(self.radius.value * 1.2**value) + value)))
        elif name == "run":
            await self._run()
        elif project is not None and name == "item":
            self._choose(value)
        elif name == "new":
            await self._new()
        elif project is not None and self.kind == "objects":
            if name == "clear":
                await in_thread(project.clear, frame)
            else:
                await in_thread(functools.partial(project.undo, frame, redo=name == "redo"))
            self._refresh()

    # Propagation

    @notices
    async def _run(self) -> None:
        runner = self.studio.runner
        if self.project is None:
            raise CallError("choose a video first")
        if self._is_mine() and runner.is_paused:
            runner.go_on()
        elif self._is_mine() and runner.is_busy:
            runner.pause()
        else:
            self.canvas.run_method("startFollowing")
            directions = DIRECTIONS[self.directions.value]
            models = [self.choice.model]
            await in_thread(self.studio.propagate, self.project, self.kind, models, directions)
        self._refresh()

    async def _stop(self) -> None:
        await in_thread(self.studio.runner.stop)
        self._refresh()

    def _is_mine(self) -> bool:
        return self.studio.working == (self.project, self.kind, self.choice.model.folder)

    @notices
    async def _download(self, what: str) -> None:
        project = self.project
        if project is None:
            raise CallError("choose a video first")
        if what in ("overlay.mp4", "cutout.webm"):
            if self.studio.runner.is_busy:
                raise CallError("wait for the propagation to end, or stop it")
            self.status.set_text(f"writing {what} ...")
            opacity = self.studio.config.opacity
            await in_thread(project.draw_video, self.choice.model.folder, what, opacity)
            self._refresh()
        ui.download.from_url(f"/download/{self.number}/{self.choice.model.folder}/{what}")

    # What changes by itself

    def _refresh(self) -> None:
        """Show the present state."""
        runner, studio = self.studio.runner, self.studio
        if len(self.videos.options) != len(studio.videos):
            self._list_videos()
        busy = runner.is_busy
        mine = self._is_mine()
        label, icon = "Propagate", "play_arrow"
        if mine and busy:
            label, icon = ("Continue", "play_arrow") if runner.is_paused else ("Pause", "pause")
        self.run_button.set_text(label)
        self.run_button.set_icon(icon)
        self.stop_button.set_enabled(busy)
        self.bar.set_value(studio.done / studio.total if studio.total else 0)
        self.bar.set_visibility(busy)
        if self.project is None:
            self.status.set_text("Choose or drop a video to begin.")
            return
        if self.tabs.value != MARK:
            return  # nobody sees the picture
        self.canvas.show(self.number, self.project, self.choice.model, self.kind)
        self.canvas.set(latest=studio.latest if mine and busy else -1)
        self.status.set_text(self._state())

    def _state(self) -> str:
        """One line about the video and the work."""
        assert self.project is not None
        if state := self.studio.state():
            return state
        info = self.project.info
        first, end = self.project.ready_range(self.kind, self.choice.model.folder)
        masks = (
            f"{end - first} frames have results of {self.choice.model.name}"
            if end > first
            else ("mark an object on any frame, then propagate")
        )
        size = f"{info.width} x {info.height}, {info.frames} frames"
        return f"{size}, {info.fps:.2f} per second; {masks}"

    def _tab_chosen(self, event: events.ValueChangeEventArguments[Any]) -> None:
        marking = event.value == MARK
        self.mark_view.set_visibility(marking)
        self.compare.view.set_visibility(not marking)
        self.canvas.set(keys=marking)

    def _switch_dark(self) -> None:
        self.dark.set_value(not self.dark.value)


def _icon_button(
    icon: str, label: str, on_click: Callable[..., Any], hint: str | None = None
) -> ui.button:
    button = ui.button(icon=icon, on_click=on_click)
    button.props(f'flat dense aria-label="{label}"').tooltip(hint or label)
    return button
