"""The commands ``precompute``, ``inspect`` and ``verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from corrfractal.console import command, say


class Share(click.ParamType[float]):
    """``1%`` or ``0.01``."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            self.fail(f"{value!r} is no share: give a percentage such as 1%, or a fraction such as 0.01", param, ctx)
        return share


@click.command()
@click.argument("sources", nargs=-1, required=True)
@click.option("--out", required=True, help="Folder of the shards, local or a URI such as s3://bucket/shards.")
@click.option("--workers", type=click.IntRange(min=1), help="Shards made at a time. [default: one per CPU]")
@click.option("--max-bad", type=Share(), help="Fail if more than this share of the sources is damaged, e.g. 1%.")
@click.option("--retry-quarantined", is_flag=True, help="Read the sources in quarantine again.")
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with a [precompute] table.")
@click.option("--track", is_flag=True, help="Log the finished data set to MLflow.")
@click.option("--tracking-uri", help="MLflow store; default MLFLOW_TRACKING_URI, else mlflow.db in this folder.")
@command
def precompute(
    sources: tuple[str, ...],
    out: str,
    workers: int | None,
    max_bad: float | None,
    retry_quarantined: bool,
    config_file: Path | None,
    track: bool,
    tracking_uri: str | None,
) -> dict[str, Any]:
    """Videos, folders of frames, globs and text lists -> shards, manifest.json and quarantine.jsonl.

    Stopped at any point, the same command goes on from there; once complete, it only checks.
    """
    from dataclasses import asdict

    from corrfractal.config import config_from_dict, read_toml

    from . import run
    from .config import PipelineConfig

    values = read_toml(config_file).get("precompute", {}) if config_file else {}
    if max_bad is not None:
        values["max_bad"] = max_bad
    config = config_from_dict(PipelineConfig, values, where=str(config_file or "command line"))
    result = run.precompute(sources, out, config, workers=workers, retry_quarantined=retry_quarantined)
    say(
        f"{result.sources} sources = {result.sampled} sampled + {result.quarantined} quarantined + "
        f"{result.rejected} rejected"
    )
    say(
        f"{result.samples} clips in {result.shards} shards, {result.bytes / 1e6:.1f} MB; made {result.made} of the "
        f"shards in {result.seconds:.1f} s, {result.frames_per_second:g} frames/s"
    )
    say(f"data set {result.digest[:16]} in {out}")
    run_id = None
    if track or tracking_uri:
        from corrfractal.tracking import tracking_uri as resolve

        from .tracking import log_build

        took = {"seconds": result.seconds, "frames_per_second": result.frames_per_second, "made": result.made}
        run_id = log_build(resolve(tracking_uri), out, took)
        say(f"logged as run {run_id} in {resolve(tracking_uri)}")
    return {"out": out, **asdict(result), "frames_per_second": result.frames_per_second, "run_id": run_id}


@click.command()
@click.argument("shards")
@click.option("--html", type=click.Path(path_type=Path), help="Write a contact sheet to this file.")
@click.option("--clips", type=click.IntRange(min=0), default=24, show_default=True, help="Clips on the sheet.")
@click.option("--seed", default=0, show_default=True, help="Decides which clips are drawn.")
@command
def inspect(shards: str, html: Path | None, clips: int, seed: int) -> dict[str, Any]:
    """Label health of SHARDS, in all and one by one, and the inputs that were quarantined or rejected."""
    from .inspect import inspect as look
    from .inspect import lines, to_json, write_sheet

    found = look(shards)
    if html is None:
        for line in lines(found):
            say(line)
    else:
        write_sheet(html, found, clips=clips, seed=seed)
        say(f"{min(clips, len(found.samples))} clips, label health and {len(found.lost)} lost sources in {html}")
    return {**to_json(found), "html": str(html) if html else None}


@click.command()
@click.argument("shards")
@command
def verify(shards: str) -> dict[str, Any]:
    """Hash every shard and sidecar again and compare with the manifest."""
    from dataclasses import asdict

    from corrfractal.errors import IntegrityError

    from .manifest import verify as verify_shards

    report = verify_shards(shards)
    if report.damaged:
        more = f" (and {len(report.damaged) - 1} more)" if len(report.damaged) > 1 else ""
        raise IntegrityError(f"{report.damaged[0]}{more}; `corrfractal precompute` with the same sources mends it")
    say(f"{report.samples} clips in {report.shards} shards, {report.bytes / 1e6:.1f} MB: all as written")
    say(f"data set {report.digest[:16]}")
    return asdict(report)
