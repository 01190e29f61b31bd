"""One reader for image files: frames, masks, annotations and the pictures of data sets.

- The file is read into memory first, so that any file name works.
- The size is taken from the header before anything is decoded.
- A file that is damaged or ends early is an error; image libraries return a half grey picture.
- The content decides the format, not the name: crawlers save WebP as .jpg.

JPEGs are decoded by simplejpeg: the pixels are those of OpenCV, and warnings of libjpeg are errors.
JPEG has no checksum, so a single flipped bit may still pass.
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
# Names of Pillow; its other readers are never run on files from anywhere.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")

# A 12K frame has 80 million pixels; Pillow warns from 89.5 million on.
MAX_PIXELS = 89_000_000
MAX_BYTES = 1 << 30

# More extraneous bytes than this between JPEG segments count as damage.
STRAY_BYTES = 16

# Tag and values of Exif 2.3; 1 is upright.
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
# Chunks of ISO 15948; only these may be dropped without changing the picture.
PNG_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PNG_OVERHEAD = 12  # bytes of a chunk besides its data: length, name, checksum


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
        path: the file; its content decides the format.
        reduce: 1, 2, 4 or 8: decode a JPEG at this fraction of its size. Other formats are not
            reduced, since that would save nothing.

    Returns:
        uint8 (H, W, 3) RGB.

    Raises:
        ImageError: not an image, damaged, cut short, animated, or larger than ``MAX_PIXELS``.
    """
    data = _read_bytes(path)
    header = _open_header(path, data)
    if header.format in ("JPEG", "MPO"):
        return _decode_jpeg(path, data, header, reduce)
    return _decode_by_opencv(path, data, cv2.IMREAD_COLOR_RGB)


def open_image(path: Path) -> Image.Image:
    """Read a picture with its stored mode, palette and alpha, as masks need it.

    Raises:
        ImageError: as ``read_image``.
    """
    image = _open_header(path, _read_bytes(path))
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, struct.error, zlib.error) as exc:
        raise ImageError(path, "the image is damaged or cut short") from exc
    return image


def image_size(path: Path) -> tuple[int, int]:
    """Stored height and width according to the header (EXIF orientation not applied).

    Raises:
        ImageError: as ``read_image``.
    """
    image = _open_header(path, _read_bytes(path))
    return image.height, image.width


def _decode_jpeg(path: Path, data: bytes, header: Image.Image, reduce: int) -> U8:
    min_height = -(-header.height // reduce)  # rounded up
    min_width = -(-header.width // reduce)
    try:
        image = simplejpeg.decode_jpeg(data, "RGB", min_height=min_height, min_width=min_width)
    except ValueError as exc:
        # Some cameras write a few stray bytes between segments. libjpeg skips them with the same
        # warning that it has for damage, so FFmpeg decides whether the picture is intact.
        stray = re.search(r"(\d+) extraneous bytes", str(exc))
        harmless = stray is not None and int(stray[1]) <= STRAY_BYTES
        if not harmless or not _is_intact_for_ffmpeg(data):
            reason = str(exc).strip().rstrip(".") or "not a readable JPEG"
            raise ImageError(path, f"the image is damaged or cut short: {reason}") from exc
        image = _decode_by_opencv(path, data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)

    # simplejpeg ignores EXIF, and so does OpenCV with the flag above.
    tag = header.getexif().get(EXIF_ORIENTATION, 1)
    return EXIF_ORIENTATIONS.get(tag, Orientation()).apply(image)


def _is_intact_for_ffmpeg(jpeg: bytes) -> bool:
    """Whether FFmpeg decodes a JPEG without logging an error."""
    import av

    decoder = av.CodecContext.create("mjpeg", "r")
    with capture_log() as errors:
        try:
            frames = decoder.decode(av.Packet(jpeg))
        except av.FFmpegError:
            return False
    return bool(frames) and not errors


def _decode_by_opencv(path: Path, data: bytes, mode: int) -> U8:
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), mode)
    except cv2.error as exc:
        raise ImageError(path, "not a readable image") from exc
    if image is None:
        raise ImageError(path, "the image is damaged or cut short")
    return np.asarray(image, dtype=np.uint8)


def _read_bytes(path: Path) -> bytes:
    """Content of a regular file; reading a pipe or a device could block forever."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(path, "not a regular file")
        if status.st_size > MAX_BYTES:
            raise ImageError(path, f"the file is larger than {MAX_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as exc:
        raise ImageError(path, f"the file cannot be read: {exc.strerror or exc}") from exc


def _open_header(path: Path, data: bytes) -> Image.Image:
    """The image with its header read and checked; pixels are not decoded yet."""
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
        reason = "not an image of a known format (JPEG, PNG, WebP, BMP, TIFF)"
        raise ImageError(path, reason) from exc
    except (OSError, SyntaxError, ValueError, struct.error) as exc:
        raise ImageError(path, "not a readable image") from exc

    if image.width * image.height > MAX_PIXELS:
        size = f"{image.width}x{image.height}"
        reason = f"the header claims {size}, over {MAX_PIXELS // 10**6} megapixels"
        raise ImageError(path, reason)
    # An MPO is a JPEG with further views of the same picture; the first one is shown.
    if image.format not in ("JPEG", "MPO") and getattr(image, "n_frames", 1) > 1:
        raise ImageError(path, "it holds several pictures; save each as a file of its own")
    return image


def _checked_png(path: Path, data: bytes) -> bytes:
    """A PNG without its text chunks, after checking that it is complete and its checksums match.

    libpng would report damage on standard error, and Pillow refuses the long texts that some
    programs store.
    """
    kept = [PNG_SIGNATURE]
    position = len(PNG_SIGNATURE)
    while position + PNG_OVERHEAD <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        end = position + PNG_OVERHEAD + length
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
