"""Parts that the tabs of the page share."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nicegui import events, ui

from corrfractal.common.errors import CorrFractalError

from .studio import ChosenModel, Studio

REFRESH_SECONDS = 0.3

T = TypeVar("T")
Handler = Callable[..., Awaitable[None]]


def notices(handler: Handler) -> Handler:
    """Show an error of the project, or of the disk, as a notice."""

    @functools.wraps(handler)
    async def handle(*args: Any) -> None:
        try:
            await handler(*args)
        except (CorrFractalError, OSError) as exc:
            notify(str(exc))

    return handle


def notify(text: str) -> None:
    """Show an error until it is closed."""
    ui.notify(text, type="negative", multi_line=True, timeout=0, close_button="Close")


async def in_thread(work: Callable[..., T], *args: Any) -> T:
    """The result of work that takes longer than a moment."""
    return await asyncio.to_thread(work, *args)


class ModelChoice:
    """A menu of models, which also takes a name that is typed.

    Args:
        studio: finds the models.
        label: of the menu.
        model: to begin with.
    """

    def __init__(self, studio: Studio, label: str, model: ChosenModel) -> None:
        self.model = model
        self._studio = studio
        self._select = ui.select(
            studio.model_names(),
            value=model.name,
            label=label,
            new_value_mode="add-unique",
            on_change=self._chosen,
        ).classes("w-full")
        self._select.tooltip("starter, champion, candidate, a version number, a file, a run")

    @notices
    async def _chosen(self, event: events.ValueChangeEventArguments[Any]) -> None:
        if event.value == self.model.name:
            return
        try:
            self.model = await in_thread(self._studio.choose, event.value)
        finally:
            self._select.set_options(self._studio.model_names(), value=self.model.name)
