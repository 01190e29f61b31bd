"""What the header of a video promises, without decoding it: the basis of an estimate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from corrfractal.common.errors import CorrFractalError
from corrfractal.files import storage
from corrfractal.video.container import read_container
from corrfractal.video.content import content_files
from corrfractal.video.discovery import Entry
from corrfractal.video.images import image_size
from corrfractal.video.timestamps import FOLDER_FPS
from pipeline.discover.source_table import Source

# For a file without timestamps
USUAL_FPS = 30.0


@dataclass(frozen=True, kw_only=True)
class HeaderInfo:
    """Length and size of a video by its header; zeros where the header cannot be read.

    Attributes:
        location: local path or URI.
        uri: identifier in shards, which decides the groups.
        bytes: of the file, or of all frames of a folder.
        seconds: length.
        fps: frames per second.
        pixels: of one frame.
    """

    location: str
    uri: str = ""
    bytes: int = 0
    seconds: float = 0.0
    fps: float = USUAL_FPS
    pixels: int = 0

    @property
    def work(self) -> float:
        """Pixels to decode."""
        return self.seconds * self.fps * self.pixels

    def piece(self, seconds: float) -> HeaderInfo:
        """The same for a piece of the video, at most ``seconds`` long."""
        return replace(self, seconds=seconds) if seconds < self.seconds else self

    def source(self) -> Source:
        """The video as a source of the pipeline."""
        return Source(uri=self.uri or self.location, path=self.location, bytes=self.bytes)


def probe_entry(entry: Entry) -> HeaderInfo:
    """Header of a listed entry; zeros where listing found a fault."""
    header = HeaderInfo(location=entry.location) if entry.fault else probe(entry.location)
    return replace(header, uri=entry.uri)


def probe(location: str) -> HeaderInfo:
    """Read the tables of a video file, or count the frames of a folder."""
    try:
        with storage.local_copy(location) as path:
            if path.is_dir():
                return _probe_folder(location, path)
            container = read_container(path)
            # The stored rate may contradict frame count and length, which decide what is decoded.
            fps = container.frames / container.seconds if container.seconds else 0.0
            return HeaderInfo(
                location=location,
                bytes=path.stat().st_size,
                seconds=container.seconds,
                fps=fps if 0 < fps <= 1000 else container.fps or USUAL_FPS,
                pixels=container.width * container.height,
            )
    except (CorrFractalError, OSError):
        # No error: a video that cannot be read gives no clips, and that is its estimate.
        return HeaderInfo(location=location)


def _probe_folder(location: str, path: Path) -> HeaderInfo:
    files = content_files(path)
    height, width = image_size(files[0])
    return HeaderInfo(
        location=location,
        bytes=sum(file.stat().st_size for file in files),
        seconds=len(files) / FOLDER_FPS,
        fps=FOLDER_FPS,
        pixels=height * width,
    )


def fill_in_lengths(headers: Sequence[HeaderInfo]) -> list[HeaderInfo]:
    """Give each readable video without a length the mean length per byte of the others."""
    known = [header for header in headers if header.seconds]
    known_bytes = sum(header.bytes for header in known)
    known_seconds = sum(header.seconds for header in known)
    seconds_per_byte = known_seconds / known_bytes if known_bytes else 0.0
    filled = []
    for header in headers:
        if header.pixels and not header.seconds:
            header = replace(header, seconds=seconds_per_byte * header.bytes)
        filled.append(header)
    return filled
