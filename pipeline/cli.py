"""The commands ``plan``, ``precompute``, ``inspect`` and ``verify``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.command_line import (
    LOCATION,
    SETTINGS,
    TRACKING_URI,
    config_option,
    examples,
    workers_option,
)
from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from pipeline.report.build_result import PrecomputeResult

    from .config import PipelineConfig

log = logging.getLogger(__name__)


class ShareOption(click.ParamType[float]):
    """A share of a total: ``1%`` or ``0.01``, converted to 0..1."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        unit = 100 if text.endswith("%") else 1
        try:
            share = float(text.removesuffix("%")) / unit
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(
                f"{value!r} is no share: give a percentage such as 1%, or a fraction such as 0.01",
                param,
                ctx,
            )
        return share


@click.command(
    epilog=examples(
        "corrfractal plan videos/",
        "corrfractal plan videos/ --out plan.json --workers 64",
        "corrfractal plan sample/ --videos 10000000 --seconds 12",
    )
)
@click.argument("sources", nargs=-1, required=True, type=LOCATION)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File for the estimate as JSON, for `precompute --plan`.",
)
@workers_option("Shards")
@click.option(
    "--pilots",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Number of videos of which a piece is run.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of these videos.")
@click.option(
    "--videos",
    type=click.IntRange(min=1),
    help="Estimate for a set of this many videos, of which SOURCES are a sample.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    show_default="that of SOURCES",
    help="Mean length in seconds of the videos of that set.",
)
@config_option("precompute")
@SETTINGS
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that this command did not write. Inputs are never replaced.",
)
@command
def plan(
    sources: tuple[str, ...],
    out: Path | None,
    workers: int | None,
    pilots: int,
    seed: int,
    videos: int | None,
    seconds: float | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    overwrite: bool,
) -> dict[str, Any]:
    """Estimate what `precompute SOURCES` will take, from pieces of a few videos that are decoded
    and labelled in memory. Stores nothing but the file at --out."""
    from dataclasses import asdict

    from corrfractal.runtime.process import cpu_count
    from pipeline.report.estimate import estimate_build

    from .report import estimate_report

    # Refuse an unusable --out before minutes of work, not after.
    if out is not None:
        estimate_report.refuse_foreign(out, (*sources, config_file), overwrite=overwrite)
    config = _configuration(config_file, settings)
    estimate = estimate_build(
        sources, config, pilots=pilots, seed=seed, videos=videos, seconds=seconds
    )

    workers = workers or cpu_count()
    for line in estimate_report.lines(estimate, workers):
        say(line)
    if out is not None:
        estimate_report.save(estimate, out)
        say(
            f"estimate in {out}; `corrfractal precompute ... --plan {out}` compares it with the "
            "build"
        )
    return {**asdict(estimate), "workers": workers, "hours": estimate.hours(workers)}


@click.command(
    epilog=examples(
        "corrfractal precompute videos/ --out shards",
        "corrfractal precompute 'a/*.mp4' more.txt --out s3://bucket/shards --max-bad 1%",
        "corrfractal precompute videos/ --out shards --set clip.fps=15 --dry-run",
    )
)
@click.argument("sources", nargs=-1, required=True, type=LOCATION)
@click.option(
    "--out",
    required=True,
    type=LOCATION,
    help="Folder for the shards, local or a URI such as s3://bucket/shards.",
)
@workers_option("Shards")
@click.option(
    "--max-bad",
    type=ShareOption(),
    help="Fail if more than this share of the sources is damaged, e.g. 1%.",
)
@click.option("--retry-quarantined", is_flag=True, help="Read quarantined sources again.")
@click.option(
    "--dry-run", is_flag=True, help="Say what is new, changed and gone, and build nothing."
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    show_default="cpu",
    help="Where labels are made.",
)
@config_option("precompute")
@SETTINGS
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Estimate written by `corrfractal plan --out`, to compare with the finished build.",
)
@click.option("--track", is_flag=True, help="Log the finished data set to MLflow.")
@TRACKING_URI
@command
def precompute(
    sources: tuple[str, ...],
    out: str,
    workers: int | None,
    max_bad: float | None,
    retry_quarantined: bool,
    dry_run: bool,
    device: str | None,
    config_file: Path | None,
    settings: tuple[str, ...],
    plan_file: Path | None,
    track: bool,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Build shards, manifest.json and quarantine.jsonl from videos, folders of frames, globs and
    text lists.

    Resumable: run the same command again after an interruption. On a folder that grew, it builds
    what is new, changed or gone; the driver reads listings and metadata only.
    """
    from dataclasses import asdict

    from . import run
    from .report import build_result, estimate_report

    # 1. Check everything that could make the call fail before hours of work.
    store = None
    if track or tracking_uri:
        from corrfractal.registry.store import check_store
        from corrfractal.registry.store import tracking_uri as resolve

        store = resolve(tracking_uri)
        check_store(store, write=True)
    options = {"max_bad": max_bad, "device": device}
    given = {name: value for name, value in options.items() if value is not None}
    config = _configuration(config_file, settings, given)
    estimate = estimate_report.load(plan_file, config.recipe()) if plan_file else None
    files = (config_file, plan_file)
    if dry_run:
        changes = run.preview(
            sources,
            out,
            config,
            workers=workers,
            retry_quarantined=retry_quarantined,
            files=files,
        )
        for line in build_result.preview_lines(changes):
            say(line)
        return {"out": out, "dry_run": True, **asdict(changes)}

    # 2. Build, and report.
    result = run.precompute(
        sources,
        out,
        config,
        workers=workers,
        retry_quarantined=retry_quarantined,
        files=files,
    )
    for line in build_result.lines(result):
        say(line)
    say(f"data set {result.digest[:16]} in {out}")

    # 3. Compare with the estimate; a run that built nothing has nothing to compare.
    errors = {}
    if estimate is not None and result.made:
        for quantity in estimate_report.compare(estimate, result):
            errors[quantity.name] = quantity.error
            say(
                f"estimate: {quantity.name:22} {quantity.estimated:.4g}, actual "
                f"{quantity.actual:.4g}: {quantity.error:+.1%}"
            )

    # 4. Log to MLflow.
    run_id = None if store is None else _log_build(store, out, result)
    return {
        "out": out,
        **asdict(result),
        "frames_per_second": result.frames_per_second,
        "run_id": run_id,
        "plan_errors": errors,
    }


@click.command(
    epilog=examples(
        "corrfractal inspect shards",
        "corrfractal inspect shards --html shards.html --clips 48",
    )
)
@click.argument("shards", type=LOCATION)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    help="File for the report with a contact sheet.",
)
@click.option(
    "--clips", type=click.IntRange(min=0), default=24, show_default=True, help="Clips on the sheet."
)
@click.option("--seed", default=0, show_default=True, help="Seed of the choice of these clips.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace files that this command did not write. Inputs are never replaced.",
)
@command
def inspect(
    shards: str, html: Path | None, clips: int, seed: int, overwrite: bool
) -> dict[str, Any]:
    """Label health of SHARDS, of the data set and of each shard, and the quarantined and rejected
    sources."""
    from corrfractal.files.output_guard import refuse_foreign_page, refuse_overlap

    from .report import inspection

    if html is not None:
        refuse_overlap({"--html": html}, (shards,))
        refuse_foreign_page(html, overwrite=overwrite)
    found = inspection.inspect(shards)
    if html is None:
        for line in inspection.lines(found):
            say(line)
    else:
        from pipeline.report.contact_sheet import write_sheet

        write_sheet(html, found, clips=clips, seed=seed)
        say(
            f"{min(clips, found.manifest.statistics.samples)} clips, label health and "
            f"{len(found.lost)} lost "
            f"sources in {html}"
        )
    return {**inspection.to_json(found), "html": str(html) if html else None}


@click.command(
    epilog=examples("corrfractal verify shards", "corrfractal verify s3://bucket/shards")
)
@click.argument("shards", type=LOCATION)
@workers_option("Shards")
@command
def verify(shards: str, workers: int | None) -> dict[str, Any]:
    """Hash every shard and sidecar on Ray and compare with the index. The next `precompute` builds
    damaged shards again."""
    from dataclasses import asdict

    from corrfractal.common.errors import IntegrityError
    from corrfractal.common.text import counted
    from corrfractal.runtime.ray_session import ray_session
    from corrfractal.shards.manifest import load_manifest
    from pipeline.store.verify import verify as verify_shards

    load_manifest(shards)  # before Ray starts
    with ray_session(workers):
        report = verify_shards(shards, workers)
    if report.damaged:
        more = f" (and {len(report.damaged) - 1} more)" if len(report.damaged) > 1 else ""
        raise IntegrityError(
            f"{report.damaged[0]}{more}; `corrfractal precompute` with the same sources rebuilds it"
        )
    say(
        f"{counted(report.samples, 'clip')} in {counted(report.shards, 'shard')}, "
        f"{report.bytes / 1e6:.1f} MB: all intact"
    )
    say(f"data set {report.digest[:16]}")
    return asdict(report)


def _log_build(store: str, out: str, result: PrecomputeResult) -> str | None:
    """Log a finished data set to MLflow; return the run's id. A failure is a warning, since the
    shards are complete whatever the store says."""
    from corrfractal.common.foreign_errors import describe_error
    from corrfractal.common.text import without_password
    from pipeline.report.build_log import log_build

    metrics = {
        "seconds": result.seconds,
        "frames_per_second": result.frames_per_second,
        "made": result.made,
    }
    try:
        run_id = log_build(store, out, metrics)
    except Exception as exc:
        reason = without_password(describe_error(exc))
        log.warning(
            f"the shards are in {out}, but could not be logged to MLflow: {reason}. Run the same "
            "command again to log them"
        )
        return None
    say(f"logged as run {run_id} in {without_password(store)}")
    return run_id


def _configuration(
    file: Path | None, settings: tuple[str, ...], changed: dict[str, Any] | None = None
) -> PipelineConfig:
    """Configuration from the ``[precompute]`` table of a file, or the defaults; overridden by
    ``settings`` (``--set``), and these by ``changed`` (options of their own)."""
    from corrfractal.common.config import config_from_dict, config_to_dict
    from corrfractal.common.workflow_file import read_table, with_settings

    from .config import PipelineConfig

    values = read_table(file, "precompute") if file else {}
    config = config_from_dict(PipelineConfig, values, where=str(file or "command line"))
    config = with_settings(config, settings)
    if not changed:
        return config
    return config_from_dict(
        PipelineConfig, {**config_to_dict(config), **changed}, where="command line"
    )
