"""Many videos: which there are, their names, and where their masks and results are."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.files import storage
from corrfractal.video import open_video
from corrfractal.video.discovery import Entry, discover, ignored_summary
from corrfractal.video.entry_rules import is_frame_folder
from corrfractal.video.source_lists import is_list
from inference.prompts.shapes import Prompts, masks_by_frame

from .outputs import ALPHA_SUFFIX, Outputs

REMOTE = "propagate reads local files only: copy the video first"

log = logging.getLogger(__name__)


def is_many(path: Path) -> bool:
    """Whether a path names many videos: a list, or a folder that is not a folder of frames.

    Raises:
        CallError: the folder cannot be read.
    """
    if not path.is_dir():
        return is_list(path)
    try:
        return not is_frame_folder(path)
    except OSError as exc:
        raise CallError(f"cannot read the folder {path}: {exc.strerror or exc}") from exc


def list_videos(path: Path, skip: Sequence[Path] = ()) -> list[Entry]:
    """The videos of a folder or list, sorted by URI; an entry that cannot be used has a ``fault``.

    Args:
        path: folder or list, see ``corrfractal.video.discovery``.
        skip: folders of masks and results, which hold no videos.

    Raises:
        NotFoundError: there are none.
        CallError: the folder or list cannot be read.
    """
    found = discover([str(path)], skip=skip)
    if found.ignored:
        log.info(ignored_summary(found.ignored))
    # A video is hashed, tracked and drawn in separate passes, each of which would download it.
    return [
        replace(entry, fault=REMOTE) if storage.is_uri(entry.location) else entry
        for entry in found.entries
    ]


def names_of(entries: Sequence[Entry]) -> list[str]:
    """A unique name for each video, which its masks and results carry.

    The name is that of the file without suffix. Videos that share it get their suffix; if they
    still share it, the path below the folder or list that names them.

    Raises:
        CallError: two videos still have the same name, or a name would lead out of the folder of
            results.
    """
    paths = [PurePosixPath(entry.uri) for entry in entries]
    names = [path.stem for path in paths]
    for longer_name in (lambda path: path.name, str):
        uses = Counter(names)
        names = [
            longer_name(path) if uses[name] > 1 else name
            for name, path in zip(names, paths, strict=True)
        ]

    # Names become paths below the folder of results.
    uses = Counter(names)
    for name, entry in zip(names, entries, strict=True):
        parts = PurePosixPath(name)
        if uses[name] > 1 or parts.is_absolute() or ".." in parts.parts:
            raise CallError(
                f"two of the videos are called {Path(entry.uri).name}, so their masks could not be "
                "told apart: rename one"
            )
    return names


def frame_names(video: Path) -> Sequence[str] | None:
    """Names by which prompts refer to frames: file names of a folder of frames; None for a video
    file, whose frames are numbered."""
    return open_video(video).names() if video.is_dir() else None


def unused_masks(names: Iterable[str], masks: Path) -> list[Path]:
    """Masks, and folders of masks, without a video of their name, sorted."""
    # A name may contain folders: the mask of a/b.mp4 is in masks/a/.
    used: set[str] = set()
    for name in names:
        used |= {PurePosixPath(name).parts[0], f"{name}.png"}
    unused = [path for path in masks.iterdir() if path.name not in used]
    return sorted(
        path
        for path in unused
        if (path.is_dir() or path.suffix.lower() == ".png") and not path.name.startswith(".")
    )


def prompts_of(name: str, masks: Path, frames: Sequence[str] | None = None) -> Prompts:
    """The masks given for a video: ``masks/NAME.png``, or the files of ``masks/NAME/``, named by
    frame.

    Args:
        name: of the video.
        masks: folder with the masks of all videos.
        frames: see ``frame_names``.

    Raises:
        NotFoundError: neither exists.
    """
    folder = masks / name
    file = masks / f"{name}.png"
    if file.is_file():
        return Prompts(masks={0: file})
    if folder.is_dir():
        return Prompts(masks=dict(masks_by_frame(folder, frames)))
    raise NotFoundError(
        f"no mask for the video {name}: neither {file} nor the folder {folder} exists"
    )


def outputs_of(name: str, outputs: Outputs) -> Outputs:
    """The outputs of one video, inside the folders given for all videos."""
    return replace(
        outputs,
        overlay=outputs.overlay and outputs.overlay / f"{name}.mp4",
        contours=outputs.contours and outputs.contours / f"{name}.mp4",
        # Always a video: a folder of PNG files per video would have to be named, too.
        cutout=outputs.cutout and outputs.cutout / f"{name}{ALPHA_SUFFIX}",
    )
