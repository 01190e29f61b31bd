"""``CorrFractal.propagate``: the masks of a video as an iterator of frames.

``corrfractal propagate`` does more (it writes files, resumes, and runs backward to frame 0); both
give the same masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError
from corrfractal.video import Video, open_video
from corrfractal.video.masks import read_first_mask, read_mask

from .tracker import Tracker
from .tracker_config import TrackerConfig

if TYPE_CHECKING:
    from .model import CorrFractal

U8 = npt.NDArray[np.uint8]

MaskLike: TypeAlias = "npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | str | Path"
"""A mask: object ids uint8 (H, W) with 0 = background, one object as bool (H, W), or an image
file."""


@dataclass(frozen=True, kw_only=True)
class FrameMask:
    """The mask of one frame of a video.

    Attributes:
        index: of the frame, from 0.
        time: presentation time in seconds; the first frame of the video is at 0.
        mask: uint8 (H, W) object ids, 0 = background.
    """

    index: int
    time: float
    mask: U8

    @property
    def objects(self) -> tuple[int, ...]:
        """Ids of the objects that are visible in this frame, ascending."""
        return tuple(int(object_id) for object_id in np.unique(self.mask) if object_id)

    def __repr__(self) -> str:
        height, width = self.mask.shape
        objects = list(self.objects)
        return f"FrameMask(index={self.index}, time={self.time:.3f}, {width}x{height}, {objects=})"


def propagate_masks(
    model: CorrFractal,
    video: str | Path | Video,
    masks: MaskLike | Mapping[int, MaskLike],
    config: TrackerConfig | None = None,
) -> Iterator[FrameMask]:
    """The generator behind ``CorrFractal.propagate``, which documents it. The call itself checks
    the masks; frames are decoded as they are asked for."""
    opened = open_video(video) if isinstance(video, str | Path) else video
    given = dict(masks) if isinstance(masks, Mapping) else {0: masks}
    if not given:
        raise MaskError("no mask is given: the mask of one frame is needed to begin with")
    frames = opened.info.frames
    outside = [index for index in given if not 0 <= index < frames]
    if outside:
        raise MaskError(f"there is no frame {outside[0]}: the video has frames 0 to {frames - 1}")

    size = (opened.info.height, opened.info.width)
    first = min(given)
    ids = {index: _read(mask, size, index == first) for index, mask in given.items()}
    return _propagate(model, opened, ids, config)


def _propagate(
    model: CorrFractal, video: Video, masks: Mapping[int, U8], config: TrackerConfig | None
) -> Iterator[FrameMask]:
    first = min(masks)
    tracker: Tracker | None = None
    for frame in video.frames(range(first, video.info.frames)):
        if tracker is None:
            tracker = model.tracker(frame.image, masks[first], config)
            mask = masks[first]
        else:
            mask = tracker.step(frame.image, masks.get(frame.index))
        yield FrameMask(index=frame.index, time=frame.seconds, mask=mask)


def _read(mask: MaskLike, size: tuple[int, int], is_first: bool) -> U8:
    """Object ids of the size of the frames.

    Raises:
        NotFoundError: no such file.
        MaskError: no mask of that size, or the first one without any object.
    """
    if isinstance(mask, str | Path):
        return read_first_mask(mask, size) if is_first else read_mask(mask, size)
    if mask.dtype not in (np.uint8, np.bool_) or mask.shape != size:
        raise MaskError(
            f"a mask must be uint8 or bool {size}, like its frame; got {mask.dtype} {mask.shape}"
        )
    if is_first and not mask.any():
        raise MaskError("the first mask is all background (0): mark each object with an id >= 1")
    return mask.astype(np.uint8)
