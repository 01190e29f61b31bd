"""Layout of VIP (video instance-level parsing), part VIP_Fine, as published.

    Images/<video>/<frame>.jpg                       every 25th frame, all annotated
    Annotations/Category_ids/<video>/<frame>.png     ids 0..19
    lists/val_videos.txt                             a video per line

Source: Zhou et al., "Adaptive temporal encoding network for video instance-level human parsing"
(ACM MM 2018), https://sysu-hcp.net/lip/video_parsing.php.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import MaskError, NotFoundError
from inference.prompts.mask_images import read_mask

from .folders import files_in, fingerprint, read_lines, read_picture, require_folders

U8 = npt.NDArray[np.uint8]

PARTS = (
    "background", "hat", "hair", "glove", "sunglasses", "upper-clothes", "dress", "coat", "socks",
    "pants", "torso-skin", "scarf", "skirt", "face", "left-arm", "right-arm", "left-leg",
    "right-leg", "left-shoe", "right-shoe",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class VipVideo:
    """The files of one annotated video; pictures are read on demand.

    Attributes:
        name: such as ``videos1``.
        frames: JPEG files, in order.
        annotations: PNG files, one per frame.
    """

    name: str
    frames: tuple[Path, ...]
    annotations: tuple[Path, ...]

    def frame(self, t: int) -> U8:
        """Frame t, uint8 (H, W, 3) RGB.

        Raises:
            VideoError: the file is not a readable image.
        """
        return read_picture(self.frames[t], t)

    def annotation(self, t: int) -> U8:
        """Part ids of frame t, uint8 (H, W); ids of 20 and above are ignored in scores.

        Raises:
            MaskError: the file is not a readable mask.
        """
        return read_mask(self.annotations[t])

    def first(self) -> U8:
        """Part ids of the first frame, uint8 (H, W), with ignored ids as background.

        Raises:
            MaskError: it has no part.
        """
        mask = self.annotation(0)
        mask = np.where(mask < len(PARTS), mask, np.uint8(0))
        if not mask.any():
            raise MaskError(f"the first annotation {self.annotations[0]} holds no part")
        return mask

    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all files."""
        return fingerprint((*self.frames, *self.annotations))


def video_names(root: Path, split: str = "val") -> tuple[str, ...]:
    """Names of the videos of a split, in the order of its list.

    Raises:
        NotFoundError: ``root`` is not the data set; names the folder or file that was expected.
    """
    require_folders("VIP", root, root / "Images", root / "Annotations" / "Category_ids")
    lines = read_lines(f"VIP {split}", root / "lists" / f"{split}_videos.txt")
    return tuple(dict.fromkeys(PurePosixPath(line).name for line in lines))


def open_video(root: Path, name: str) -> VipVideo:
    """Look up the files of a video.

    Raises:
        NotFoundError: a folder is missing or empty, or a frame has no annotation; names it.
    """
    frames = files_in(root / "Images" / name, ".jpg")
    folder = root / "Annotations" / "Category_ids" / name
    files_in(folder, ".png")
    annotations = tuple(folder / f"{frame.stem}.png" for frame in frames)
    missing = [path for path in annotations if not path.is_file()]
    if missing:
        raise NotFoundError(
            f"video {name}: {len(missing)} annotations are missing, the first is {missing[0]}"
        )
    if len(frames) < 2:
        raise NotFoundError(
            f"video {name} has 1 frame in {frames[0].parent}: at least 2 are needed"
        )
    return VipVideo(name=name, frames=frames, annotations=annotations)
