"""Check a call of ``train`` before anything is started, and open its run or resume the existing
one."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from corrfractal.common.config import config_from_dict, config_to_dict, flatten
from corrfractal.common.errors import ConfigError, CorrFractalError
from corrfractal.common.text import without_password
from corrfractal.files import storage
from corrfractal.files.output_guard import existing_file, refuse_existing, refuse_overlap
from corrfractal.registry.connection import open_store
from corrfractal.registry.store import canonical_uri, check_store, local_file
from corrfractal.registry.store import tracking_uri as default_uri
from corrfractal.runtime.surroundings import refuse_faults
from training.data.order import check_share, order_version
from training.data.samples import SampleIndex, read_samples
from training.state.attempts import ATTEMPTS
from training.state.messages import MESSAGES
from training.state.run_folder import CHECKPOINTS, DIVERGED, METRICS, MODEL, PICTURES, RESULT
from training.state.run_log import log_pictures, start_run
from training.state.run_store import store_of_run

from .config import RESUMABLE_FIELDS, TrainingConfig
from .job import TrainingJob
from .label_bounds import check_labels

JOB = "job.json"
RUN_FILES = (CHECKPOINTS, METRICS, MESSAGES, PICTURES, MODEL, RESULT, DIVERGED, ATTEMPTS)
"""What a run writes into its folder. Without a ``job.json`` such files are not ours, and a new run
would overwrite them."""


def check_request(
    shards: str | Path,
    out: storage.Location,
    config: TrainingConfig,
    tracking_uri: str | None,
    bounds: tuple[int, int],
) -> tuple[TrainingJob, SampleIndex]:
    """The requested job, without an MLflow run yet, and its samples. Writes nothing.

    Args:
        shards: folder with ``manifest.json``, local or a URI.
        out: folder of the run, new or existing, local or a URI.
        config: how to train.
        tracking_uri: MLflow store; None: the existing run's, or the default one.
        bounds: least and most workers.

    Raises:
        CallError: as of ``check_job``, or the store does not hold the existing run.
        BoundExceededError: the labels are collapsed, static or noise.
        CorrFractalError: the store cannot be used.
    """
    named_store = canonical_uri(tracking_uri) if tracking_uri else None
    call = check_job(shards, out, config, bounds)
    if call.existing is None or not call.existing.run_id:
        uri = named_store or default_uri()
        check_store(uri, write=True)
    else:
        uri = store_of_run(call.existing, storage.absolute(out), named_store)
    return replace(call.job, tracking_uri=uri), call.samples


@dataclass(frozen=True)
class CheckedCall:
    """A call that may start.

    Attributes:
        job: the requested one, without an MLflow store and run.
        samples: of its data.
        existing: the job of the run in its folder, which it may resume.
    """

    job: TrainingJob
    samples: SampleIndex
    existing: TrainingJob | None


def check_job(
    shards: str | Path, out: storage.Location, config: TrainingConfig, bounds: tuple[int, int]
) -> CheckedCall:
    """Check a call without regard to MLflow. Writes nothing.

    Args:
        shards, out, config, bounds: as of ``check_request``.

    Raises:
        CallError: there are no such shards, clips are too short, or settings contradict each other
            or the existing run.
        BoundExceededError: the labels are collapsed, static or noise.
    """
    refuse_faults("training")
    evaluate_on = None if config.evaluate_on is None else Path(config.evaluate_on)
    refuse_overlap({"--out": out}, (shards, evaluate_on))

    # Paths as the workers can use them: a worker has another working folder.
    shards = storage.resolve(shards)
    storage.refuse_password(out)
    out = storage.absolute(out)
    if evaluate_on is not None:
        config = replace(config, evaluate_on=str(evaluate_on.absolute()))

    # The data must suit the configuration.
    samples = read_samples(shards, config)
    if not len(samples):
        raise ConfigError(
            f"no clip in {shards} has the {config.clip_frames_needed} frames that the preset "
            f"'{config.references}' needs: precompute longer clips"
        )
    check_labels(samples.labels, config, shards)
    used_shards = int(np.count_nonzero(samples.counts))
    least, most = bounds
    try:
        check_share(config.batch_size, config.accumulate, range(least, most + 1))
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc

    job = TrainingJob(
        shards=shards,
        shards_digest=samples.digest,
        out=str(out),
        config=config,
        total=config.steps or max(1, config.epochs * len(samples) // config.batch_size),
        order=order_version(used_shards, config.shuffle_window, config.batch_size),
        tracking_uri="",
        run_id="",
    )
    existing = _existing_job(out)
    if existing is None:
        _refuse_files(out)
    else:
        _refuse_other_run(existing, job)
    return CheckedCall(job, samples, existing)


def open_run(job: TrainingJob, samples: int, bounds: tuple[int, int]) -> TrainingJob:
    """Add the MLflow run to a job: a new run, or that of the job in the folder.

    A run that ``training.local`` began has none: it gets one, and its metrics and pictures so far.

    Args:
        job: from ``check_request``.
        samples: their number.
        bounds: least and most workers.
    """
    existing = _existing_job(job.out)
    if existing is not None and existing.run_id:
        # A local store may have been moved. A server may be down: a resumed run does not need it.
        if local_file(job.tracking_uri) is not None:
            open_store(job.tracking_uri, write=True)
        return replace(job, run_id=existing.run_id)

    storage.make_folder(job.out)
    params = {
        **flatten(config_to_dict(job.config)),
        "steps": job.total,
        "samples": samples,
        "workers": bounds[1],
    }
    name = storage.name_of(job.out)
    run_id = start_run(job.tracking_uri, name, params, job.shards, job.shards_digest)
    if existing is not None and not storage.is_uri(job.out):
        log_pictures(job.tracking_uri, run_id, Path(job.out) / PICTURES)
    job = replace(job, run_id=run_id)
    _store_job(job, new=existing is None)
    return job


def open_untracked_run(call: CheckedCall) -> TrainingJob:
    """Open the run of a call without contacting MLflow.

    Returns:
        The job, with the id of the existing run's MLflow run, if it has one, and without a store:
        nothing is sent. ``job.json`` keeps both for ``corrfractal train``.
    """
    if call.existing is not None:
        return replace(call.job, run_id=call.existing.run_id)
    Path(call.job.out).mkdir(parents=True, exist_ok=True)
    _store_job(call.job, new=True)
    return call.job


def _store_job(job: TrainingJob, *, new: bool) -> None:
    stored = replace(job, tracking_uri=without_password(job.tracking_uri))
    contents = json.dumps(config_to_dict(stored), indent=2).encode()
    location = storage.join(job.out, JOB)
    if not new:
        storage.write(location, contents)
    elif not storage.write_if(location, contents, None):
        raise CorrFractalError(
            f"another training has just begun in {job.out}: repeat the command to join that run "
            "once it has stopped, or name another --out"
        )


def _refuse_files(out: storage.Location) -> None:
    """Check that a folder without a run has no files with the names of a run's."""
    advice = "name another folder with --out"
    if not storage.is_uri(out):
        refuse_existing((Path(out) / name for name in RUN_FILES), advice)
        return
    names: set[str] = set()
    with suppress(FileNotFoundError):
        names = {name for name, _ in storage.entries(out)}
    for name in RUN_FILES:
        if name in names:
            raise existing_file(storage.join(out, name), advice)


def _existing_job(out: storage.Location) -> TrainingJob | None:
    job_file = storage.join(out, JOB)
    if storage.kind(job_file) is None:
        return None
    values = json.loads(storage.read(job_file))
    # A field of 0.1.0, removed since. It never changed the weights, so any value can be resumed.
    values.get("config", {}).pop("evaluator", None)
    return config_from_dict(TrainingJob, values, where=job_file)


def _refuse_other_run(existing: TrainingJob, requested: TrainingJob) -> None:
    """Raise a ``ConfigError`` if the jobs differ in a field that changes the weights."""
    finished = storage.kind(storage.join(requested.out, RESULT)) == "file"
    if existing.order != requested.order and not finished:
        raise ConfigError(
            f"{requested.out} holds a run of an earlier version, which visits the samples in "
            "another order: finish it with that version, or name another --out"
        )
    resumable = {name: getattr(requested.config, name) for name in RESUMABLE_FIELDS}
    # Folders and stores may be moved between two starts.
    comparable = replace(
        existing,
        run_id="",
        order=requested.order,
        out=requested.out,
        shards=requested.shards,
        tracking_uri=requested.tracking_uri,
        config=replace(existing.config, **resumable),
    )
    before = flatten(config_to_dict(comparable))
    now = flatten(config_to_dict(requested))
    for key in sorted(before.keys() | now.keys()):
        if before.get(key) != now.get(key):
            raise ConfigError(
                f"{requested.out} holds another run: '{key}' was {before.get(key)!r} and is now "
                f"{now.get(key)!r}. Repeat the first call to resume it, or name another --out"
            )
