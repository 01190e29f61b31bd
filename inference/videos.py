"""Many videos at once: which there are, where their masks are, and where their results go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from corrfractal.common import storage
from corrfractal.common.console import say
from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.video.discovery import Entry, discover, ignored_summary, is_frame_folder, is_list
from inference.prompts.shapes import Prompts, masks_by_frame

from .outputs import ALPHA_SUFFIX, Outputs

REMOTE = "masks are propagated through local files only: copy the video first"


def is_many(path: Path) -> bool:
    """Whether a path names many videos: a list, or a folder that is not itself a video of single
    frames.

    Raises:
        CallError: it is a folder that cannot be read.
    """
    if not path.is_dir():
        return is_list(path)
    try:
        return not is_frame_folder(path)
    except OSError as exc:
        raise CallError(f"cannot read the folder {path}: {exc.strerror or exc}") from exc


def list_videos(path: Path, skip: Sequence[Path] = ()) -> list[Entry]:
    """The videos of a folder or of a list, sorted by URI; those that cannot be read have a
    ``fault``.

    Args:
        path: folder or list, see ``corrfractal.video.discovery``.
        skip: folders of masks and results; nothing in them is a video.

    Raises:
        NotFoundError: there are none.
        CallError: the folder or the list cannot be read.
    """
    found = discover([str(path)], skip=skip)
    if found.ignored:
        say(ignored_summary(found.ignored))
    return [
        replace(entry, fault=REMOTE) if storage.is_uri(entry.location) else entry
        for entry in found.entries
    ]


def names_of(entries: Sequence[Entry]) -> list[str]:
    """A name for each video, used for its masks and results.

    The file's without suffix; where two agree in that, with it; where they still agree, the path
    below the folder or list that names them.

    Raises:
        CallError: two videos still have the same name, or one has a name that leads out of the
        folder of results.
    """
    paths = [PurePosixPath(entry.uri) for entry in entries]
    names = [path.stem for path in paths]
    for longer in (lambda path: path.name, str):
        uses = Counter(names)
        names = [
            longer(path) if uses[name] > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]
    uses = Counter(names)
    for name, entry in zip(names, entries, strict=True):
        if uses[name] > 1 or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise CallError(
                f"two of the videos are called {Path(entry.uri).name}: their masks could not be "
                "told apart"
            )
    return names


def unused_masks(names: Iterable[str], masks: Path) -> list[Path]:
    """Masks, and folders of masks, that belong to none of the videos, sorted."""
    used = {PurePosixPath(name).parts[0] for name in names} | {f"{name}.png" for name in names}
    return sorted(
        path
        for path in masks.iterdir()
        if path.name not in used
        and not path.name.startswith(".")
        and (path.is_dir() or path.suffix.lower() == ".png")
    )


def prompts_of(name: str, masks: Path, frames: Sequence[str] | None = None) -> Prompts:
    """The masks given for a video: ``masks/NAME.png``, or the files of ``masks/NAME/``, named by
    their frames.

    Args:
        name: of the video.
        masks: the folder for all videos.
        frames: names of its frames, where it is a folder of them; see ``read_prompts``.

    Raises:
        NotFoundError: neither is there.
    """
    folder, file = masks / name, masks / f"{name}.png"
    if file.is_file():
        return Prompts(masks={0: file})
    if folder.is_dir():
        return Prompts(masks=dict(masks_by_frame(folder, frames)))
    raise NotFoundError(
        f"no mask for the video {name}: neither {file} nor the folder {folder} exists"
    )


def outputs_of(name: str, outputs: Outputs) -> Outputs:
    """The outputs of one of many videos, inside the folders named for all."""
    return replace(
        outputs,
        overlay=None if outputs.overlay is None else outputs.overlay / f"{name}.mp4",
        contours=None if outputs.contours is None else outputs.contours / f"{name}.mp4",
        cutout=None if outputs.cutout is None else outputs.cutout / f"{name}{ALPHA_SUFFIX}",
    )
