"""The layout of DAVIS-2017, and what is said when a part of it is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from corrfractal.common.errors import MaskError, NotFoundError, VideoError
from inference.datasets.davis_files import find_year, open_sequence, sequence_names, set_digest
from inference.prompts.mask_images import read_mask, write_mask


def test_sequences_are_listed_in_the_order_of_the_split(davis: Path) -> None:
    assert sequence_names(davis) == ("still", "moving")


def test_frames_and_annotations_have_the_same_size(davis: Path) -> None:
    sequence = open_sequence(davis, "moving")
    assert len(sequence.frames) == len(sequence.annotations) == 7
    assert sequence.frame(3).shape == (160, 192, 3)
    assert sequence.annotation(3).shape == (160, 192)


def test_void_is_background(davis: Path) -> None:
    sequence = open_sequence(davis, "still")
    mask = sequence.annotation(0)
    mask[:3] = 255
    write_mask(sequence.annotations[0], mask)
    assert np.unique(sequence.annotation(0)).tolist() == [0, 1, 2]


@pytest.mark.parametrize("part", ["JPEGImages/480p", "Annotations/480p", "ImageSets/2017/val.txt"])
def test_a_missing_part_is_named(davis: Path, part: str) -> None:
    path = davis / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(NotFoundError, match=str(path)):
        sequence_names(davis)


def test_a_missing_annotation_is_named(davis: Path) -> None:
    missing = davis / "Annotations" / "480p" / "still" / "00004.png"
    missing.unlink()
    with pytest.raises(NotFoundError, match=str(missing)):
        open_sequence(davis, "still")


def test_a_missing_sequence_is_named(davis: Path) -> None:
    shutil.rmtree(davis / "JPEGImages" / "480p" / "moving")
    with pytest.raises(NotFoundError, match=str(davis / "JPEGImages" / "480p" / "moving")):
        open_sequence(davis, "moving")


def test_damaged_files_are_named(davis: Path) -> None:
    sequence = open_sequence(davis, "still")
    sequence.frames[2].write_bytes(b"not a picture")
    sequence.annotations[2].write_bytes(sequence.annotations[2].read_bytes()[:40])
    with pytest.raises(VideoError, match=str(sequence.frames[2])):
        sequence.frame(2)
    with pytest.raises(MaskError, match=str(sequence.annotations[2])):
        sequence.annotation(2)


def test_the_fingerprint_changes_with_the_files(davis: Path) -> None:
    sequence = open_sequence(davis, "still")
    before = sequence.fingerprint()
    assert before == open_sequence(davis, "still").fingerprint()
    sequence.frames[0].write_bytes(b"other")
    assert sequence.fingerprint() != before


def as_2016(davis: Path, pairs: bool) -> None:
    """Turn the data set into the layout of DAVIS-2016: one object of value 255, the list in either
    of its forms."""
    shutil.rmtree(davis / "ImageSets" / "2017")
    lines = "still\nmoving\n"
    if pairs:
        lines = "".join(
            f"/JPEGImages/480p/{name}/{t:05d}.jpg /Annotations/480p/{name}/{t:05d}.png\n"
            for name in ("still", "moving")
            for t in range(7)
        )
    path = davis / "ImageSets" / ("480p" if pairs else "2016") / "val.txt"
    path.parent.mkdir()
    path.write_text(lines)
    for annotation in (davis / "Annotations").rglob("*.png"):
        mask = read_mask(annotation)
        cv2.imwrite(str(annotation), np.where(mask > 0, 255, 0).astype(np.uint8))


@pytest.mark.parametrize("pairs", [True, False])
def test_davis_2016_is_one_object_of_any_value_listed_by_name_or_by_pairs(
    davis: Path, pairs: bool
) -> None:
    as_2016(davis, pairs)
    assert find_year(davis) == "2016"
    assert sequence_names(davis) == ("still", "moving")
    sequence = open_sequence(davis, "moving")
    assert sequence.objects() == (1,)
    assert np.unique(sequence.annotation(3)).tolist() == [0, 1]


def test_a_missing_list_of_2016_is_named(davis: Path) -> None:
    with pytest.raises(NotFoundError, match=str(davis / "ImageSets" / "2016" / "val.txt")):
        sequence_names(davis, year="2016")


def test_objects_are_counted_up_to_the_highest_id_as_officially(davis: Path) -> None:
    sequence = open_sequence(davis, "still")
    mask = sequence.annotation(0)
    write_mask(sequence.annotations[0], np.where(mask == 1, np.uint8(0), mask))
    assert sequence.objects() == (1, 2)
    write_mask(sequence.annotations[0], np.zeros_like(mask))
    with pytest.raises(MaskError, match=f"{sequence.annotations[0]} holds no object"):
        sequence.objects()


def test_the_digest_of_a_set_changes_with_one_pixel_of_one_annotation(
    davis: Path, tmp_path: Path
) -> None:
    before = set_digest(davis)
    shutil.copytree(davis, tmp_path / "elsewhere")
    assert set_digest(tmp_path / "elsewhere") == before
    mask = open_sequence(davis, "moving").annotation(3)
    mask[0, 0] = 1
    write_mask(open_sequence(davis, "moving").annotations[3], mask)
    assert set_digest(davis) != before
