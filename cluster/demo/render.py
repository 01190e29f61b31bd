"""Rendering of the demo's sample set: short videos of moving objects with exact masks.

``cluster.demo.scene`` decides what moves where; this module draws it. Pictures are drawn at twice
the size and averaged down, so that edges are antialiased and motion is sub-pixel. A mask covers the
pixels of which an object covers more than half.

Nothing is downloaded, and the pictures depend only on the seed. They test that all stages work
together; a score on them does not predict scores on real video.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from corrfractal.shards.clip import LABEL_COLORS
from corrfractal.video import write_video

from .scene import F32, MARGIN, Cutout, Scene, compose_scene

U8 = npt.NDArray[np.uint8]

FPS = 24.0
SUPERSAMPLING = 2
# Darkness, 0..1, of the soft shadow that an object casts on what is behind it.
SHADOW = 0.35
JPEG_QUALITY = 95


def render_training_videos(
    out: Path, count: int = 8, frames: int = 32, size: tuple[int, int] = (128, 160), seed: int = 0
) -> list[Path]:
    """Write ``count`` unlabelled h264 videos ``train-00.mp4`` ... of ``size`` (H, W).

    Returns:
        The paths of the videos.

    Raises:
        ValueError: height or width is odd, or the aspect ratio W / H is not between 1 and 2.
    """
    _check_size(size)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"train-{index:02d}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        scene = compose_scene(np.random.default_rng((seed, index)), index, size)
        write_video(path, (image for image, _ in _draw_frames(scene, frames, size)), FPS)
    return paths


def render_evaluation_set(
    out: Path,
    sequences: int = 2,
    frames: int = 20,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
) -> Path:
    """Write sequences with exact masks in the layout of DAVIS-2017, and a video of each.

        JPEGImages/480p/NAME/00000.jpg    "480p" is the data set's name, for any size
        Annotations/480p/NAME/00000.png   palette, index = object id
        NAME.mp4
        ImageSets/2017/val.txt            written last: the set is complete

    Returns:
        ``out``.

    Raises:
        ValueError: as ``render_training_videos``.
    """
    _check_size(size)
    names = [f"sample-{index:02d}" for index in range(sequences)]
    for index, name in enumerate(names):
        scene = compose_scene(np.random.default_rng((seed, index, 1)), index, size)
        pictures = list(_draw_frames(scene, frames, size))
        write_sequence(out, name, pictures)
        write_video(out / f"{name}.mp4", (image for image, _ in pictures), FPS)
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return out


def write_sequence(out: Path, name: str, pictures: list[tuple[U8, U8]]) -> None:
    """Write one sequence in the layout of DAVIS-2017.

    Args:
        pictures: frames uint8 (H, W, 3) with their masks uint8 (H, W).
    """
    images = out / "JPEGImages" / "480p" / name
    annotations = out / "Annotations" / "480p" / name
    images.mkdir(parents=True, exist_ok=True)
    annotations.mkdir(parents=True, exist_ok=True)
    for t, (image, mask) in enumerate(pictures):
        Image.fromarray(image).save(images / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        annotation = Image.fromarray(mask)
        annotation.putpalette(LABEL_COLORS.tobytes())
        annotation.save(annotations / f"{t:05d}.png")


def _check_size(size: tuple[int, int]) -> None:
    height, width = size
    if height % 2 or width % 2 or not height <= width <= 2 * height:
        raise ValueError(f"size (H, W) must be even with 1 <= W / H <= 2, got {size}")


def _draw_frames(scene: Scene, frames: int, size: tuple[int, int]) -> Iterator[tuple[U8, U8]]:
    """Yield the picture uint8 (H, W, 3) and the mask uint8 (H, W) of every frame."""
    height, width = size
    amplitude, phase = scene.light
    for t in range(frames):
        u = t / max(1, frames - 1)
        image, visible = _draw_supersampled(scene, u, size)

        # Averaging gives antialiased pictures, and the share of each pixel that an object covers.
        small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        shares = np.stack(
            [cv2.resize(share, (width, height), interpolation=cv2.INTER_AREA) for share in visible]
        )
        mask = np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0)

        light = 1 + amplitude * math.sin(phase + 3 * t / max(1, frames - 1))
        yield np.clip(small * light, 0, 255).round().astype(np.uint8), mask.astype(np.uint8)


def _draw_supersampled(scene: Scene, u: float, size: tuple[int, int]) -> tuple[F32, list[F32]]:
    """Draw at ``SUPERSAMPLING`` times the size (sH, sW).

    Returns:
        The picture, (sH, sW, 3), and the visible coverage of each object, (sH, sW).
    """
    H = size[0] * SUPERSAMPLING
    W = size[1] * SUPERSAMPLING
    image = _warp(scene.background, _camera_matrix(scene, u, (H, W)), (H, W))
    visible: list[F32] = []
    for cutout in scene.cutouts:
        matrix = _object_matrix(cutout, u, (H, W))
        texture = _warp(cutout.texture, matrix, (H, W))
        coverage = _warp(cutout.coverage, matrix, (H, W), cv2.BORDER_CONSTANT)

        # The shadow falls to the lower right, blurred.
        shifted = np.roll(coverage, (H // 40, H // 60), axis=(0, 1))
        shadow = cv2.GaussianBlur(shifted, (0, 0), H / 50)
        image = image * (1 - SHADOW * shadow[..., None])

        # Alpha blending; the object hides what was drawn before it.
        image = image * (1 - coverage[..., None]) + texture * coverage[..., None]
        visible = [behind * (1 - coverage) for behind in visible]
        visible.append(coverage)
    return image, visible


def _warp(
    picture: F32, matrix: F32, shape: tuple[int, int], border: int = cv2.BORDER_REFLECT_101
) -> F32:
    warped = cv2.warpAffine(
        picture, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=border
    )
    return np.asarray(warped, dtype=np.float32)


def _camera_matrix(scene: Scene, u: float, shape: tuple[int, int]) -> F32:
    """Affine matrix (2, 3) from pixels of the photograph to pixels of the picture."""
    height, width = scene.background.shape[:2]
    x, y, view, _ = scene.camera.at(u)
    zoom = shape[0] / (view * height)
    centre_x = width / 2 + x * height
    centre_y = height / 2 + y * height
    return np.array(
        [[zoom, 0, shape[1] / 2 - zoom * centre_x], [0, zoom, shape[0] / 2 - zoom * centre_y]],
        dtype=np.float32,
    )


def _object_matrix(cutout: Cutout, u: float, shape: tuple[int, int]) -> F32:
    """Affine matrix (2, 3) from pixels of the cut-out to pixels of the picture.

    An object's scale is its radius in units of the picture's height.
    """
    half = cutout.texture.shape[0] / 2
    x, y, scale, angle = cutout.motion.at(u)
    zoom = scale * shape[0] / (half / MARGIN)
    cos = zoom * math.cos(angle)
    sin = zoom * math.sin(angle)
    centre_x = shape[1] / 2 + x * shape[0]
    centre_y = shape[0] / 2 + y * shape[0]
    return np.array(
        [[cos, -sin, centre_x - (cos - sin) * half], [sin, cos, centre_y - (sin + cos) * half]],
        dtype=np.float32,
    )
