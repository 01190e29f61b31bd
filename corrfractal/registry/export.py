"""Export a registered version as a self-contained folder, usable without store, run and shards.

model.safetensors   loads with ``CorrFractal.load`` and ``corrfractal propagate --model``
config.json         network and training configuration
lineage.json        run, code, checkpoint, data set with its shards and videos
scores.json         evaluations of the version
README.md           the model card
SHA256SUMS          of all files above; check with ``sha256sum -c SHA256SUMS``
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from corrfractal.common.errors import CallError, IntegrityError
from corrfractal.files.atomic import file_sha256
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.network import artifact
from corrfractal.registry.store.addresses import ARTIFACTS

from .lineage import Lineage, ModelLineage
from .names import UNKNOWN
from .store import local_file
from .weights import download_weights

CARD = """\
# {name} {version}

Dense video correspondence, learned without labels: it propagates the mask of a first frame through
the video.

    corrfractal propagate VIDEO --mask FIRST.png --out MASKS --model model.safetensors

    from corrfractal import CorrFractal
    tracker = CorrFractal.load("model.safetensors").tracker(first_frame, first_mask)

| | |
|---|---|
| registered | {uri} ({aliases}), {created} |
| network | width {width}, {channels} embedding channels, {weights} weights |
| trained | {steps} steps, preset `{references}`, batch {batch_size}, run `{run}` |
| code | {commit} |
| data set | {digest} |
| made of | {videos} |

## Scores
{scores}

## Limits
It follows what looks alike from frame to frame; an object that leaves the picture, or one next to a
similar object, may be lost. It was trained on the videos listed in `lineage.json`: check their
licences before distributing the weights.
"""


def export(name: str, out: Path, uri: str) -> ModelLineage:
    """Write the folder: to a temporary folder, renamed when complete.

    Args:
        name: version, as in ``versions.parse_model_name``.
        out: a folder that does not exist, or is empty.
        uri: MLflow store.

    Returns:
        The lineage of the exported version.

    Raises:
        CallError: ``out`` is not empty, or overlaps the store.
        NotFoundError: no such version.
        IntegrityError: the weights are not those that were registered.
    """
    store = local_file(uri)
    if store is not None:
        refuse_overlap({"--out": out}, (store, store.parent / ARTIFACTS))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CallError(f"{out} is not empty: name a new folder")

    lineage = Lineage(uri).of_model(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    # In the parent of ``out``, since a rename must stay on one file system.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        _write_files(folder, lineage)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return lineage


def _write_files(folder: Path, lineage: ModelLineage) -> None:
    model = lineage.model
    weights = folder / "model.safetensors"
    with tempfile.TemporaryDirectory() as downloads:
        shutil.copyfile(download_weights(model.uri, Path(downloads)), weights)
    # Whoever may write to the artefact folder may have replaced the file.
    if file_sha256(weights) != lineage.weights:
        raise IntegrityError(
            f"the weights of {model.uri} are not those that were registered, {lineage.weights}"
        )

    metadata = artifact.read_metadata(weights)
    config = {
        "network": json.loads(metadata["config"]),
        "training": json.loads(metadata.get("training", "{}")),
    }
    documents = {
        "config.json": config,
        "lineage.json": {**asdict(lineage), "model": {**asdict(model), "uri": model.uri}},
        "scores.json": [{**asdict(scores), "JF": scores.JF} for scores in model.scores],
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_model_card(lineage, weights, config), encoding="utf-8")

    # Last, since it covers every other file
    sums = "".join(f"{file_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _model_card(
    lineage: ModelLineage, weights: Path, config: Mapping[str, Mapping[str, object]]
) -> str:
    from corrfractal.network.model import CorrFractal

    model = lineage.model
    run = lineage.run
    training = config["training"]
    parameters = sum(p.numel() for p in CorrFractal.load(weights).parameters())
    videos = "unknown: no run of the store has a copy of the manifest"
    if lineage.data is not None:
        clips = sum(shard.samples for shard in lineage.data.shards)
        videos = f"{clips} clips of {len(lineage.data.videos)} videos"
    scores = [
        f"- {s.dataset}, {s.sequences} sequences, {s.objects} objects: J&F {100 * s.JF:.1f} (J "
        f"{100 * s.J:.1f}, F {100 * s.F:.1f}); files {s.set_digest[:12]}, settings "
        f"{s.settings[:12]}"
        for s in model.scores
    ]
    return CARD.format(
        name=model.name,
        version=model.version,
        uri=model.uri,
        aliases=model.alias_text,
        created=model.created,
        width=config["network"]["width"],
        channels=config["network"]["embedding_channels"],
        weights=f"{parameters:,}",
        steps=lineage.checkpoint.step or UNKNOWN,
        references=training.get("references", UNKNOWN),
        batch_size=training.get("batch_size", UNKNOWN),
        run=run.id,
        commit=run.commit + (" with uncommitted changes" if run.dirty == "true" else ""),
        digest=model.shards_digest,
        videos=videos,
        scores="\n".join(scores) or "It has not been evaluated.",
    )
