from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from corrfractal.common.errors import IntegrityError
from corrfractal.shards.clip import Clip, colorize, decode_clip, encode_clip


@pytest.fixture
def clip(moving_frames):
    labels = np.random.default_rng(0).integers(0, 16, (2, 3, 160, 192)).astype(np.uint8)
    meta = {
        "source": "a/é.mp4",
        "frame_indices": [0, 3, 6],
        "seconds": [0.0, 0.125, 0.25],
        "codebooks": [{}, {}],
    }
    return Clip(key="a-1_00000", frames=moving_frames[:3], labels=labels, meta=meta)


def test_decoding_restores_labels_and_meta_exactly_and_frames_approximately(clip):
    decoded = decode_clip(encode_clip(clip))
    np.testing.assert_array_equal(decoded.labels, clip.labels)
    assert decoded.meta == clip.meta
    assert decoded.key == clip.key
    assert np.abs(decoded.frames.astype(int) - clip.frames).mean() < 4


def test_encoding_is_repeatable_and_its_members_are_sorted(clip):
    assert encode_clip(clip) == encode_clip(clip)
    assert list(encode_clip(clip)) == sorted(encode_clip(clip))


def test_only_the_named_frames_and_views_are_decoded(clip):
    members = encode_clip(clip)
    del members["a-1_00000.f001.jpg"]
    del members["a-1_00000.v0.f000.png"]
    part = decode_clip(members, frames=(2, 0), views=(1,))
    np.testing.assert_array_equal(part.labels, clip.labels[1:, [2, 0]])


def test_label_maps_are_palette_images_of_four_bits(clip):
    data = encode_clip(clip)["a-1_00000.v1.f002.png"]
    with Image.open(io.BytesIO(data)) as image:
        assert image.mode == "P"
        assert data[24] == 4  # bit depth in a PNG's header
        np.testing.assert_array_equal(np.array(image), clip.labels[1, 2])


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (33, 20)])
def test_label_maps_of_any_size_are_restored(size):
    labels = np.random.default_rng(0).integers(0, 16, (1, 1, *size)).astype(np.uint8)
    meta = {"frame_indices": [0], "codebooks": [{}]}
    clip = Clip(key="a_0", frames=np.zeros((1, *size, 3), np.uint8), labels=labels, meta=meta)
    members = encode_clip(clip)
    np.testing.assert_array_equal(decode_clip(members).labels, labels)
    png = np.frombuffer(members["a_0.v0.f000.png"], np.uint8)
    assert cv2.imdecode(png, cv2.IMREAD_COLOR).shape[:2] == size


def test_a_missing_member_is_named(clip):
    members = encode_clip(clip)
    del members["a-1_00000.f001.jpg"]
    with pytest.raises(IntegrityError, match=r"f001\.jpg"):
        decode_clip(members)


@pytest.mark.parametrize("name", ["a-1_00000.f001.jpg", "a-1_00000.v0.f001.png"])
def test_a_damaged_member_is_named(clip, name):
    with pytest.raises(IntegrityError, match=name):
        decode_clip(encode_clip(clip) | {name: b"not an image"})


def test_a_key_holds_no_dot_and_no_slash(clip):
    with pytest.raises(ValueError, match="no dot"):
        Clip(key="a.b", frames=clip.frames, labels=clip.labels, meta={})


def test_colours_of_labels_differ():
    assert len({tuple(c) for c in colorize(np.arange(16, dtype=np.uint8))}) == 16
