"""Videos and folders of frames, one reader for all commands.

Names are imported when they are first used: listing a folder needs no decoder.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .reader import Frame, Video, VideoInfo, open_video, resize_area, write_video

__all__ = ["Frame", "Video", "VideoInfo", "open_video", "resize_area", "write_video"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".reader", __name__), name)
