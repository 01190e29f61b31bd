"""``corrfractal lineage``: the origin of a model, and what was trained on a video or on shards.

The queries are in ``corrfractal.registry.lineage``. The command is in this layer because it hashes
a video, or a folder of frames, with the pipeline's own code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from corrfractal.common.command_line import LOCATION, TRACKING_URI, examples
from corrfractal.common.console import command, say

if TYPE_CHECKING:
    from corrfractal.registry.lineage import DataSetUse, Lineage, ModelLineage, VideoUse
    from corrfractal.shards.manifest import ShardEntry

MAX_LINES = 20
"""Entries of a list that are printed; ``--json`` has all."""


@click.command(
    epilog=examples(
        "corrfractal lineage champion",
        "corrfractal lineage --video videos/bear.mp4",
        "corrfractal lineage --shards s3://bucket/shards --json",
    )
)
@click.argument("model", required=False)
@click.option("--video", type=LOCATION, help="Video or folder of frames: its data sets and models.")
@click.option("--shards", type=LOCATION, help="Folder of shards: its videos and models.")
@TRACKING_URI
@command
def lineage(
    model: str | None, video: str | None, shards: str | None, tracking_uri: str | None
) -> dict[str, Any]:
    """Show where MODEL came from: run, code, checkpoint, data set, videos.

    MODEL is a version number, an alias, models:/NAME/VERSION, or a registered model file.
    """
    from corrfractal.common.errors import CallError
    from corrfractal.registry.connection import existing_store
    from corrfractal.registry.lineage import Lineage

    if sum(given is not None for given in (model, video, shards)) != 1:
        raise CallError("lineage takes exactly one of MODEL, --video and --shards")
    store = Lineage(existing_store(tracking_uri))
    if video is not None:
        return _report_video(store, video)
    if shards is not None:
        return _report_shards(store, shards)
    assert model is not None
    return _report_model(store.of_model(model))


def _report_model(found: ModelLineage) -> dict[str, Any]:
    model = found.model
    run = found.run
    checkpoint = found.checkpoint
    code = f"code {run.commit[:12]}"
    if run.dirty == "true":
        code += ", with uncommitted changes"
    say(f"{model.uri} ({model.alias_text}), registered {model.created}")
    say(f"  weights     sha256 {found.weights}")
    say(f"  run         {run.id} '{run.name}', {run.status.lower()}; {code}")
    say(f"  checkpoint  step {checkpoint.step}, {checkpoint.state}: {checkpoint.path}")
    say(f"              sha256 {checkpoint.sha256}")
    say(f"  data set    {model.shards_digest}")
    if found.data is None:
        say("              no run of this store has a copy of its manifest")
    else:
        say(f"              from {found.data.path}")
        _say_shards(found.data.shards)
        _say_videos(found.data.videos)
    return {**asdict(found), "model": {**asdict(model), "uri": model.uri}}


def _report_video(store: Lineage, name: str) -> dict[str, Any]:
    from corrfractal.common.errors import CallError
    from corrfractal.files import storage
    from corrfractal.video.content import content_sha256
    from pipeline.discover.sources import find_sources

    sources = find_sources([name])
    if len(sources) != 1:
        raise CallError(
            f"{name} is not one video but {len(sources)}: name a file, or a folder of frames"
        )
    if sources[0].fault:
        raise CallError(f"cannot read the video {name}: {sources[0].fault}")

    with storage.local_copy(sources[0].path) as path:
        sha256 = content_sha256(path)
    found = store.of_video(sha256)
    say(f"{name}  sha256 {sha256}")
    if not found:
        say("no data set of this store contains it")
    uses = []
    for video, use in found:
        source = video.source
        shards = ", ".join(video.shards) or "no shard"
        say(f"  data set {use.data.digest}, from {use.data.path}")
        say(f"    called {source.uri}, {source.outcome}: {source.clips} clips in {shards}")
        _say_models(use)
        uses.append({"source": asdict(source), "shards": list(video.shards), **_to_json(use)})
    return {"video": name, "sha256": sha256, "data_sets": uses}


def _report_shards(store: Lineage, folder: str) -> dict[str, Any]:
    from corrfractal.shards.index import Index
    from corrfractal.shards.manifest import load_manifest

    manifest = load_manifest(folder)
    use = store.of_shards(manifest.digest)
    say(f"{folder}  data set {manifest.digest}")
    if use is None:
        say("no run of this store used it; its own index lists:")
        index = Index(folder, manifest)
        _say_shards(index.shards)
        return {
            "digest": manifest.digest,
            "known": False,
            "shards": [asdict(shard) for shard in index.shards],
            "videos": [asdict(source) for source in index.sources],
        }
    _say_models(use)
    _say_shards(use.data.shards)
    _say_videos(use.data.videos)
    return {
        **_to_json(use),
        "known": True,
        "shards": [asdict(shard) for shard in use.data.shards],
        "videos": [asdict(video) for video in use.data.videos],
    }


def _to_json(use: DataSetUse) -> dict[str, Any]:
    """The fields of ``--json``, without the lists of shards and videos."""
    models = [
        {"uri": model.uri, "aliases": list(model.aliases), "run_id": model.run_id}
        for model in use.models
    ]
    return {
        "digest": use.data.digest,
        "path": use.data.path,
        "models": models,
        "unregistered_runs": [run.id for run in use.unregistered],
    }


def _say_models(use: DataSetUse) -> None:
    for model in use.models:
        say(f"    -> {model.uri} ({model.alias_text}), run {model.run_id}")
    for run in use.unregistered:
        say(f"    -> run {run.id} '{run.name}', {run.status.lower()}, no registered model")
    if not use.models and not use.unregistered:
        say("    -> nothing was trained on it")


def _say_shards(shards: Sequence[ShardEntry]) -> None:
    say(f"  {len(shards)} shards")
    for shard in shards[:MAX_LINES]:
        say(f"    {shard.name}  sha256 {shard.sha256}  {shard.samples} clips")
    _say_omitted(len(shards))


def _say_videos(videos: Sequence[VideoUse]) -> None:
    say(f"  {len(videos)} videos")
    width = max((len(video.source.uri) for video in videos[:MAX_LINES]), default=0)
    for video in videos[:MAX_LINES]:
        source = video.source
        shards = ", ".join(video.shards) or "no shard"
        line = f"    {source.uri:{width}}  sha256 {source.sha256}  {source.clips} clips in {shards}"
        if source.outcome != "sampled":
            line += f" ({source.outcome})"
        say(line)
    _say_omitted(len(videos))


def _say_omitted(count: int) -> None:
    if count > MAX_LINES:
        say(f"    ... and {count - MAX_LINES} more (--json has all)")
