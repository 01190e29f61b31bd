"""What propagation writes besides masks: overlay, contours, cut-out, and a video of key points.

Each is made in a pass of its own over the video and the masks on disk, so it can be added or
repeated later without tracking. One frame is held in memory at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from corrfractal.common.errors import CallError, CorrFractalError
from corrfractal.files.written_files import Written
from corrfractal.video import Video, write_video
from inference.prompts.mask_images import blend, bright_palette, contours, cut_out, read_mask

U8 = npt.NDArray[np.uint8]

PointTrack = list[tuple[float, float, float]]
"""x and y in pixels, and confidence 0..1, of every key point of one frame."""

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
ALPHA_SUFFIX = ".webm"
PROBABILITIES = "probabilities"
TRAIL_FRAMES = 8
"""How many earlier positions of a key point are drawn behind it."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to write besides the masks.

    Attributes:
        overlay: h264 video with the objects tinted.
        contours: h264 video with the outlines of the objects.
        cutout: the objects alone with an alpha channel: a ``.webm`` video (VP9, plays in browsers),
            otherwise a folder of RGBA PNG files.
        probabilities: also write soft labels, ``probabilities/<id>/<frame>.png``, 8 bits, 255 =
            certain.
    """

    overlay: Path | None = None
    contours: Path | None = None
    cutout: Path | None = None
    probabilities: bool = False

    @property
    def places(self) -> dict[str, Path | None]:
        """Files and folders by the option that names them."""
        return {"--video": self.overlay, "--contours": self.contours, "--cutout": self.cutout}

    @property
    def cutout_folder(self) -> Path | None:
        """The folder of the cut-out's PNG files; None if the cut-out is a video."""
        if self.cutout is None or self.cutout.suffix.lower() == ALPHA_SUFFIX:
            return None
        return self.cutout

    @property
    def videos(self) -> tuple[Path, ...]:
        """The outputs that are single files."""
        files = [path for path in self.places.values() if path is not None]
        return tuple(path for path in files if path != self.cutout_folder)

    def check(self) -> None:
        """Check the file names.

        Raises:
            CallError: a suffix names no format that can be written.
        """
        for path in (self.overlay, self.contours):
            # FFmpeg selects the container by suffix; players accept h264 in these.
            if path is not None and path.suffix.lower() not in VIDEO_SUFFIXES:
                raise CallError(f"the video {path} must end in one of {', '.join(VIDEO_SUFFIXES)}")
        if self.cutout is not None and self.cutout.suffix.lower() in VIDEO_SUFFIXES:
            raise CallError(
                f"h264 in {self.cutout.suffix} has no alpha channel: name the cut-out "
                f"{ALPHA_SUFFIX}, or a folder for PNG files"
            )


def write_outputs(
    video: Video, masks: Path, outputs: Outputs, opacity: float, written: Written
) -> None:
    """Write overlay, contours and cut-out of the frames that have a mask.

    Args:
        video: the frames.
        masks: folder of their masks, named by frame.
        outputs: where to write.
        opacity: of the object colours in the overlay, 0..1.
        written: note of the files that this command wrote. Only masks that it names are read; the
            outputs are added to it.
    """
    drawings: list[tuple[Path | None, Callable[[U8, U8], U8]]] = [
        (outputs.overlay, lambda image, mask: blend(image, mask, opacity)),
        (outputs.contours, contours),
        (outputs.cutout, cut_out),
    ]
    for path, draw in drawings:
        if path is None:
            continue
        # A generator, so that one frame is in memory at a time.
        drawn = (
            (name, draw(image, mask)) for name, image, mask in _read_pairs(video, masks, written)
        )
        if path == outputs.cutout_folder:
            for name, image in drawn:
                written.write(mask_file(path, name), encode_png(image))
        else:
            codec = "libvpx-vp9" if path == outputs.cutout else "libx264"
            with written.replacing(path) as temporary:
                write_video(temporary, (image for _, image in drawn), video.info.fps, codec=codec)


def write_point_video(
    path: Path, video: Video, tracks: dict[int, PointTrack], written: Written
) -> None:
    """Write an h264 video with key points and their trails over the last frames."""
    images = (
        _draw_trails(frame.image, frame.index, tracks)
        for frame in video.frames()
        if frame.index in tracks
    )
    with written.replacing(path) as temporary:
        write_video(temporary, images, video.info.fps)


def make_folder(folder: Path) -> None:
    """Make an output folder and its parents.

    Raises:
        CallError: it cannot be made; gives the reason of the system.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise CallError(f"cannot write to the folder {folder}: {exc.strerror or exc}") from exc


def mask_file(folder: Path, frame: str) -> Path:
    """The mask file of a frame, by the frame's name."""
    return folder / f"{frame}.png"


def encode_png(image: U8) -> bytes:
    """Encode a grey, RGB or RGBA image, uint8 (H, W) or (H, W, C), as PNG."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    return encoded.getvalue()


def dotted(image: U8, points: Iterable[Sequence[float] | None]) -> U8:
    """A copy of an image, uint8 (H, W, 3) RGB, with a dot at each point (x, y), coloured by the
    point's number; None is skipped."""
    drawn = image.copy()
    radius = _dot_radius(image)
    for number, point in enumerate(points):
        if point is not None:
            # A white rim keeps the dot visible on a background of its own colour.
            cv2.circle(drawn, _pixel(point), radius + 2, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, _pixel(point), radius, _color(number), -1, cv2.LINE_AA)
    return drawn


def _read_pairs(video: Video, masks: Path, written: Written) -> Iterator[tuple[str, U8, U8]]:
    """Name, image and mask of each frame, up to the first frame that cannot be decoded."""
    names = video.names()
    try:
        for frame in video.frames():
            # A PNG of another origin may have the name of a frame; it is not drawn.
            path = mask_file(masks, names[frame.index])
            if path.is_file() and written.names(path):
                yield names[frame.index], frame.image, read_mask(path, frame.image.shape[:2])
    except CorrFractalError:
        # The pass that made the masks met the same error and reports it.
        return


def _draw_trails(image: U8, index: int, tracks: dict[int, PointTrack]) -> U8:
    drawn = image.copy()
    width = max(1, _dot_radius(image) // 2)
    recent = [tracks[t] for t in range(index - TRAIL_FRAMES, index + 1) if t in tracks]
    for number in range(len(tracks[index])):
        for start, end in pairwise(points[number] for points in recent):
            cv2.line(drawn, _pixel(start), _pixel(end), _color(number), width, cv2.LINE_AA)
    return dotted(drawn, tracks[index])


def _dot_radius(image: U8) -> int:
    return max(3, round(min(image.shape[:2]) / 96))


def _color(number: int) -> tuple[int, ...]:
    return tuple(int(channel) for channel in bright_palette()[number + 1])


def _pixel(point: Sequence[float]) -> tuple[int, int]:
    return round(float(point[0])), round(float(point[1]))
