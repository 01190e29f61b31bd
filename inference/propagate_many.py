"""Propagation through many videos over a Ray cluster: one task per video.

The chain: list the videos -> match each with its masks -> check every output -> one task per video
-> report failures by name. A video that fails does not stop the others; a rerun does only what is
missing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from corrfractal.common.console import progress
from corrfractal.common.errors import CallError, CorrFractalError, NotFoundError
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.files.storage import join
from corrfractal.runtime.ray_session import ray_session
from corrfractal.runtime.surroundings import cluster_address
from inference.prompts.shapes import Prompts
from inference.propagation.outputs import Outputs, make_folder
from inference.propagation.video_job import Propagation, PropagationJob
from inference.propagation.videos import (
    frame_names,
    list_videos,
    names_of,
    outputs_of,
    prompts_of,
    unused_masks,
)

from .config import InferenceConfig
from .load import ModelSource
from .worker_tasks import (
    RERUN_HINT,
    Failure,
    cached_model,
    list_failures,
    resolve_shared_model,
    run_named_jobs,
    use_one_core,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _VideoJob:
    """What the task of one video needs."""

    name: str
    path: Path
    masks: Path
    out: Path
    outputs: Outputs
    source: ModelSource
    config: InferenceConfig
    overwrite: bool
    uri: str | None


def propagate_videos(
    videos: Path,
    masks: Path,
    out: Path,
    model: str | None,
    config: InferenceConfig | None = None,
    *,
    outputs: Outputs | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    uri: str | None = None,
) -> list[Propagation]:
    """Propagate masks through many videos, each into a folder of its name in ``out``.

    Args:
        videos: folder of videos, searched with its sub-folders, or a list of them
            (``corrfractal.video.discovery``).
        masks: folder with ``NAME.png``, or a folder ``NAME`` of numbered masks, for each video.
        out: folder for the results; made if missing.
        model: see ``inference.load.resolve_model``.
        outputs: what else to write; its paths are folders.
        workers: videos at once; None: ``config.workers``.
        overwrite: replace files that this command did not write.
        uri: the folder of which ``out`` is a ``working_copy``; results name it.

    Returns:
        A result for every video, in the order of their URIs.

    Raises:
        CallError: an output overlaps an input, or would replace files of another origin. Nothing
            was written.
        NotFoundError: no such videos, masks or model.
        CorrFractalError: videos failed; names each with its reason. Results of the others are kept.
    """
    config = config or InferenceConfig()
    outputs = outputs or Outputs()
    if uri is not None and cluster_address() is not None:
        raise CallError(
            f"many videos go to {uri} through a copy on this machine, which other hosts of "
            f"{cluster_address()} do not see: unset RAY_ADDRESS, or name a folder that all share"
        )

    # Before paths are resolved, so that messages show them as the user wrote them.
    refuse_overlap({"--out": out, **outputs.places}, (videos, masks, model and Path(model)))
    out = out.resolve()
    masks = masks.resolve()
    if not masks.is_dir():
        raise NotFoundError(f"the folder of masks {masks} does not exist")

    # Results and masks may be inside the folder of videos, and are no videos.
    result_folders = [path for path in outputs.places.values() if path is not None]
    entries = list_videos(videos, skip=[out, masks, *result_folders])
    refuse_overlap({"--out": out, **outputs.places}, [entry.location for entry in entries])
    entry_by_name = dict(zip(names_of(entries), entries, strict=True))

    # A link in `out` could lead a video's results into an input.
    links = {f"--out {name}": out / name for name in entry_by_name if (out / name).is_symlink()}
    refuse_overlap(links, (videos, masks, *(entry.location for entry in entries)))

    # All outputs are checked before the first is written.
    absolute = _with_absolute_paths(outputs)
    outputs_by_name = {name: outputs_of(name, absolute) for name in entry_by_name}
    for name, video_outputs in outputs_by_name.items():
        PropagationJob(
            video=videos,
            prompts=Prompts(masks={}),
            out=out / name,
            outputs=video_outputs,
            overwrite=overwrite,
        ).refuse_foreign()

    source = resolve_shared_model(model, out, overwrite)
    make_folder(out)
    jobs: dict[str, _VideoJob] = {}
    failures: list[Failure] = []
    for name, entry in entry_by_name.items():
        if entry.fault:
            failures.append(Failure(name=name, reason=entry.fault))
            log.info(f"  {name}: failed, {entry.fault}")
            continue
        jobs[name] = _VideoJob(
            name=name,
            path=Path(entry.location),
            masks=masks,
            out=out / name,
            outputs=outputs_by_name[name],
            source=source,
            config=config,
            overwrite=overwrite,
            uri=uri and join(uri, name),
        )
    # Most often a misspelt name.
    for path in unused_masks(entry_by_name, masks):
        log.info(f"  {path}: no video of this name; the mask is not used")

    done: dict[str, Propagation] = {}
    window = config.workers if workers is None else workers
    with progress("propagate", len(jobs)) as advance, ray_session():
        for name, outcome in run_named_jobs(_propagate_task, jobs, window):
            if isinstance(outcome, Failure):
                failures.append(outcome)
                log.info(f"  {name}: failed, {outcome.reason}")
            else:
                done[name] = outcome
                log.info(
                    f"  {name}: {outcome.frames} masks, {outcome.kept} of them kept from an "
                    "earlier run"
                )
            advance(1)

    if failures:
        raise CorrFractalError(
            f"{len(failures)} of {len(entry_by_name)} videos failed ({list_failures(failures)}); "
            f"{RERUN_HINT}"
        )
    return [done[name] for name in jobs]


def _propagate_task(job: _VideoJob) -> Propagation | Failure:
    """Runs in a worker process, on one core."""
    use_one_core()
    try:
        prompts = prompts_of(job.name, job.masks, frame_names(job.path))
        work = PropagationJob(
            video=job.path,
            prompts=prompts,
            out=job.out,
            outputs=job.outputs,
            overwrite=job.overwrite,
            uri=job.uri,
        )
        return work.run(work.check(), job.source, cached_model(job.source), job.config)
    except (CorrFractalError, OSError) as exc:
        return Failure(name=job.name, reason=str(exc))


def _with_absolute_paths(outputs: Outputs) -> Outputs:
    """The same outputs; worker processes have working folders of their own."""
    return replace(
        outputs,
        overlay=outputs.overlay and outputs.overlay.resolve(),
        contours=outputs.contours and outputs.contours.resolve(),
        cutout=outputs.cutout and outputs.cutout.resolve(),
    )
