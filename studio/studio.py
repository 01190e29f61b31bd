"""All that the page shows: videos, models, and the work in progress."""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.registry.names import CANDIDATE, CHAMPION
from corrfractal.video.entry_rules import VIDEO_SUFFIXES
from inference.config import InferenceConfig
from inference.load import COLOUR, STARTER, ModelSource, open_model, resolve_model
from inference.propagation.passes import Direction
from inference.protocols import Model

from .project import NOTE, Kind, Project
from .runner import Runner

UPLOADS = "uploads"
MAX_NAME = 120
"""Characters of the name of an uploaded file."""


@dataclass(frozen=True, kw_only=True)
class ChosenModel:
    """A model that was found: its name on the page, and the folder of its results."""

    name: str
    folder: str
    source: ModelSource


class Studio:
    """The state behind the page.

    Args:
        out: folder for everything that is written.
        model: name of the model to begin with, see ``inference.load.resolve_model``.
        config: of propagations.
        max_upload: bytes of a video that is uploaded.

    Raises:
        CallError, NotFoundError: there is no such model, or ``out`` cannot be a folder.
    """

    def __init__(
        self, out: Path, model: str | None, config: InferenceConfig, max_upload: int
    ) -> None:
        if out.exists() and not out.is_dir():
            raise CallError(f"{out} is no folder: name another --out")
        self.out = out
        self.config = config
        self.max_upload = max_upload
        self.videos: list[Path] = []
        self.runner = Runner()
        self.total = 0
        self.done = 0
        self.working: tuple[Project, Kind, str] | None = None
        """Project, kind and folder of the model of the latest propagation."""
        self.latest = -1
        """The frame that was propagated last."""
        self._projects: dict[int, Project] = {}
        self._models: dict[str, ChosenModel] = {}
        self._loaded: dict[str, Model] = {}
        self._lock = threading.Lock()
        self.model = self.choose(model)
        uploads = out / UPLOADS
        for path in sorted(uploads.iterdir()) if uploads.is_dir() else []:
            if path.suffix.lower() in VIDEO_SUFFIXES and not path.name.startswith("."):
                self.add(path)

    def add(self, video: Path) -> int:
        """Add a video to the page; returns its number.

        Raises:
            NotFoundError: it does not exist.
            CallError: results would overlap it.
        """
        if not video.exists():
            raise NotFoundError(f"no such video: {video}")
        known = [path.resolve() for path in self.videos]
        if video.resolve() in known:
            return known.index(video.resolve())
        if video.resolve().parent != (self.out / UPLOADS).resolve():
            refuse_overlap({"--out": self.out}, [video])
        self.videos.append(video)
        return len(self.videos) - 1

    def project(self, number: int) -> Project:
        """A video of the page, opened at its first use.

        Raises:
            IndexError: there is no such video.
            CorrFractalError: it cannot be opened.
        """
        with self._lock:
            if number not in self._projects:
                video = self.videos[number]
                project = Project(video, self._folder(video))
                project.before_change = lambda: self._stop_for(project)
                self._projects[number] = project
            return self._projects[number]

    def model_names(self) -> list[str]:
        """Names to offer: those that were chosen, what the registry calls best, colour alone."""
        return list(dict.fromkeys([*self._models, STARTER, CHAMPION, CANDIDATE, COLOUR]))

    def folders(self) -> set[str]:
        """Folders of the models that were chosen."""
        return {model.folder for model in self._models.values()}

    def choose(self, name: str | None) -> ChosenModel:
        """Find a model.

        Raises:
            CorrFractalError: there is none of this name.
        """
        source = resolve_model(name)
        chosen = ChosenModel(name=source.name, folder=_folder_name(source), source=source)
        self._models[chosen.name] = chosen
        return chosen

    def propagate(
        self,
        project: Project,
        kind: Kind,
        models: Sequence[ChosenModel],
        directions: tuple[Direction, ...],
    ) -> None:
        """Start a propagation with each model in turn; the one in progress ends.

        Raises:
            CallError: the marks or the video do not allow it.
        """
        self.runner.stop()
        jobs = [
            project.work(
                kind,
                model.folder,
                model.source,
                functools.partial(self._load, model.source),
                self.config,
                directions,
            )
            for model in models
        ]
        self.total = sum(total for _, _, total in jobs)
        self.done = 0
        self.latest = -1
        self.working = (project, kind, models[0].folder)
        reached = jobs[0][1]

        def work(advance: Callable[[int], None]) -> None:
            nonlocal reached
            for model, (run, advanced, _) in zip(models, jobs, strict=True):
                reached = advanced
                self.working = (project, kind, model.folder)
                self.runner.title = f"{project.video.name}, {model.name}"
                run(advance)

        def count(frames: int) -> None:
            self.done += frames
            self.latest = reached(frames)

        self.runner.start(f"{project.video.name}, {models[0].name}", work, count)

    def state(self) -> str:
        """The work in progress, or why the latest failed; otherwise empty."""
        runner = self.runner
        if runner.is_busy:
            state = "paused" if runner.is_paused else "propagating"
            return f"{runner.title}: {state}, {self.done} of {self.total} frames"
        return f"{runner.title}: {runner.error}" if runner.error else ""

    def upload_place(self, name: str) -> Path:
        """A new file for a video that is uploaded under a name.

        Raises:
            CallError: the name is no name of a video file.
        """
        plain = PurePosixPath(name.replace("\\", "/")).name
        suffix = PurePosixPath(plain).suffix.lower()
        if plain.startswith(".") or not plain.isprintable() or len(plain) > MAX_NAME:
            raise CallError("the name of the file cannot be used: rename it")
        if suffix not in VIDEO_SUFFIXES:
            raise CallError(f"{plain} has not the name of a video ({', '.join(VIDEO_SUFFIXES)})")
        folder = self.out / UPLOADS
        folder.mkdir(parents=True, exist_ok=True)
        stem = PurePosixPath(plain).stem
        names = [plain, *(f"{stem}-{number}{suffix}" for number in range(2, 1000))]
        for candidate in names:
            try:
                (folder / candidate).open("xb").close()
            except FileExistsError:
                continue
            return folder / candidate
        raise CallError(f"too many files are called {plain}")

    def _stop_for(self, project: Project) -> None:
        """End the propagation that reads the marks of a project."""
        if self.runner.is_busy and self.working is not None and self.working[0] is project:
            self.runner.stop()

    def _load(self, source: ModelSource) -> Model:
        if source.digest not in self._loaded:
            # Two: the page compares two.
            while len(self._loaded) > 1:
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[source.digest] = open_model(source)
        return self._loaded[source.digest]

    def _folder(self, video: Path) -> Path:
        """The folder of a video: of its name, with a number if another video, or files of another
        origin, have it."""
        taken = {project.folder for project in self._projects.values()}
        number = 1
        while True:
            name = video.stem if number == 1 else f"{video.stem}-{number}"
            folder = self.out / name
            if folder not in taken and name != UPLOADS and _is_free(folder, video):
                return folder
            number += 1


def _is_free(folder: Path, video: Path) -> bool:
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    try:
        stored = json.loads((folder / NOTE).read_bytes())["video"]
    except FileNotFoundError:
        return not any(folder.iterdir())
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return bool(stored == str(video.resolve()))


def _folder_name(source: ModelSource) -> str:
    """A folder for the results of a model."""
    if source.registered is not None:
        name = "-".join(source.registered)
    elif source.path is not None and source.name != STARTER:
        name = f"{source.path.stem}-{source.digest[:8]}"
    else:
        name = source.name
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "model"
