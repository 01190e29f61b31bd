"""The command ``corrfractal propagate``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.common.command_line import examples
from corrfractal.common.console import command, say

from .options import (
    FILE,
    MODEL,
    OVERWRITE,
    PLACE,
    inference_config,
    tracker_options,
    workers_option,
)

WORK = "propagation"


@click.command(
    epilog=examples(
        "corrfractal propagate clip.mp4 --mask first.png --out masks --video overlay.mp4",
        "corrfractal propagate clip.mp4 --box 1,200,80,420,360 --out masks --fast",
        "corrfractal propagate clip.mp4 --mask first.png --mask 60:later.png --out masks",
        "corrfractal propagate clip.mp4 --points joints.csv --out points --model champion",
        "corrfractal propagate clips/ --mask first_masks/ --out masks --workers 2",
    )
)
@click.argument("video", type=FILE)
@click.option(
    "--mask",
    "--parts",
    "masks",
    multiple=True,
    metavar="PNG|FRAME:PNG|FOLDER",
    help="Mask of the first frame, or of FRAME, or a folder of PNG files named by their frames: "
    "palette or grey, 0 = background, other values = objects or parts. Masks of later frames "
    "correct and add objects. FRAME is a number from 0 or, for a folder of frames, a file name "
    "without suffix.",
)
@click.option(
    "--box",
    "boxes",
    multiple=True,
    metavar="[FRAME:]ID,X0,Y0,X1,Y1",
    help="An object given as a box, in pixels. Everything inside is tracked.",
)
@click.option(
    "--point",
    "points",
    multiple=True,
    metavar="[FRAME:]ID,X,Y[,RADIUS]",
    help="An object given as a disk, in pixels.",
)
@click.option(
    "--points",
    "keypoints",
    type=FILE,
    help="Track key points instead of masks: CSV id,x,y or JSON {name: [x, y]}.",
)
@click.option(
    "--out",
    type=PLACE,
    required=True,
    help="Folder for the masks, named as the frames (00000.png onwards for a video file); for key "
    "points, points.csv. At a URI, --video, --contours and --cutout are local or inside it.",
)
@OVERWRITE
@MODEL
@click.option(
    "--video",
    "overlay",
    type=PLACE,
    help="Also write an h264 video (.mp4) with the objects tinted.",
)
@click.option(
    "--contours", type=PLACE, help="Also write an h264 video with the outlines of the objects."
)
@click.option(
    "--cutout",
    type=PLACE,
    help="Also write the objects alone with an alpha channel: a .webm, or a folder of PNG files.",
)
@click.option(
    "--probabilities",
    is_flag=True,
    help="Also write 8-bit soft labels, OUT/probabilities/ID/00000.png.",
)
@workers_option("Videos")
@tracker_options
@command
def propagate(
    video: Path,
    masks: tuple[str, ...],
    boxes: tuple[str, ...],
    points: tuple[str, ...],
    keypoints: Path | None,
    out: str | Path,
    model: str | None,
    overlay: str | Path | None,
    contours: str | Path | None,
    cutout: str | Path | None,
    probabilities: bool,
    workers: int | None,
    overwrite: bool,
    **tracker: Any,
) -> dict[str, Any]:
    """Propagate masks or key points through VIDEO: one mask per frame. Resumable: rerun after an
    interruption.

    VIDEO is a file, a folder of frames, or many videos: a folder of them, or a text file that lists
    them. For many, --mask is a folder that holds NAME.png, or a folder NAME of numbered masks, for
    each video; --video, --contours and --cutout are folders, too.
    """
    # Imported late: --help stays fast.
    from dataclasses import asdict

    from corrfractal.files.working_copy import WorkingCopy, working_copy
    from inference.prompts.keypoints import read_points
    from inference.prompts.shapes import read_prompts
    from inference.propagation.outputs import Outputs
    from inference.propagation.videos import frame_names, is_many

    from .propagate import propagate_video

    config = inference_config(**tracker)

    def outputs_in(copy: WorkingCopy) -> Outputs:
        return Outputs(
            overlay=copy.local(overlay),
            contours=copy.local(contours),
            cutout=copy.local(cutout),
            probabilities=probabilities,
        )

    if is_many(video):
        from .propagate_many import propagate_videos

        if len(masks) != 1 or boxes or points or keypoints:
            raise click.UsageError(
                "many videos take one --mask FOLDER that holds NAME.png for each of them"
            )
        with working_copy(out, WORK) as copy:
            done = propagate_videos(
                video,
                Path(masks[0]),
                copy.folder,
                model,
                config,
                outputs=outputs_in(copy),
                workers=workers,
                overwrite=overwrite,
                uri=copy.uri,
            )
        say(f"{sum(result.frames for result in done)} masks of {len(done)} videos in {out}")
        return {"videos": [asdict(result) for result in done]}

    # Click cannot state that options exclude each other.
    if keypoints is not None and (masks or boxes or points):
        raise click.UsageError(
            "--points tracks key points only: propagate masks in a separate command"
        )
    frames = frame_names(video)
    given = (
        read_prompts(masks, boxes, points, frames)
        if keypoints is None
        else read_points(keypoints, frames)
    )
    with working_copy(out, WORK) as copy:
        result = propagate_video(
            video,
            given,
            copy.folder,
            model,
            config,
            outputs=outputs_in(copy),
            overwrite=overwrite,
            uri=copy.uri,
        )

    objects = ", ".join(map(str, result.objects))
    what = "masks of object" if keypoints is None else "frames with point"
    kept = f", {result.kept} of them kept from an earlier run" if result.kept else ""
    say(
        f"{result.frames} {what} {objects} in {out}{kept} "
        f"({result.seconds_per_frame:.2f} s per frame, {result.model})"
    )
    for path in (overlay, contours, cutout):
        if path is not None:
            say(f"also written: {path}")
    return asdict(result)
