"""Many videos at once: which there are, where their masks lie, and where their results go."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from corrfractal.errors import CallError, NotFoundError
from corrfractal.frame_folder import frame_files

from .outputs import ALPHA_SUFFIX, Outputs
from .prompts import Prompts, numbered_masks

LISTS = (".txt", ".lst", ".list")
SIDECARS = (*LISTS, ".png", ".jpg", ".jpeg", ".json", ".jsonl", ".csv", ".md", ".xml", ".yaml", ".srt", ".vtt")


def is_many(path: Path) -> bool:
    """Whether a path names many videos: a list, or a folder that is not itself a video of single frames."""
    return path.suffix.lower() in LISTS if path.is_file() else path.is_dir() and not frame_files(path)


def list_videos(path: Path) -> list[Path]:
    """The videos of a folder, files and folders of frames, or of a text file with a path on each line, sorted.

    Raises:
        NotFoundError: there are none, or a listed one does not exist.
    """
    if path.is_file():
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
        videos = [path.parent / line for line in lines if line and not line.startswith("#")]
        missing = [video for video in videos if not video.exists()]
        if missing:
            raise NotFoundError(f"{path} lists {len(missing)} videos that do not exist, the first is {missing[0]}")
    else:
        videos = [p for p in path.iterdir() if not p.name.startswith(".") and p.suffix.lower() not in SIDECARS]
        videos = [p for p in videos if p.is_file() or frame_files(p)]
    if not videos:
        raise NotFoundError(f"{path} holds no videos")
    return sorted(videos)


def names_of(videos: list[Path]) -> list[str]:
    """A name for each video, used for its masks and results: the file's without suffix, with it where two agree."""
    stems = [video.stem for video in videos]
    names = [video.name if stems.count(video.stem) > 1 else video.stem for video in videos]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise CallError(f"two of the videos are called {twice[0]}: their masks could not be told apart")
    return names


def prompts_of(name: str, masks: Path) -> Prompts:
    """The masks given for a video: ``masks/NAME.png``, or the numbered files of ``masks/NAME/``.

    Raises:
        NotFoundError: neither is there.
    """
    folder, file = masks / name, masks / f"{name}.png"
    if file.is_file():
        return Prompts(masks={0: file})
    if folder.is_dir():
        return Prompts(masks=dict(numbered_masks(folder)))
    raise NotFoundError(f"no mask for the video {name}: neither {file} nor the folder {folder} exists")


def outputs_of(name: str, outputs: Outputs) -> Outputs:
    """The outputs of one of many videos, inside the folders named for all."""
    return replace(
        outputs,
        overlay=None if outputs.overlay is None else outputs.overlay / f"{name}.mp4",
        contours=None if outputs.contours is None else outputs.contours / f"{name}.mp4",
        cutout=None if outputs.cutout is None else outputs.cutout / f"{name}{ALPHA_SUFFIX}",
    )
