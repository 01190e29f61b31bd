"""What is made of a video and its masks besides the masks: overlay, contours, cut-out, points drawn
on their frames.

Each is a pass of its own over the video and the masks on disk, so that it can be had later, or
again, without tracking; nothing but one frame is held.
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
from corrfractal.common.output_guard import Written
from corrfractal.video import Video, write_video
from inference.prompts.mask_images import blend, bright_palette, contours, cut_out, read_mask

U8 = npt.NDArray[np.uint8]
Track = list[tuple[float, float, float]]

VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov")
ALPHA_SUFFIX = ".webm"


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What to write besides the masks.

    Attributes:
        overlay: h264 video with the objects tinted.
        contours: h264 video with their outlines.
        cutout: the objects alone with an alpha channel: a ``.webm`` video (VP9, plays in browsers),
            else a folder of RGBA PNG files.
        probabilities: also write the soft labels, ``probabilities/<id>/<frame>.png`` of 8 bits, 255
            = certain.
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
        """The folder of the cut-out's PNG files, where it is none video."""
        is_video = self.cutout is None or self.cutout.suffix.lower() == ALPHA_SUFFIX
        return None if is_video else self.cutout

    @property
    def videos(self) -> tuple[Path, ...]:
        """The files among the outputs."""
        return tuple(
            path for path in self.places.values() if path is not None and path != self.cutout_folder
        )

    def check(self) -> None:
        """Raises CallError: a name does not say what can be written."""
        for path in (self.overlay, self.contours):
            if path is not None and path.suffix.lower() not in VIDEO_SUFFIXES:
                raise CallError(f"the video {path} must end in one of {', '.join(VIDEO_SUFFIXES)}")
        if self.cutout is not None and self.cutout.suffix.lower() in VIDEO_SUFFIXES:
            raise CallError(
                f"{self.cutout.suffix} as it plays everywhere has no alpha channel: name the "
                f"cut-out {ALPHA_SUFFIX}, or a folder for PNG files"
            )


def write_outputs(
    video: Video, masks: Path, outputs: Outputs, opacity: float, written: Written
) -> None:
    """Write overlay, contours and cut-out of the frames that have a mask.

    Args:
        video: the frames.
        masks: folder of their masks, named by frame.
        outputs: where to write.
        opacity: of the colours over the objects.
        written: the note of what is ours: only masks that it names are read, and it names what is
            written.
    """
    pictures: list[tuple[Path | None, Callable[[U8, U8], U8]]] = [
        (outputs.overlay, lambda image, mask: blend(image, mask, opacity)),
        (outputs.contours, contours),
        (outputs.cutout, cut_out),
    ]
    for path, draw in pictures:
        if path is None:
            continue
        images = ((name, draw(image, mask)) for name, image, mask in _pairs(video, masks, written))
        if path == outputs.cutout_folder:
            for name, image in images:
                written.write(mask_file(path, name), encode_png(image))
        else:
            codec = "libvpx-vp9" if path == outputs.cutout else "libx264"
            with written.replacing(path) as temporary:
                write_video(temporary, (image for _, image in images), video.info.fps, codec=codec)


def write_point_video(
    path: Path, video: Video, tracks: dict[int, Track], written: Written, trail: int = 8
) -> None:
    """Write an h264 video with points and the way they came in the last frames."""
    images = (
        _trailed(frame.image, frame.index, tracks, trail)
        for frame in video.frames()
        if frame.index in tracks
    )
    with written.replacing(path) as temporary:
        write_video(temporary, images, video.info.fps)


def mask_file(folder: Path, frame: str) -> Path:
    """Where the mask of a frame is, by the frame's name."""
    return folder / f"{frame}.png"


def encode_png(image: U8) -> bytes:
    """Grey, RGB or RGBA as the bytes of a PNG."""
    encoded = io.BytesIO()
    Image.fromarray(image).save(encoded, format="PNG")
    return encoded.getvalue()


def _pairs(video: Video, masks: Path, written: Written) -> Iterator[tuple[str, U8, U8]]:
    """Name, picture and mask of each frame, up to the first that cannot be decoded: its error was
    reported before."""
    names = video.names()
    try:
        for frame in video.frames():
            path = mask_file(masks, names[frame.index])
            if path.is_file() and written.names(path):
                yield names[frame.index], frame.image, read_mask(path, frame.image.shape[:2])
    except CorrFractalError:
        return


def dotted(image: U8, places: Iterable[Sequence[float] | None]) -> U8:
    """A picture with points on it, each in the colour of its number; None is left out."""
    drawn, size = image.copy(), _dot(image)
    for k, place in enumerate(places):
        if place is not None:
            cv2.circle(drawn, _pixel(place), size + 2, (255, 255, 255), -1, cv2.LINE_AA)
            cv2.circle(drawn, _pixel(place), size, _color(k), -1, cv2.LINE_AA)
    return drawn


def _trailed(image: U8, index: int, tracks: dict[int, Track], trail: int) -> U8:
    drawn = image.copy()
    recent = [tracks[t] for t in range(index - trail, index + 1) if t in tracks]
    for k in range(len(tracks[index])):
        for a, b in pairwise(track[k] for track in recent):
            cv2.line(drawn, _pixel(a), _pixel(b), _color(k), max(1, _dot(image) // 2), cv2.LINE_AA)
    return dotted(drawn, tracks[index])


def _dot(image: U8) -> int:
    return max(3, round(min(image.shape[:2]) / 96))


def _color(k: int) -> tuple[int, ...]:
    return tuple(int(c) for c in bright_palette()[k + 1])


def _pixel(place: Sequence[float]) -> tuple[int, int]:
    return round(float(place[0])), round(float(place[1]))
