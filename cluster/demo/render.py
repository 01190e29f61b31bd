"""The demo's sample set: short videos of objects with exact masks, made from scikit-learn's two
photographs.

A scene is a camera drifting over one photograph, and one or two textured cut-outs of the other one,
which move on arcs, turn, grow or shrink, and pass in front of each other while the light changes a
little. Everything is drawn at twice the size and averaged down, so that edges are antialiased and
motion is sub-pixel; a mask is where an object covers more than half of a pixel.

Nothing is downloaded and the pictures depend on the seed alone. They show that every stage works
together; a score on them says nothing about real video.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from corrfractal.shards.clip import LABEL_COLORS
from corrfractal.video import write_video

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]

FPS = 24.0
SUPERSAMPLING = 2
SHADOW = 0.35  # darkness of the soft shadow that an object casts on what lies behind it
JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class Place:
    """A round place in a photograph, in its pixels, from which an object is cut."""

    photograph: str
    x: int
    y: int
    radius: int


# Objects of one photograph move over the other one, so that texture tells an object from its
# background.
DAHLIA = Place(photograph="flower.jpg", x=307, y=220, radius=128)
PETALS = Place(photograph="flower.jpg", x=352, y=300, radius=58)
HEART = Place(photograph="flower.jpg", x=306, y=205, radius=56)
ROOF = Place(photograph="china.jpg", x=198, y=295, radius=62)
GALLERY = Place(photograph="china.jpg", x=208, y=205, radius=72)
EAVES = Place(photograph="china.jpg", x=250, y=345, radius=58)
BUSH = Place(photograph="china.jpg", x=478, y=356, radius=62)
CASTS = {
    "china.jpg": ((DAHLIA,), (PETALS, HEART), (HEART,), (DAHLIA, PETALS)),
    "flower.jpg": ((GALLERY, BUSH), (ROOF,), (BUSH, EAVES), (GALLERY,)),
}


@dataclass(frozen=True, kw_only=True)
class Motion:
    """A similarity transform that changes smoothly over the video; ``u`` runs from 0 to 1.

    Positions are (x, y) in units of the picture's height, from its centre; angles in radians.
    """

    start: tuple[float, float]
    end: tuple[float, float]
    bulge: float
    """Height of the arc over the straight path, in units of its length."""
    scale: tuple[float, float]
    angle: tuple[float, float]

    def at(self, u: float) -> tuple[float, float, float, float]:
        """x, y, scale and angle at ``u``."""
        dx, dy = self.end[0] - self.start[0], self.end[1] - self.start[1]
        arc = self.bulge * math.sin(math.pi * u)
        x, y = self.start[0] + u * dx - arc * dy, self.start[1] + u * dy + arc * dx
        scale = self.scale[0] * (self.scale[1] / self.scale[0]) ** u
        return x, y, scale, self.angle[0] + u * (self.angle[1] - self.angle[0])


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """An object: float32 (S, S, 3) texture, float32 (S, S) coverage 0..1, and how it moves."""

    texture: F32
    coverage: F32
    motion: Motion


@dataclass(frozen=True, kw_only=True)
class Scene:
    """All that is needed to draw a video. Objects are ordered back to front; object ``k`` has mask
    id ``k + 1``."""

    background: F32
    camera: Motion
    cutouts: tuple[Cutout, ...]
    light: tuple[float, float]
    """Amplitude and phase of the brightness change."""


def render_training_videos(
    out: Path, count: int = 8, frames: int = 32, size: tuple[int, int] = (128, 160), seed: int = 0
) -> list[Path]:
    """Write ``count`` unlabelled h264 videos ``train-00.mp4`` ... of ``size`` (H, W) and return
    their paths.

    Raises:
        ValueError: an odd height or width, or a picture that is not 1 to 2 times as wide as
        high.
    """
    _check_size(size)
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"train-{index:02d}.mp4" for index in range(count)]
    for index, path in enumerate(paths):
        scene = _scene(np.random.default_rng((seed, index)), index, size)
        write_video(path, (image for image, _ in _draw(scene, frames, size)), FPS)
    return paths


def render_evaluation_set(
    out: Path,
    sequences: int = 2,
    frames: int = 20,
    size: tuple[int, int] = (128, 160),
    seed: int = 0,
) -> Path:
    """Write sequences with exact masks in the layout of DAVIS-2017, and a video of each; return
    ``out``.

    ``JPEGImages/480p/NAME/00000.jpg``, ``Annotations/480p/NAME/00000.png`` (palette, id = object),
    ``ImageSets/2017/val.txt``, ``NAME.mp4``. The folder is called 480p as in the data set, whatever
    the size.

    Raises:
        ValueError: as ``render_training_videos``.
    """
    _check_size(size)
    names = [f"sample-{index:02d}" for index in range(sequences)]
    for index, name in enumerate(names):
        scene = _scene(np.random.default_rng((seed, index, 1)), index, size)
        pictures = list(_draw(scene, frames, size))
        write_sequence(out, name, pictures)
        write_video(out / f"{name}.mp4", (image for image, _ in pictures), FPS)
    listing = out / "ImageSets" / "2017" / "val.txt"
    listing.parent.mkdir(parents=True, exist_ok=True)
    listing.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return out


def write_sequence(out: Path, name: str, pictures: list[tuple[U8, U8]]) -> None:
    """Write frames uint8 (H, W, 3) and masks uint8 (H, W) of one sequence in the layout of
    DAVIS-2017."""
    images, annotations = (out / kind / "480p" / name for kind in ("JPEGImages", "Annotations"))
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    for t, (image, mask) in enumerate(pictures):
        Image.fromarray(image).save(images / f"{t:05d}.jpg", quality=JPEG_QUALITY)
        picture = Image.fromarray(mask)
        picture.putpalette(LABEL_COLORS.tobytes())
        picture.save(annotations / f"{t:05d}.png")


def _check_size(size: tuple[int, int]) -> None:
    height, width = size
    if height % 2 or width % 2 or not height <= width <= 2 * height:
        raise ValueError(f"size (H, W) must be even and 1 to 2 times as wide as high, got {size}")


@cache
def _photograph(name: str) -> F32:
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(name), dtype=np.float32)


def _scene(rng: np.random.Generator, index: int, size: tuple[int, int]) -> Scene:
    name = ("china.jpg", "flower.jpg")[index % 2]
    cast = CASTS[name][index // 2 % len(CASTS[name])]
    aspect = size[1] / size[0]
    paths = _crossing_paths(rng, aspect, len(cast))
    return Scene(
        background=_photograph(name),
        camera=_camera(rng, _photograph(name).shape, aspect),
        cutouts=tuple(_cutout(rng, place, path) for place, path in zip(cast, paths, strict=True)),
        light=(rng.uniform(0.05, 0.1), rng.uniform(0, 2 * math.pi)),
    )


def _camera(rng: np.random.Generator, shape: tuple[int, ...], aspect: float) -> Motion:
    """A drift over the photograph, which never shows its border. Positions in units of the
    photograph's height."""
    view = rng.uniform(0.55, 0.62), rng.uniform(0.55, 0.62)  # height of what is seen
    room_x, room_y = shape[1] / shape[0] - max(view) * aspect, 1 - max(view)
    side = rng.choice((-1, 1))
    start = (side * room_x * rng.uniform(0.25, 0.48), room_y * rng.uniform(-0.45, 0.45))
    end = (start[0] - side * room_x * rng.uniform(0.3, 0.5), room_y * rng.uniform(-0.45, 0.45))
    return Motion(start=start, end=end, bulge=0.0, scale=view, angle=(0.0, 0.0))


def _crossing_paths(rng: np.random.Generator, aspect: float, count: int) -> list[Motion]:
    """Paths across the picture; two objects go opposite ways and meet half way, where one hides
    part of the other."""
    side, slope = rng.choice((-1, 1)), rng.uniform(-0.12, 0.12)
    motions = []
    for k in range(count):
        way = side if k == 0 else -side
        lift = 0.0 if count == 1 else (0.13, -0.13)[k]
        reach = aspect / 2 - 0.3
        motions.append(
            Motion(
                start=(-way * reach, lift - slope),
                end=(way * reach, lift + slope),
                bulge=rng.uniform(-0.08, 0.08),
                scale=_shuffled(rng, rng.uniform(0.19, 0.21), rng.uniform(0.25, 0.28)),
                angle=_shuffled(rng, 0.0, rng.uniform(0.6, 1.2)),
            )
        )
    return motions


def _shuffled(rng: np.random.Generator, a: float, b: float) -> tuple[float, float]:
    return (a, b) if rng.random() < 0.5 else (b, a)


def _cutout(rng: np.random.Generator, place: Place, motion: Motion) -> Cutout:
    """Cut a square around ``place``, with margin for the shadow's blur, and give it an irregular
    smooth outline."""
    reach = round(place.radius * 1.4)
    photograph = _photograph(place.photograph)
    padded = cv2.copyMakeBorder(photograph, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    texture = padded[place.y : place.y + 2 * reach, place.x : place.x + 2 * reach]
    return Cutout(
        texture=np.ascontiguousarray(texture),
        coverage=_outline(rng, place.radius, reach),
        motion=motion,
    )


def _outline(rng: np.random.Generator, radius: int, reach: int) -> F32:
    """Coverage of a closed curve r(angle) = radius * (1 + sum of waves): a blob, a star or a scalloped disk."""
    lobes, depth = ((2, 0.10), (5, 0.13), (9, 0.04))[rng.integers(3)]
    angles = np.linspace(0, 2 * math.pi, 360, endpoint=False)
    waves = depth * np.cos(lobes * angles + rng.uniform(0, 2 * math.pi))
    for k in (2, 3, 4):
        waves += rng.uniform(0, 0.05) * np.cos(k * angles + rng.uniform(0, 2 * math.pi))
    r = radius * (1 + waves) / (1 + waves.max())
    points = reach + r[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    canvas = np.zeros((2 * reach, 2 * reach), dtype=np.uint8)
    cv2.fillPoly(
        canvas, [np.round(points * 16).astype(np.int32)], 255, lineType=cv2.LINE_AA, shift=4
    )
    return np.asarray(canvas / 255, dtype=np.float32)


def _draw(scene: Scene, frames: int, size: tuple[int, int]) -> Iterator[tuple[U8, U8]]:
    """Yield the picture uint8 (H, W, 3) and the mask uint8 (H, W) of every frame."""
    for t in range(frames):
        image, covered = _draw_large(scene, t / max(1, frames - 1), size)
        small = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        light = 1 + scene.light[0] * math.sin(scene.light[1] + 3 * t / max(1, frames - 1))
        shares = np.stack(
            [cv2.resize(c, (size[1], size[0]), interpolation=cv2.INTER_AREA) for c in covered]
        )
        mask = np.where(shares.max(axis=0) > 0.5, shares.argmax(axis=0) + 1, 0)
        yield np.clip(small * light, 0, 255).round().astype(np.uint8), mask.astype(np.uint8)


def _draw_large(scene: Scene, u: float, size: tuple[int, int]) -> tuple[F32, list[F32]]:
    """The supersampled picture, float32 (sH, sW, 3), and what is visible of each object, float32
    (sH, sW)."""
    H, W = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
    image = _warp(scene.background, _camera_matrix(scene, u, (H, W)), (H, W))
    covered: list[F32] = []
    for cutout in scene.cutouts:
        matrix = _object_matrix(cutout, u, (H, W))
        texture = _warp(cutout.texture, matrix, (H, W))
        coverage = _warp(cutout.coverage, matrix, (H, W), cv2.BORDER_CONSTANT)
        shadow = cv2.GaussianBlur(
            np.roll(coverage, (H // 40, H // 60), axis=(0, 1)), (0, 0), H / 50
        )
        image = image * (1 - SHADOW * shadow[..., None])
        image = image * (1 - coverage[..., None]) + texture * coverage[..., None]
        covered = [behind * (1 - coverage) for behind in covered] + [coverage]
    return image, covered


def _warp(
    picture: F32, matrix: F32, shape: tuple[int, int], border: int = cv2.BORDER_REFLECT_101
) -> F32:
    warped = cv2.warpAffine(
        picture, matrix, (shape[1], shape[0]), flags=cv2.INTER_LINEAR, borderMode=border
    )
    return np.asarray(warped, dtype=np.float32)


def _camera_matrix(scene: Scene, u: float, shape: tuple[int, int]) -> F32:
    """Photograph pixels -> picture pixels."""
    height, width = scene.background.shape[:2]
    x, y, view, _ = scene.camera.at(u)
    zoom = shape[0] / (view * height)
    centre_x, centre_y = width / 2 + x * height, height / 2 + y * height
    return np.array(
        [[zoom, 0, shape[1] / 2 - zoom * centre_x], [0, zoom, shape[0] / 2 - zoom * centre_y]],
        dtype=np.float32,
    )


def _object_matrix(cutout: Cutout, u: float, shape: tuple[int, int]) -> F32:
    """Cut-out pixels -> picture pixels. An object's scale is its radius in units of the picture's
    height."""
    half = cutout.texture.shape[0] / 2
    x, y, scale, angle = cutout.motion.at(u)
    zoom = scale * shape[0] / (half / 1.4)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    centre_x, centre_y = shape[1] / 2 + x * shape[0], shape[0] / 2 + y * shape[0]
    return np.array(
        [[cos, -sin, centre_x - (cos - sin) * half], [sin, cos, centre_y - (sin + cos) * half]],
        dtype=np.float32,
    )
