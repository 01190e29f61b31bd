"""Rules that classify the entries of folders and globs: video, frame, or ignored.

Only names and, for files of unknown suffix, the first ``PEEK`` bytes are used. ``discovery.py``
applies the rules while it searches. Decision and alternatives: docs/decisions/0041.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from pathlib import Path

from corrfractal.common.text import decode_text
from corrfractal.files import storage

from .images import IMAGE_SUFFIXES

LIST_SUFFIXES = (".txt", ".csv", ".lst", ".list")

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc",
    ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf",
    ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm", ".wmv", ".y4m",
)  # fmt: skip
"""Images next to files with these suffixes are posters, not frames. The list is not a whitelist: a
file with an unknown suffix is tried as a video too."""

OTHER_IMAGES = (
    ".arw", ".avif", ".cr2", ".dng", ".dpx", ".exr", ".hdr", ".heic", ".heif", ".j2k", ".jp2",
    ".jxl", ".nef", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".tga",
)  # fmt: skip
"""Image formats that are not read as frames. A folder with only such images is an entry with a
fault."""

SIDE_SUFFIXES = (
    *LIST_SUFFIXES, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".pdf",
    ".log", ".sh", ".py", ".srt", ".vtt", ".ass", ".mat", ".npy", ".npz", ".tar", ".gz", ".zip",
    ".7z", ".bz2", ".rar", ".tgz", ".xz", ".zst", ".tsv", ".ini", ".db", ".md5", ".sha1", ".sha256",
    ".doc", ".docx", ".xls", ".xlsx", ".h5", ".hdf5", ".parquet", ".pkl", ".pt", ".pth",
    ".safetensors", ".sqlite", ".lnk", ".url", ".swp", ".torrent",
)  # fmt: skip
# These have no telling suffix and are empty or binary, so the text check misses them.
SIDE_NAMES = ("_success", "icon\r", "thumbs.db", "desktop.ini")
PARTIAL_SUFFIXES = (".aria2", ".crdownload", ".download", ".part", ".partial", ".tmp", ".ytdl")
SYSTEM_FOLDERS = (
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "#recycle",
    "lost+found",
    "system volume information",
)

HIDDEN = "hidden"
SYSTEM = "folder of an operating system"
SIDE = "side file"
PARTIAL = "unfinished download"
POSTER = "image beside videos"
OTHER_IMAGE = "image of another kind beside frames"
TEXT = "text file"
MASKS = "folder of annotations beside JPEGImages"
FRAME = "frame of a folder"
IGNORED = (HIDDEN, SYSTEM, SIDE, PARTIAL, POSTER, OTHER_IMAGE, TEXT, MASKS)
"""Rules that exclude an entry of a folder or a glob. Names given by the user are never excluded."""

PEEK = 4096  # bytes that distinguish text from video


def suffix_of(name: str) -> str:
    """Lower-case suffix of a path or URI, with its dot."""
    return posixpath.splitext(name)[1].lower()


def file_rule(name: str) -> str:
    """The rule that ignores a file regardless of its neighbours, or ``""``."""
    # Covers the AppleDouble files of macOS too: "._clip.mp4" is no video.
    if name.startswith("."):
        return HIDDEN
    if suffix_of(name) in PARTIAL_SUFFIXES:
        return PARTIAL
    if suffix_of(name) in SIDE_SUFFIXES or name.lower() in SIDE_NAMES:
        return SIDE
    return ""


def folder_rule(name: str) -> str:
    """The rule that ignores a folder regardless of its neighbours, or ``""``."""
    if name.startswith("."):
        return HIDDEN
    return SYSTEM if name.lower() in SYSTEM_FOLDERS else ""


def classify_files(names: Sequence[str]) -> dict[str, str]:
    """The rule of each file of one folder: one of ``IGNORED``, ``FRAME``, or ``""`` for a video."""
    rules = {name: file_rule(name) for name in names}
    candidates = [name for name, rule in rules.items() if not rule]
    images = [name for name in candidates if suffix_of(name) in IMAGE_SUFFIXES]
    others = [name for name in candidates if suffix_of(name) in OTHER_IMAGES]

    if any(suffix_of(name) in VIDEO_SUFFIXES for name in candidates):
        rules.update(dict.fromkeys((*images, *others), POSTER))
    elif images:
        rules.update(dict.fromkeys(images, FRAME))
        rules.update(dict.fromkeys(others, OTHER_IMAGE))
    else:
        rules.update(dict.fromkeys(others, FRAME))
    return rules


def classify_folders(names: Sequence[str]) -> dict[str, str]:
    """The rule of each sub-folder of one folder: one of ``IGNORED``, or ``""`` to search it."""
    rules = {name: folder_rule(name) for name in names}

    # DAVIS, VOC and YouTube-VOS store masks as images in a folder next to the frames.
    if "JPEGImages" in names:
        masks = [name for name in names if "annotations" in name.lower()]
        rules.update(dict.fromkeys(masks, MASKS))
    return rules


def is_image(name: str) -> bool:
    """Whether a name has the suffix of an image, readable as a frame or not."""
    return suffix_of(name) in IMAGE_SUFFIXES or suffix_of(name) in OTHER_IMAGES


def unreadable_frames(names: Sequence[str]) -> str:
    """The fault of a frame folder if its images have a format that is not read, else ``""``."""
    suffixes = {suffix_of(name) for name in names}
    if not suffixes.isdisjoint(IMAGE_SUFFIXES):
        return ""
    return (
        f"its {len(names)} images are of a kind that is not read as frames "
        f"({', '.join(sorted(suffixes))}): convert them to PNG or JPEG"
    )


def is_frame_folder(folder: Path) -> bool:
    """Whether a local folder is one video stored as images: it contains images and no file with a
    video suffix.

    Raises:
        OSError: the folder cannot be read.
    """
    suffixes = {
        suffix_of(name)
        for name, kind in storage.entries(folder)
        if kind != "folder" and not name.startswith(".")
    }
    return not suffixes.isdisjoint(IMAGE_SUFFIXES) and suffixes.isdisjoint(VIDEO_SUFFIXES)


def is_text(location: str) -> bool:
    """Whether the first ``PEEK`` bytes of a file are text; False for an unreadable file."""
    try:
        text = decode_text(storage.read_part(location, 0, PEEK))
    except (OSError, ValueError):
        return False

    # The last UTF-8 sequence (up to 4 bytes) may be cut at the end of the part.
    return bool(text) and not any(_is_binary(char) for char in text[:-3])


def _is_binary(char: str) -> bool:
    """Whether a character is a control code, or a byte that ``surrogateescape`` kept."""
    return "\udc80" <= char <= "\udcff" or (char < " " and char not in "\t\n\r\f")
