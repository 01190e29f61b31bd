"""``corrfractal models``: list, show, promote, rollback, history and export versions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.command_line import TRACKING_URI as STORE
from corrfractal.common.command_line import examples
from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from .promotion import Move
    from .versions import ModelVersion

# The commands import their modules when they run: `--help` must not wait for MLflow.
WHY = click.option("--why", default="", help="Reason, stored with the move.")


@click.group()
def models() -> None:
    """The model registry. MODEL is a version number, an alias, or models:/NAME/VERSION."""


@models.command("list", epilog=examples("corrfractal models list"))
@STORE
@command
def list_(tracking_uri: str | None) -> dict[str, Any]:
    """List all registered versions, newest first."""
    from .connection import existing_store
    from .versions import list_models

    # Only the JSON shows metrics.
    as_json = click.get_current_context().params["as_json"]
    versions = list_models(existing_store(tracking_uri), metrics=as_json)
    if not versions:
        say("no model is registered yet: `corrfractal train` registers one")
    for version in versions:
        aliases = ", ".join(version.aliases) or "-"
        line = f"{version.uri}  {aliases:20}  {version.created}"
        line += f"  shards {version.shards_digest[:12]}"
        if version.scores:
            newest = max(version.scores, key=lambda s: s.at)
            line += f"  J&F {100 * newest.JF:.1f}"
        say(line)
    return {"models": [_to_json(version) for version in versions]}


@models.command(
    "show", epilog=examples("corrfractal models show champion", "corrfractal models show 3 --json")
)
@click.argument("model")
@STORE
@command
def show(model: str, tracking_uri: str | None) -> dict[str, Any]:
    """Show one version: run, data set, scores, metrics of its run."""
    from .connection import existing_store
    from .versions import find_version

    version = find_version(model, existing_store(tracking_uri))
    say(f"{version.uri} ({version.alias_text}), registered {version.created}")
    say(f"run      {version.run_id}")
    say(f"weights  {version.weights_sha256}")
    say(f"shards   {version.shards_digest}")
    for s in version.scores:
        say(
            f"scores   {s.dataset}: J&F {100 * s.JF:.2f}, J {100 * s.J:.2f}, F {100 * s.F:.2f}; "
            f"{s.sequences} sequences, {s.objects} objects; files {s.set_digest[:12]}, "
            f"settings {s.settings[:12]}; {s.at}"
        )
    for name, value in sorted(version.metrics.items()):
        say(f"{name:40} {value:.6g}")
    return _to_json(version)


@models.command(
    "promote",
    epilog=examples(
        "corrfractal models promote candidate --why 'longer run'",
        "corrfractal models promote 3 --tolerance 0.5",
    ),
)
@click.argument("model")
@click.option(
    "--on",
    "dataset",
    default="davis2017-val",
    show_default=True,
    help="Evaluation set that is compared.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(0, 100),
    default=0.0,
    show_default=True,
    help="Accepted loss of J&F, in points.",
)
@WHY
@STORE
@command
def promote(
    model: str, dataset: str, tolerance: float, why: str, tracking_uri: str | None
) -> dict[str, Any]:
    """Make MODEL the champion if it passes the gate.

    Its data set must be known, its weights must be those that were registered and load, its
    signature must be the expected one, and its J&F must not be worse than the champion's on the
    same files with the same settings. `corrfractal evaluate` stores J&F on the version.
    """
    from .connection import existing_store
    from .promotion import promote as promote_version

    version, move = promote_version(
        model,
        existing_store(tracking_uri, write=True),
        dataset=dataset,
        tolerance=tolerance / 100,
        why=why,
    )
    return _report_move(version, move)


@models.command(
    "rollback", epilog=examples("corrfractal models rollback --why 'worse on my videos'")
)
@WHY
@STORE
@command
def rollback(why: str, tracking_uri: str | None) -> dict[str, Any]:
    """Restore the previous champion."""
    from .connection import existing_store
    from .promotion import rollback as restore_champion

    version, move = restore_champion(existing_store(tracking_uri, write=True), why=why)
    return _report_move(version, move)


@models.command("history", epilog=examples("corrfractal models history"))
@STORE
@command
def history(tracking_uri: str | None) -> dict[str, Any]:
    """List every move of `champion`, oldest first."""
    from .connection import existing_store
    from .promotion import history as read_history

    past = read_history(existing_store(tracking_uri))
    for move in past.moves:
        say(_move_line(move))
    if not past.moves:
        say("champion was never set: `corrfractal models promote MODEL` sets it")
    # The alias can also be moved in MLflow's own pages, which leaves no tag.
    if past.champion != past.recorded:
        say(
            f"champion is version {past.champion}, without a recorded move: it was moved by hand. "
            "`corrfractal models rollback` undoes that"
        )
    return {
        "champion": past.champion,
        "recorded": past.recorded,
        "moves": [vars(move) for move in past.moves],
    }


@models.command("export", epilog=examples("corrfractal models export champion --out model"))
@click.argument("model")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the files; must be new.",
)
@click.option(
    "--license",
    "license_id",
    default="other",
    show_default=True,
    help="Licence of the weights for the model card, such as apache-2.0.",
)
@STORE
@command
def export(model: str, out: Path, license_id: str, tracking_uri: str | None) -> dict[str, Any]:
    """Write MODEL to a self-contained folder.

    It contains weights, configuration, lineage, scores, a model card with the metadata that model
    hubs read, and the SHA-256 of each file.
    """
    from .connection import existing_store
    from .export import export as export_version

    lineage = export_version(model, out, existing_store(tracking_uri), license_id)
    files = sorted(path.name for path in out.iterdir())
    say(f"{lineage.model.uri} in {out}: {', '.join(files)}")
    return {
        "model": lineage.model.uri,
        "out": str(out),
        "weights": lineage.weights,
        "files": files,
    }


def _report_move(version: ModelVersion, move: Move) -> dict[str, Any]:
    say(_move_line(move))
    return {"model": version.uri, "aliases": list(version.aliases), "move": vars(move)}


def _move_line(move: Move) -> str:
    before = "none" if move.before is None else str(move.before)
    line = f"{move.at}  {move.action:8}  champion {before} -> {move.after}  by {move.who}"
    if move.scores:
        line += f"  {_comparison(move.scores)}"
    if move.why:
        line += f"  ({move.why})"
    return line


def _comparison(scores: dict[str, Any]) -> str:
    """What the gate compared: ``J&F 49.00 against 50.00 on davis2017-val (5b972d84b35a)``."""
    own = scores["own"]
    text = f"J&F {50 * (own['J'] + own['F']):.2f}"
    baseline = scores.get("champion")
    if baseline:
        text += f" against {50 * (baseline['J'] + baseline['F']):.2f}"
    return f"{text} on {own['dataset']} ({own['set_digest'][:12]})"


def _to_json(version: ModelVersion) -> dict[str, Any]:
    scores = [{**vars(s), "JF": s.JF} for s in version.scores]
    return {**vars(version), "uri": version.uri, "scores": scores}
