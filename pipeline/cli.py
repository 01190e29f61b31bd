"""The commands ``plan``, ``precompute``, ``inspect`` and ``verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from .config import PipelineConfig


class Share(click.ParamType[float]):
    """``1%`` or ``0.01``."""

    name = "share"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(
                f"{value!r} is no share: give a percentage such as 1%, or a fraction such as 0.01",
                param,
                ctx,
            )
        return share


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="Write the plan as JSON, for `precompute --plan`.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Workers to tell the hours for. [default: one per CPU]",
)
@click.option(
    "--pilots",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Videos to run a piece of.",
)
@click.option("--seed", default=0, show_default=True, help="Decides which.")
@click.option(
    "--videos", type=click.IntRange(min=1), help="Take SOURCES for a sample of so many videos ..."
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="... of so many seconds on average.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file with a [precompute] table.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace a file at --out that is no plan. Never an input."
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
    overwrite: bool,
) -> dict[str, Any]:
    """What `precompute SOURCES` will take. Pieces of a few videos are decoded and labelled here;
    nothing is stored."""
    from dataclasses import asdict

    from corrfractal.common.process import cpu_count

    from .report import estimate as prediction
    from .report import sample_run as planning

    if out is not None:
        prediction.refuse_foreign(out, (*sources, config_file), overwrite=overwrite)
    config = _configuration(config_file)
    found = planning.plan(sources, config, pilots=pilots, seed=seed, videos=videos, seconds=seconds)
    workers = workers or cpu_count()
    for line in prediction.lines(found, workers):
        say(line)
    if out is not None:
        prediction.save(found, out)
        say(f"written to {out}; `corrfractal precompute ... --plan {out}` tells how far it was off")
    return {**asdict(found), "workers": workers, "hours": found.hours(workers)}


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option(
    "--out", required=True, help="Folder of the shards, local or a URI such as s3://bucket/shards."
)
@click.option(
    "--workers", type=click.IntRange(min=1), help="Shards made at a time. [default: one per CPU]"
)
@click.option(
    "--max-bad",
    type=Share(),
    help="Fail if more than this share of the sources is damaged, e.g. 1%.",
)
@click.option("--retry-quarantined", is_flag=True, help="Read the sources in quarantine again.")
@click.option(
    "--device", type=click.Choice(["cpu", "cuda"]), help="Where labels are made. [default: cpu]"
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    help="TOML file with a [precompute] table.",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Compare with this plan at the end.",
)
@click.option("--track", is_flag=True, help="Log the finished data set to MLflow.")
@click.option(
    "--tracking-uri",
    help="MLflow store; default MLFLOW_TRACKING_URI, else mlflow.db in this folder.",
)
@command
def precompute(
    sources: tuple[str, ...],
    out: str,
    workers: int | None,
    max_bad: float | None,
    retry_quarantined: bool,
    device: str | None,
    config_file: Path | None,
    plan_file: Path | None,
    track: bool,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Videos, folders of frames, globs and text lists -> shards, manifest.json and
    quarantine.jsonl.

    Resumable: run the same command again after an interruption. Once complete, it only checks.
    """
    from dataclasses import asdict

    from corrfractal.video.discovery import ignored_summary

    from . import run
    from .report import estimate as prediction

    store = None
    if track or tracking_uri:
        from corrfractal.registry.store import check_store
        from corrfractal.registry.store import tracking_uri as resolve

        store = resolve(tracking_uri)
        check_store(store, write=True)  # before hours of work, not after

    given = {"max_bad": max_bad, "device": device}
    config = _configuration(
        config_file, {name: value for name, value in given.items() if value is not None}
    )
    predicted = prediction.load(plan_file, config.recipe()) if plan_file else None
    result = run.precompute(
        sources,
        out,
        config,
        workers=workers,
        retry_quarantined=retry_quarantined,
        files=(config_file, plan_file),
    )
    say(
        f"{result.sources} sources = {result.sampled} sampled + {result.quarantined} quarantined + "
        f"{result.rejected} rejected"
    )
    if result.ignored:
        say(ignored_summary(result.ignored))
    say(
        f"{result.samples} clips in {result.shards} shards, {result.bytes / 1e6:.1f} MB; made "
        f"{result.made} of the shards in {result.seconds:.1f} s, {result.frames_per_second:g} "
        "frames/s"
    )
    say(f"data set {result.digest[:16]} in {out}")
    errors = {}
    for quantity in prediction.compare(predicted, result) if predicted and result.made else ():
        errors[quantity.name] = quantity.error
        say(
            f"plan: {quantity.name:22} {quantity.predicted:.4g}, was {quantity.actual:.4g}: "
            f"{quantity.error:+.1%}"
        )
    run_id = None
    if store is not None:
        from corrfractal.common.foreign_errors import describe_error
        from corrfractal.common.text import without_password
        from pipeline.report.build_log import log_build

        took = {
            "seconds": result.seconds,
            "frames_per_second": result.frames_per_second,
            "made": result.made,
        }
        try:
            run_id = log_build(store, out, took)
            say(f"logged as run {run_id} in {without_password(store)}")
        except Exception as exc:  # the shards themselves are complete, whatever the store says
            reason = without_password(describe_error(exc))
            say(
                f"warning: the shards are in {out}, but not in MLflow: {reason}. The same command "
                "again adds them"
            )
    told = {"frames_per_second": result.frames_per_second, "run_id": run_id, "plan_errors": errors}
    return {"out": out, **asdict(result), **told}


def _configuration(file: Path | None, changed: dict[str, Any] | None = None) -> PipelineConfig:
    """The ``[precompute]`` table of a file, or the defaults, with some fields changed."""
    from corrfractal.common.config import config_from_dict, read_toml
    from corrfractal.common.errors import ConfigError

    from .config import PipelineConfig

    tables = read_toml(file) if file else {"precompute": {}}
    if "precompute" not in tables:
        raise ConfigError(f"{file} has no [precompute] table: nothing in it would count")
    values = tables["precompute"]
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: field 'precompute' must be a table, got {values!r}")
    return config_from_dict(
        PipelineConfig, {**values, **(changed or {})}, where=str(file or "command line")
    )


@click.command()
@click.argument("shards")
@click.option("--html", type=click.Path(path_type=Path), help="Write a contact sheet to this file.")
@click.option(
    "--clips", type=click.IntRange(min=0), default=24, show_default=True, help="Clips on the sheet."
)
@click.option("--seed", default=0, show_default=True, help="Decides which clips are drawn.")
@click.option(
    "--overwrite",
    is_flag=True,
    help="Replace a file at --html that is no such sheet. Never an input.",
)
@command
def inspect(
    shards: str, html: Path | None, clips: int, seed: int, overwrite: bool
) -> dict[str, Any]:
    """Label health of SHARDS, in all and one by one, and the inputs that were quarantined or
    rejected."""
    from corrfractal.common.output_guard import refuse_foreign_page, refuse_overlap
    from pipeline.report.inspect import inspect as look
    from pipeline.report.inspect import lines, to_json, write_sheet

    if html is not None:
        refuse_overlap({"--html": html}, (shards,))
        refuse_foreign_page(html, overwrite=overwrite)
    found = look(shards)
    if html is None:
        for line in lines(found):
            say(line)
    else:
        write_sheet(html, found, clips=clips, seed=seed)
        say(
            f"{min(clips, len(found.samples))} clips, label health and {len(found.lost)} lost "
            f"sources in {html}"
        )
    return {**to_json(found), "html": str(html) if html else None}


@click.command()
@click.argument("shards")
@command
def verify(shards: str) -> dict[str, Any]:
    """Hash every shard and sidecar again and compare with the manifest."""
    from dataclasses import asdict

    from corrfractal.common.errors import IntegrityError
    from pipeline.store.commit import verify as verify_shards

    report = verify_shards(shards)
    if report.damaged:
        more = f" (and {len(report.damaged) - 1} more)" if len(report.damaged) > 1 else ""
        raise IntegrityError(
            f"{report.damaged[0]}{more}; `corrfractal precompute` with the same sources mends it"
        )
    say(
        f"{report.samples} clips in {report.shards} shards, {report.bytes / 1e6:.1f} MB: all as "
        "written"
    )
    say(f"data set {report.digest[:16]}")
    return asdict(report)
