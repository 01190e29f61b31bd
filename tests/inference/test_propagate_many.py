"""Many videos are spread over workers; failures are named and do not stop the rest."""

from __future__ import annotations

from pathlib import Path

import pytest

from corrfractal.common.errors import CorrFractalError
from inference.propagate_many import propagate_videos
from inference.propagation.outputs import Outputs


def test_a_broken_video_is_named_the_others_are_done_and_a_rerun_keeps_them(
    ray_session: None, video_folder: Path, mask_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    outputs = Outputs(overlay=tmp_path / "films")
    with pytest.raises(
        CorrFractalError,
        match=r"1 of 3 videos failed \(broken: cannot open the video .*broken\.mp4",
    ):
        propagate_videos(
            video_folder, mask_folder, out, "baseline:copy", outputs=outputs, workers=2
        )
    assert len(list((out / "one").glob("*.png"))) == len(list((out / "two").glob("*.png"))) == 24
    assert sorted(path.name for path in (tmp_path / "films").iterdir()) == ["one.mp4", "two.mp4"]
    done = propagate_videos(video_folder / "notes.txt", mask_folder, out, "baseline:copy")
    assert [Path(result.video).name for result in done] == ["one.mp4", "two.mp4"]
