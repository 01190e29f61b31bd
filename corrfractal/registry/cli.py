"""The commands ``corrfractal models``: what is registered, which version is champion, and how it
became so."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from .promotion import Move
    from .versions import ModelVersion

STORE = click.option(
    "--tracking-uri",
    help="MLflow store; default MLFLOW_TRACKING_URI, else mlflow.db in this folder.",
)
WHY = click.option("--why", default="", help="Reason, kept with the move.")


@click.group()
def models() -> None:
    """The model registry. MODEL is a number, an alias, or models:/NAME/VERSION."""


@models.command("list")
@STORE
@command
def list_(tracking_uri: str | None) -> dict[str, Any]:
    """All registered versions, newest first."""
    from .connection import existing_store
    from .versions import list_models

    versions = list_models(existing_store(tracking_uri))
    if not versions:
        say("no model is registered yet: `corrfractal train` registers one")
    for v in versions:
        newest = max(v.scores, key=lambda s: s.at, default=None)
        score = "" if newest is None else f"  J&F {100 * newest.JF:.1f}"
        say(
            f"{v.uri}  {', '.join(v.aliases) or '-':20}  {v.created}  shards "
            f"{v.shards_digest[:12]}{score}"
        )
    return {"models": [_plain(v) for v in versions]}


@models.command("show")
@click.argument("model")
@STORE
@command
def show(model: str, tracking_uri: str | None) -> dict[str, Any]:
    """One version: run, data set, scores, metrics of its run."""
    from .connection import existing_store
    from .versions import WEIGHTS_TAG
    from .versions import show as find

    found = find(model, existing_store(tracking_uri))
    say(f"{found.uri} ({', '.join(found.aliases) or 'no alias'}), registered {found.created}")
    say(f"run      {found.run_id}")
    say(f"weights  {found.tags.get(WEIGHTS_TAG, 'unknown')}")
    say(f"shards   {found.shards_digest}")
    for s in found.scores:
        say(
            f"scores   {s.dataset}: J&F {100 * s.JF:.2f}, J {100 * s.J:.2f}, F {100 * s.F:.2f}; "
            f"{s.sequences} sequences, {s.objects} objects; files {s.set_digest[:12]}, "
            f"settings {s.settings[:12]}; {s.at}"
        )
    for name, value in sorted(found.metrics.items()):
        say(f"{name:40} {value:.6g}")
    return _plain(found)


@models.command("promote")
@click.argument("model")
@click.option(
    "--on",
    "dataset",
    default="davis2017-val",
    show_default=True,
    help="Evaluation set that decides.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Points of J&F that may be lost.",
)
@WHY
@STORE
@command
def promote(
    model: str, dataset: str, tolerance: float, why: str, tracking_uri: str | None
) -> dict[str, Any]:
    """Make MODEL the champion, if it passes the gate.

    Its data set must be known, its weights load, its signature fit, and its J&F, as `corrfractal
    evaluate` noted it on the version, be not worse than the champion's on the same files with the
    same settings.
    """
    from .connection import existing_store
    from .promotion import promote as run

    version, move = run(
        model,
        existing_store(tracking_uri, write=True),
        dataset=dataset,
        tolerance=tolerance / 100,
        why=why,
    )
    return _moved(version, move)


@models.command("rollback")
@WHY
@STORE
@command
def rollback(why: str, tracking_uri: str | None) -> dict[str, Any]:
    """Make the previous champion champion again."""
    from .connection import existing_store
    from .promotion import rollback as run

    return _moved(*run(existing_store(tracking_uri, write=True), why=why))


@models.command("history")
@STORE
@command
def history(tracking_uri: str | None) -> dict[str, Any]:
    """Every move of `champion`, oldest first."""
    from .connection import existing_store
    from .promotion import history as find

    past = find(existing_store(tracking_uri))
    for move in past.moves:
        say(_line(move))
    if not past.moves:
        say("champion was never moved: `corrfractal models promote MODEL` does it")
    if past.champion != past.recorded:
        say(
            f"champion is version {past.champion}, and no move says so: it was moved by hand. "
            "`corrfractal models rollback` undoes that"
        )
    return {
        "champion": past.champion,
        "recorded": past.recorded,
        "moves": [vars(move) for move in past.moves],
    }


@models.command("export")
@click.argument("model")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder.")
@STORE
@command
def export(model: str, out: Path, tracking_uri: str | None) -> dict[str, Any]:
    """Write MODEL as a self-contained folder: weights, configuration, lineage, model card, SHA-256
    of each file."""
    from .connection import existing_store
    from .export import export as run

    found = run(model, out, existing_store(tracking_uri))
    files = sorted(path.name for path in out.iterdir())
    say(f"{found.model.uri} in {out}: {', '.join(files)}")
    return {"model": found.model.uri, "out": str(out), "weights": found.weights, "files": files}


def _moved(version: ModelVersion, move: Move) -> dict[str, Any]:
    say(_line(move))
    return {"model": version.uri, "aliases": list(version.aliases), "move": vars(move)}


def _line(move: Move) -> str:
    before = "none" if move.before is None else str(move.before)
    line = f"{move.at}  {move.action:8}  champion {before} -> {move.after}  by {move.who}"
    if move.scores:
        line += f"  {_compared(move.scores)}"
    return line + (f"  ({move.why})" if move.why else "")


def _compared(scores: dict[str, Any]) -> str:
    own, baseline = scores["own"], scores.get("champion")
    points = [f"{50 * (s['J'] + s['F']):.2f}" for s in (own, baseline) if s]
    return f"J&F {' against '.join(points)} on {own['dataset']} ({own['set_digest'][:12]})"


def _plain(version: ModelVersion) -> dict[str, Any]:
    return {
        **vars(version),
        "uri": version.uri,
        "scores": [{**vars(s), "JF": s.JF} for s in version.scores],
    }
