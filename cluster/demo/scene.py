"""Scenes of the demo's sample videos: what moves where, drawn from a seed.

A scene is a camera drifting over one of scikit-learn's two photographs, and one or two textured
cut-outs of the other one. They move on arcs, rotate, grow or shrink, and pass in front of each
other, while the brightness changes a little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]

# Half the side of a cut-out's square, in units of its object's radius.
MARGIN = 1.4


@dataclass(frozen=True, kw_only=True)
class Place:
    """A disk of a photograph, in its pixels, from which an object is cut."""

    photograph: str
    x: int
    y: int
    radius: int


# Objects of one photograph move over the other one, so that their texture differs from the
# background's.
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
    """At the start and at the end; interpolated geometrically."""
    angle: tuple[float, float]
    """At the start and at the end; interpolated linearly."""

    def at(self, u: float) -> tuple[float, float, float, float]:
        """x, y, scale and angle at ``u``."""
        dx = self.end[0] - self.start[0]
        dy = self.end[1] - self.start[1]
        arc = self.bulge * math.sin(math.pi * u)
        x = self.start[0] + u * dx - arc * dy
        y = self.start[1] + u * dy + arc * dx
        scale = self.scale[0] * (self.scale[1] / self.scale[0]) ** u
        angle = self.angle[0] + u * (self.angle[1] - self.angle[0])
        return x, y, scale, angle


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """An object cut from a photograph, in a square of S x S pixels."""

    texture: F32
    """(S, S, 3), grey levels 0..255."""
    coverage: F32
    """(S, S), opacity 0..1."""
    motion: Motion


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Everything that is needed to draw a video."""

    background: F32
    """(H, W, 3), grey levels 0..255."""
    camera: Motion
    """Position over the background; ``scale`` is the visible share of the background's height."""
    cutouts: tuple[Cutout, ...]
    """Ordered back to front; object ``k`` has mask id ``k + 1``."""
    light: tuple[float, float]
    """Amplitude and phase of the brightness change."""


def compose_scene(rng: np.random.Generator, index: int, size: tuple[int, int]) -> Scene:
    """Draw the scene of video ``index``, whose pictures have ``size`` (H, W).

    Consecutive videos alternate between the photographs, and cycle through ``CASTS``.
    """
    name = ("china.jpg", "flower.jpg")[index % 2]
    cast = CASTS[name][index // 2 % len(CASTS[name])]
    aspect = size[1] / size[0]

    # The order of the draws from rng is part of the pictures: keep it.
    paths = _crossing_paths(rng, aspect, len(cast))
    camera = _camera_path(rng, _photograph(name).shape, aspect)
    cutouts = tuple(_cutout(rng, place, path) for place, path in zip(cast, paths, strict=True))
    amplitude = rng.uniform(0.05, 0.1)
    phase = rng.uniform(0, 2 * math.pi)
    return Scene(
        background=_photograph(name),
        camera=camera,
        cutouts=cutouts,
        light=(amplitude, phase),
    )


@cache
def _photograph(name: str) -> F32:
    from sklearn.datasets import load_sample_image

    return np.asarray(load_sample_image(name), dtype=np.float32)


def _camera_path(rng: np.random.Generator, shape: tuple[int, ...], aspect: float) -> Motion:
    """A drift over a photograph of ``shape`` (H, W, 3) that never reaches its border.

    Positions are in units of the photograph's height.
    """
    view = (rng.uniform(0.55, 0.62), rng.uniform(0.55, 0.62))
    # Distance that the view can move in x and y.
    room_x = shape[1] / shape[0] - max(view) * aspect
    room_y = 1 - max(view)
    side = rng.choice((-1, 1))
    start = (side * room_x * rng.uniform(0.25, 0.48), room_y * rng.uniform(-0.45, 0.45))
    end = (start[0] - side * room_x * rng.uniform(0.3, 0.5), room_y * rng.uniform(-0.45, 0.45))
    return Motion(start=start, end=end, bulge=0.0, scale=view, angle=(0.0, 0.0))


def _crossing_paths(rng: np.random.Generator, aspect: float, count: int) -> list[Motion]:
    """Paths across the picture, which is ``aspect`` times as wide as high.

    Two objects move in opposite directions and meet half way, where one occludes the other.
    """
    side = rng.choice((-1, 1))
    slope = rng.uniform(-0.12, 0.12)
    reach = aspect / 2 - 0.3
    motions = []
    for k in range(count):
        direction = side if k == 0 else -side
        # Vertical offsets keep part of the hidden object visible.
        lift = 0.0 if count == 1 else (0.13, -0.13)[k]
        motions.append(
            Motion(
                start=(-direction * reach, lift - slope),
                end=(direction * reach, lift + slope),
                bulge=rng.uniform(-0.08, 0.08),
                scale=_shuffled(rng, rng.uniform(0.19, 0.21), rng.uniform(0.25, 0.28)),
                angle=_shuffled(rng, 0.0, rng.uniform(0.6, 1.2)),
            )
        )
    return motions


def _shuffled(rng: np.random.Generator, a: float, b: float) -> tuple[float, float]:
    return (a, b) if rng.random() < 0.5 else (b, a)


def _cutout(rng: np.random.Generator, place: Place, motion: Motion) -> Cutout:
    """Cut a square around ``place``, with a margin for the shadow's blur."""
    reach = round(place.radius * MARGIN)
    photograph = _photograph(place.photograph)
    padded = cv2.copyMakeBorder(photograph, reach, reach, reach, reach, cv2.BORDER_REFLECT_101)
    texture = padded[place.y : place.y + 2 * reach, place.x : place.x + 2 * reach]
    return Cutout(
        texture=np.ascontiguousarray(texture),
        coverage=_random_outline(rng, place.radius, reach),
        motion=motion,
    )


def _random_outline(rng: np.random.Generator, radius: int, reach: int) -> F32:
    """Coverage (2 reach, 2 reach) of a closed curve: a blob, a star or a scalloped disk.

    The curve is r(angle) = radius * (1 + sum of waves), scaled to stay within ``radius``.
    """
    lobes, depth = ((2, 0.10), (5, 0.13), (9, 0.04))[rng.integers(3)]
    angles = np.linspace(0, 2 * math.pi, 360, endpoint=False)
    waves = depth * np.cos(lobes * angles + rng.uniform(0, 2 * math.pi))
    for k in (2, 3, 4):
        waves += rng.uniform(0, 0.05) * np.cos(k * angles + rng.uniform(0, 2 * math.pi))
    r = radius * (1 + waves) / (1 + waves.max())
    points = reach + r[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)

    # fillPoly takes fixed-point coordinates: 4 fractional bits.
    corners = np.round(points * 16).astype(np.int32)
    canvas = np.zeros((2 * reach, 2 * reach), dtype=np.uint8)
    cv2.fillPoly(canvas, [corners], 255, lineType=cv2.LINE_AA, shift=4)
    return np.asarray(canvas / 255, dtype=np.float32)
