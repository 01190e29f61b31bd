"""Layout of JHMDB, as published.

    Rename_Images/<class>/<video>/00001.png ...
    joint_positions/<class>/<video>/joint_positions.mat   pos_img (2, 15, T): x, y, counted from 1
    splits/<class>_test_split<1|2|3>.txt                  "<video>.avi 1" (train) or "2" (test)

Joints may be outside the picture.

Source: Jhuang et al., "Towards understanding action recognition" (ICCV 2013),
http://jhmdb.is.tue.mpg.de.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from corrfractal.common.errors import IntegrityError, NotFoundError

from .folders import files_in, fingerprint, read_lines, read_picture, require_folders

U8 = npt.NDArray[np.uint8]
Float = npt.NDArray[np.float64]

JOINTS = (
    "neck", "belly", "face", "right shoulder", "left shoulder", "right hip", "left hip",
    "right elbow", "left elbow", "right knee", "left knee", "right wrist", "left wrist",
    "right ankle", "left ankle",
)  # fmt: skip
SPLITS = ("1", "2", "3", "all")
TEST = "2"


@dataclass(frozen=True, kw_only=True)
class JhmdbVideo:
    """The files of one video and its joints; pictures are read on demand.

    Attributes:
        name: ``<class>/<video>``.
        frames: PNG files, one per annotated frame.
        joints: float64 (T, 15, 2) x, y in pixels, counted from 0; pixel centres are whole numbers.
        mat: file of the joints.
    """

    name: str
    frames: tuple[Path, ...]
    joints: Float
    mat: Path

    def frame(self, t: int) -> U8:
        """Frame t, uint8 (H, W, 3) RGB.

        Raises:
            VideoError: the file is not a readable image.
        """
        return read_picture(self.frames[t], t)

    def fingerprint(self) -> str:
        """SHA-256 over names and contents of all files."""
        return fingerprint((*self.frames, self.mat))


def video_names(root: Path, split: str = "1") -> tuple[str, ...]:
    """``<class>/<video>`` of the test videos of a split, sorted; ``all`` is every video that has
    joints.

    Raises:
        NotFoundError: ``root`` is not the data set, or a listed video is missing; names the folder
        or file.
        IntegrityError: a list has a line that cannot be read.
    """
    require_folders("JHMDB", root, root / "Rename_Images", root / "joint_positions")
    class_of = {
        path.parent.name: path.parent.parent.name
        for path in root.glob("joint_positions/*/*/joint_positions.mat")
    }
    if split == "all":
        if not class_of:
            raise NotFoundError(
                f"the folder {root / 'joint_positions'} holds no CLASS/VIDEO/joint_positions.mat"
            )
        return tuple(sorted(f"{kind}/{video}" for video, kind in class_of.items()))

    # The class comes from the folders: lists such as testlist01.txt do not name it.
    names = []
    for path in _split_files(root / "splits", split):
        for video in _test_videos(path):
            if video not in class_of:
                kind = path.name.removesuffix(f"_test_split{split}.txt")
                missing = root / "joint_positions" / kind / video / "joint_positions.mat"
                raise NotFoundError(f"{path} lists the video {video}, but {missing} does not exist")
            names.append(f"{class_of[video]}/{video}")
    if not names:
        raise NotFoundError(f"the lists of split {split} in {root / 'splits'} hold no test video")
    return tuple(sorted(set(names)))


def open_video(root: Path, name: str) -> JhmdbVideo:
    """Read the joints of a video and look up its frames.

    Raises:
        NotFoundError: a folder or file is missing, or frames are fewer than annotated; names it.
        IntegrityError: the joints cannot be read, or are not 15 points per frame.
    """
    mat = root / "joint_positions" / name / "joint_positions.mat"
    joints = read_joints(mat)
    frames = files_in(root / "Rename_Images" / name, ".png")
    if len(frames) < len(joints):
        raise NotFoundError(
            f"the folder {frames[0].parent} holds {len(frames)} pictures, but {mat} annotates "
            f"{len(joints)} frames"
        )
    return JhmdbVideo(name=name, frames=frames[: len(joints)], joints=joints, mat=mat)


def read_joints(path: Path) -> Float:
    """``pos_img`` of a MATLAB 5 file as float64 (T, 15, 2), counted from 0.

    Raises:
        NotFoundError: no such file.
        IntegrityError: not a MATLAB file, or not 15 finite points per frame.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise NotFoundError(f"the joints {path} do not exist: the data set is incomplete")
    try:
        positions = np.asarray(
            loadmat(path, variable_names=["pos_img"])["pos_img"], dtype=np.float64
        )
    except Exception as exc:  # scipy raises errors of many types for damaged files
        raise IntegrityError(f"the joints {path} are damaged: {exc}") from exc
    if (
        positions.ndim != 3
        or positions.shape[:2] != (2, len(JOINTS))
        or not np.isfinite(positions).all()
    ):
        raise IntegrityError(
            f"the joints {path} are damaged: pos_img is {positions.shape}, not (2, 15, frames)"
        )
    return positions.transpose(2, 1, 0) - 1


def _split_files(folder: Path, split: str) -> list[Path]:
    if not folder.is_dir():
        raise NotFoundError(
            f"the folder {folder} of the official split lists does not exist; --split all needs "
            "none"
        )
    wanted = (f"_split{split}.txt", f"testlist{split}.txt", f"testlist0{split}.txt")
    files = sorted(path for path in folder.rglob("*.txt") if path.name.endswith(wanted))
    if not files:
        expected = folder / f"CLASS_test_split{split}.txt"
        raise NotFoundError(f"no list of split {split}: {expected} was expected")
    return files


def _test_videos(path: Path) -> list[str]:
    videos = []
    for line in read_lines("split", path):
        name, _, number = line.rpartition(" ")
        if number not in ("0", "1", TEST) or not name:
            raise IntegrityError(
                f"{path} is no split list: a line is VIDEO 1 (train) or VIDEO 2 (test), not "
                f"{line!r}"
            )
        if number == TEST:
            videos.append(Path(name.strip()).name.removesuffix(".avi"))
    return videos
