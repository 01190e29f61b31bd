"""``corrfractal lineage``: where a model came from, and what came of a video or of a folder of
shards.

The answers are ``corrfractal.registry.lineage``'s. The command stands in this layer because it sees the
pipeline too, and so hashes a video, or a folder of frames, exactly as the pipeline did.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from corrfractal.registry.lineage import ModelLineage, Use, Video

MOST = 20  # lines of a list that are printed


@click.command()
@click.argument("model", required=False)
@click.option("--video", help="A video file or folder of frames, local or a URI: what came of it?")
@click.option(
    "--shards", help="A folder of shards, local or a URI: where from, and what came of it?"
)
@click.option(
    "--tracking-uri",
    help="MLflow store; default MLFLOW_TRACKING_URI, else mlflow.db in this folder.",
)
@command
def lineage(
    model: str | None, video: str | None, shards: str | None, tracking_uri: str | None
) -> dict[str, Any]:
    """Where MODEL came from (a number, an alias, models:/NAME/VERSION, or a registered model file)."""
    from corrfractal.common.errors import CallError
    from corrfractal.registry.connection import existing_store
    from corrfractal.registry.lineage import Lineage

    if sum(given is not None for given in (model, video, shards)) != 1:
        raise CallError("lineage takes exactly one of MODEL, --video and --shards")
    store = Lineage(existing_store(tracking_uri))
    if video is not None:
        return _video(store, video)
    if shards is not None:
        return _shards(store, shards)
    assert model is not None
    return _model(store.of_model(model))


def _model(found: ModelLineage) -> dict[str, Any]:
    model, run, checkpoint = found.model, found.run, found.checkpoint
    say(f"{model.uri} ({', '.join(model.aliases) or 'no alias'}), registered {model.created}")
    say(f"  weights     sha256 {found.weights}")
    say(
        f"  run         {run.id} '{run.name}', {run.status.lower()}; {_code(run.commit, run.dirty)}"
    )
    say(f"  checkpoint  step {checkpoint.step}, {checkpoint.state}: {checkpoint.path}")
    say(f"              sha256 {checkpoint.sha256}")
    say(f"  data set    {model.shards_digest}")
    if found.data is None:
        say("              no run of this store has kept its manifest")
    else:
        say(f"              was in {found.data.path}")
        _say_shards(found.data.shards)
        _say_videos(found.data.videos)
    return {**asdict(found), "model": {**asdict(model), "uri": model.uri}}


def _video(store: Any, name: str) -> dict[str, Any]:
    from corrfractal.common.errors import CallError
    from pipeline.discover.sources import find_sources

    sources = find_sources([name])
    if len(sources) != 1:
        raise CallError(
            f"{name} is not one video but {len(sources)}: name a file, or a folder of frames"
        )
    if sources[0].fault:
        raise CallError(f"cannot read the video {name}: {sources[0].fault}")
    sha256 = sources[0].sha256
    found = store.of_video(sha256)
    say(f"{name}  sha256 {sha256}")
    if not found:
        say("no data set that this store knows holds it")
    for video, use in found:
        say(f"  data set {use.data.digest}, was in {use.data.path}")
        say(f"    called {video.source.uri}, {video.source.outcome}: {video.source.clips} clips in "
            f"{', '.join(video.shards) or 'no shard'}")  # fmt: skip
        _say_models(use)
    uses = [{"source": asdict(v.source), "shards": list(v.shards), **_use(use)} for v, use in found]
    return {"video": name, "sha256": sha256, "data_sets": uses}


def _shards(store: Any, folder: str) -> dict[str, Any]:
    from corrfractal.shards.manifest import load_manifest

    manifest = load_manifest(folder)
    use = store.of_shards(manifest.digest)
    say(f"{folder}  data set {manifest.digest}")
    if use is None:
        say("this store has no run on it; its own manifest says:")
        _say_shards(manifest.shards)
        return {"digest": manifest.digest, "known": False, "shards": [asdict(s) for s in manifest.shards],
                "videos": [asdict(s) for s in manifest.sources]}  # fmt: skip
    _say_models(use)
    _say_shards(use.data.shards)
    _say_videos(use.data.videos)
    return {**_use(use), "known": True, "shards": [asdict(s) for s in use.data.shards],
            "videos": [asdict(v) for v in use.data.videos]}  # fmt: skip


def _use(use: Use) -> dict[str, Any]:
    """Plain values, without the lists of shards and videos."""
    return {
        "digest": use.data.digest,
        "path": use.data.path,
        "models": [
            {"uri": m.uri, "aliases": list(m.aliases), "run_id": m.run_id} for m in use.models
        ],
        "unregistered_runs": [run.id for run in use.unregistered],
    }


def _say_models(use: Use) -> None:
    for model in use.models:
        say(f"    -> {model.uri} ({', '.join(model.aliases) or 'no alias'}), run {model.run_id}")
    for run in use.unregistered:
        say(f"    -> run {run.id} '{run.name}', {run.status.lower()}, no registered model")
    if not use.models and not use.unregistered:
        say("    -> nothing was trained on it")


def _say_shards(shards: Iterable[Any]) -> None:
    shards = list(shards)
    say(f"  {len(shards)} shards")
    _say_list(f"    {shard.name}  sha256 {shard.sha256}  {shard.samples} clips" for shard in shards)
    _say_rest(len(shards))


def _say_videos(videos: Iterable[Video]) -> None:
    videos = list(videos)
    say(f"  {len(videos)} videos")
    width = max((len(video.source.uri) for video in videos[:MOST]), default=0)
    _say_list(
        f"    {v.source.uri:{width}}  sha256 {v.source.sha256}  {v.source.clips} clips in "
        f"{', '.join(v.shards) or 'no shard'}"
        + ("" if v.source.outcome == "sampled" else f" ({v.source.outcome})")
        for v in videos
    )
    _say_rest(len(videos))


def _say_list(lines: Iterable[str]) -> None:
    for line in islice(lines, MOST):
        say(line)


def _say_rest(count: int) -> None:
    if count > MOST:
        say(f"    ... and {count - MOST} more (--json has all)")


def _code(commit: str, dirty: str) -> str:
    state = {"true": ", with uncommitted changes", "false": ""}.get(dirty, "")
    return f"code {commit[:12]}{state}"
