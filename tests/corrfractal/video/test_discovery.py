from __future__ import annotations

from pathlib import PurePosixPath

import pytest

from corrfractal.video.discovery import _relative


@pytest.mark.parametrize(
    "base", ["/data", "/data/", "/", "data", ".", "s3://bucket", "s3://bucket/"]
)
@pytest.mark.parametrize(
    "rest", ["a.mp4", "b/a.mp4", "b//a.mp4", "./a.mp4", "b/./a.mp4", "../a.mp4", "b/../a.mp4"]
)
def test_a_uri_made_from_texts_is_that_made_from_paths(base, rest):
    location = f"{base.rstrip('/')}/{rest}"
    path = PurePosixPath(location)
    inside = path.is_relative_to(base)
    expected = path.relative_to(base).as_posix() if inside else path.name
    assert _relative(location, base) == expected
    assert _relative("/elsewhere/x.mp4", "/data") == "x.mp4"
