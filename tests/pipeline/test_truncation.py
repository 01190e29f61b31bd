from __future__ import annotations

from corrfractal.video import open_video
from pipeline.truncation import truncation


def test_a_file_that_was_cut_is_noticed_and_a_whole_one_is_not(videos):
    whole = open_video(videos / "sub" / "long.mkv")
    assert truncation(whole.info, float(whole.times()[-1])) is None
    cut = open_video(videos / "cut.mkv", "pyav")
    assert "cut short" in truncation(cut.info, float(cut.times()[-1]))
