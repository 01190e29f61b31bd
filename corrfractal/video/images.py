"""One reader for image files: frames, masks, annotations and the pictures of data sets.

Bytes are read first, so that any file name works; the size is taken from the header before
anything is decoded; a file that ends early or is damaged is an error, where image libraries return
a picture that is half grey. What a file holds decides its format, not its name: crawlers save WebP
as .jpg.

JPEGs are decoded by simplejpeg: the pixels are those of OpenCV, and what libjpeg only warns of is
an error. JPEG has no checksum, so a single flipped bit may still pass.
"""

from __future__ import annotations

import io
import re
import stat
import struct
import warnings
import zlib
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, UnidentifiedImageError

from corrfractal.common.errors import CorrFractalError

from .ffmpeg_log import capture_log
from .orientation import Orientation

U8 = npt.NDArray[np.uint8]

IMAGE_SUFFIXES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff",
)  # fmt: skip
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")
MAX_PIXELS = 89_000_000  # a frame of 12K has 80 million; Pillow warns from 89.5 million on
MAX_BYTES = 1 << 30
STRAY_BYTES = 16

EXIF_ORIENTATION = 0x0112
EXIF_ORIENTATIONS = {
    2: Orientation(flip_columns=True),
    3: Orientation(flip_rows=True, flip_columns=True),
    4: Orientation(flip_rows=True),
    5: Orientation(transposed=True),
    6: Orientation(transposed=True, flip_columns=True),
    7: Orientation(transposed=True, flip_rows=True, flip_columns=True),
    8: Orientation(transposed=True, flip_rows=True),
}

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")


class ImageError(CorrFractalError):
    """An image file cannot be used.

    Attributes:
        path: the file.
        reason: why, without the file's name.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"cannot read the image {path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type[ImageError], tuple[Path, str]]:
        return type(self), (self.path, self.reason)


def read_image(path: Path, reduce: int = 1) -> U8:
    """Read a picture as it is shown: EXIF orientation applied, alpha dropped, 8 bits.

    Args:
        path: the file; its contents decide the format.
        reduce: 1, 2, 4 or 8: read a JPEG at this fraction of its size. Other formats are not
            reduced: that would save nothing.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        ImageError: not an image, damaged, cut short, animated, or of more than ``MAX_PIXELS``.
    """
    data = _contents(path)
    header = _open_header(path, data)
    if header.format in ("JPEG", "MPO"):
        return _decode_jpeg(path, data, header, reduce)
    return _decode_by_opencv(path, data, cv2.IMREAD_COLOR_RGB)


def open_image(path: Path) -> Image.Image:
    """Read a picture with its mode, palette and alpha as they are stored, for masks.

    Raises:
        ImageError: as ``read_image``.
    """
    image = _open_header(path, _contents(path))
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as exc:
        raise ImageError(path, "the image is damaged or cut short") from exc
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Height and width by the header, as stored (EXIF orientation not applied).

    Raises:
        ImageError: as ``read_image``.
    """
    image = _open_header(path, _contents(path))
    return image.height, image.width


def _decode_jpeg(path: Path, data: bytes, header: Image.Image, reduce: int) -> U8:
    least = {
        "min_height": -(-header.height // reduce),
        "min_width": -(-header.width // reduce),
    }
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", **least)
    except ValueError as exc:
        # Some cameras write a few stray bytes between segments. libjpeg skips them with the words
        # that it also has for damage, so FFmpeg is asked whether the picture is sound.
        stray = re.search(r"(\d+) extraneous bytes", str(exc))
        few = stray is not None and int(stray[1]) <= STRAY_BYTES
        if not few or not _sound_for_ffmpeg(data):
            reason = str(exc).strip().rstrip(".") or "not a readable JPEG"
            raise ImageError(path, f"the image is damaged or cut short: {reason}") from exc
        image = _decode_by_opencv(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    turned = EXIF_ORIENTATIONS.get(header.getexif().get(EXIF_ORIENTATION, 1), Orientation())
    return turned.apply(image)


def _decode_by_opencv(path: Path, data: bytes, mode: int) -> U8:
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    except cv2.error as exc:
        raise ImageError(path, "not a readable image") from exc
    if image is None:
        raise ImageError(path, "the image is damaged or cut short")
    return np.asarray(image, dtype=np.uint8)


def _sound_for_ffmpeg(jpeg: bytes) -> bool:
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    with capture_log() as errors:
        try:
            frames = decoder.decode(av.Packet(jpeg))
        except av.FFmpegError:
            return False
    return bool(frames) and not errors


def _contents(path: Path) -> bytes:
    """The bytes of a regular file; reading a pipe or a device could block forever."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ImageError(path, "not a regular file")
        if facts.st_size > MAX_BYTES:
            raise ImageError(path, f"the file is larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(path, f"the file cannot be read: {exc.strerror or exc}") from exc


def _open_header(path: Path, data: bytes) -> Image.Image:
    """The image with its header read and checked, and its pixels not yet decoded."""
    if not data:
        raise ImageError(path, "the file is empty")
    if data.startswith(PNG_SIGNATURE):
        data = _checked_png(path, data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        raise ImageError(path, f"the header claims over {MAX_PIXELS // 10**6} megapixels") from exc
    except UnidentifiedImageError as exc:
        raise ImageError(
            path, "not an image of a known format (JPEG, PNG, WebP, BMP, TIFF)"
        ) from exc
    except (OSError, SyntaxError, ValueError, struct.error) as exc:
        raise ImageError(path, "not a readable image") from exc
    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        reason = f"the header claims {size}, over {MAX_PIXELS // 10**6} megapixels"
        raise ImageError(path, reason)
    if image.format not in ("JPEG", "MPO") and getattr(image, "n_frames", 1) > 1:
        raise ImageError(path, "it holds several pictures; save each as a file of its own")
    return image


def _checked_png(path: Path, data: bytes) -> bytes:
    """A PNG that is complete and whose checksums fit, without its texts: libpng would report
    damage on standard error, and Pillow refuses the long texts that some programs store.
    """
    kept = [PNG_SIGNATURE]
    position = len(PNG_SIGNATURE)
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + 12 + length
        if end > len(data):
            break
        name = data[position + 4 : position + 8]
        (checksum,) = struct.unpack_from(">I", data, end - 4)
        if zlib.crc32(memoryview(data)[position + 4 : end - 4]) != checksum:
            raise ImageError(path, "the image is damaged: a checksum does not fit")
        if name not in PNG_TEXTS:
            kept.append(data[position:end])
        if name == b"IEND":
            return b"".join(kept)
        position = end
    raise ImageError(path, "the image is cut short")
