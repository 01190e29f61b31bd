"""Videos and frame folders: find them, identify them, and read them the same way in all commands.

- ``open_video(path)`` reads a video file or a frame folder: RGB, upright, with presentation times.
- ``write_video``, ``resize_area``: encode a video; resize as the pipeline does.
- ``discovery.discover(names)`` finds the videos behind files, folders, globs, lists and URIs.
- ``content.read_content(path)`` identifies a video by the SHA-256 of the bytes that are decoded.
- ``container.read_container(path)`` says what a file shows without decoding it.
- ``images.read_image``, ``masks.read_mask`` read single pictures and object masks.

Damage raises ``corrfractal.common.errors.VideoError``, which names the first bad frame. Example::

    from corrfractal.video import open_video
    video = open_video("clip.mp4")
    print(video.info.frames, video.info.fps, video.info.height, video.info.width)
    for frame in video.frames([0, 10, 20]):
        print(frame.index, frame.seconds, frame.image.shape)  # uint8 (H, W, 3) RGB

The names of ``__all__`` are imported on first use, so that listing a folder loads no decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from corrfractal.video.reader import (
        Frame,
        Video,
        VideoInfo,
        open_video,
        resize_area,
        write_video,
    )

__all__ = ["Frame", "Video", "VideoInfo", "open_video", "resize_area", "write_video"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".reader", __name__), name)
