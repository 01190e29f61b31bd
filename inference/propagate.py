"""Label propagation through one video: frames and prompts in, a mask for every frame out (paper,
III-D, Fig. 5b).

Frames are streamed: memory use is independent of the video's length. One pass runs forward from the
first prompted frame, with later masks as corrections, and one backward to frame 0. Each mask is
written as soon as it is known; a rerun resumes after the existing masks and ends at the same ones.
"""

from __future__ import annotations

from pathlib import Path

from corrfractal.common.console import progress
from corrfractal.files.output_guard import refuse_overlap
from inference.prompts.keypoints import Points
from inference.prompts.shapes import Prompts
from inference.propagation.outputs import Outputs
from inference.propagation.video_job import Propagation, PropagationJob

from .config import InferenceConfig
from .load import open_model, resolve_model


def propagate_video(
    video: Path,
    given: Prompts | Points | Path,
    out: Path,
    model: str | None = None,
    config: InferenceConfig | None = None,
    *,
    outputs: Outputs | None = None,
    overlay: Path | None = None,
    overwrite: bool = False,
    uri: str | None = None,
) -> Propagation:
    """Propagate masks or key points through a video.

    Args:
        video: file, or folder of frames.
        given: masks and shapes by frame; or the mask file of the first frame; or key points.
        out: folder for one palette PNG per frame, named as the frame (``00000.png`` onwards for a
            video file); made if missing. For key points, ``points.csv``.
        model: see ``inference.load.resolve_model``.
        outputs: what else to write.
        overlay: short for ``Outputs(overlay=...)``; ignored if ``outputs`` is given.
        overwrite: replace files that this command did not write.
        uri: the folder of which ``out`` is a ``working_copy``; results name it.

    Raises:
        CallError, NotFoundError, MaskError: the call is wrong; nothing was written.
        VideoError: a frame cannot be decoded; masks of the frames before it are kept.
    """
    prompts = Prompts(masks={0: given}) if isinstance(given, Path) else given
    job = PropagationJob(
        video=video,
        prompts=prompts,
        out=out,
        outputs=outputs or Outputs(overlay=overlay),
        overwrite=overwrite,
        uri=uri,
    )
    # All checks precede the load of the model, which takes seconds.
    refuse_overlap(job.places, (video, *prompts.files, None if model is None else Path(model)))
    opened = job.check()
    source = resolve_model(model)
    with progress("propagate", opened.info.frames) as advance:
        return job.run(opened, source, open_model(source), config or InferenceConfig(), advance)
