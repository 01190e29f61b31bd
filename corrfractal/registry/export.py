"""A registered version as a folder that needs nothing else: no store, no run, no shards.

model.safetensors   loads with ``CorrFractal.load``, and with ``corrfractal propagate --model``
config.json         network and training configuration
lineage.json        run, code, checkpoint, data set with its shards and videos
scores.json         what evaluation noted on the version
README.md           the model card
SHA256SUMS          of all of these; ``sha256sum -c SHA256SUMS`` checks them
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from corrfractal.common.errors import CallError, IntegrityError
from corrfractal.common.files import file_sha256
from corrfractal.common.output_guard import refuse_overlap
from corrfractal.network import artifact

from .lineage import Lineage, ModelLineage
from .store import local_file
from .versions import fetch_weights

CARD = """\
# {name} {version}

Dense video correspondence, learned without labels: the mask of a first frame is carried through the video.

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
It follows what looks the same from frame to frame; an object that leaves the picture, or one beside its double, may be
lost. It was trained on the videos that `lineage.json` names: check their licences before passing the weights on.
"""


def export(name: str, out: Path, uri: str) -> ModelLineage:
    """Write the folder, whole or not at all.

    Args:
        name: which version, as in ``registry.show``.
        out: a folder that does not exist, or is empty.
        uri: MLflow store.

    Raises:
        CallError: ``out`` holds something, or touches the store.
        NotFoundError: no such version.
        IntegrityError: the weights are not those that were registered.
    """
    store = local_file(uri)
    if store is not None:
        refuse_overlap({"--out": out}, (store, store.parent / "mlartifacts"))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CallError(f"{out} is not empty: name a new folder")
    found = Lineage(uri).of_model(name)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        _fill(folder, found)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return found


def _fill(folder: Path, found: ModelLineage) -> None:
    weights = folder / "model.safetensors"
    with tempfile.TemporaryDirectory() as fetched:
        shutil.copyfile(fetch_weights(found.model, Path(fetched)), weights)
    if file_sha256(weights) != found.weights:
        raise IntegrityError(
            f"the weights of {found.model.uri} are not those that were registered, {found.weights}"
        )
    metadata = artifact.read_metadata(weights)
    config = {
        "network": json.loads(metadata["config"]),
        "training": json.loads(metadata.get("training", "{}")),
    }
    documents = {
        "config.json": config,
        "lineage.json": {**asdict(found), "model": {**asdict(found.model), "uri": found.model.uri}},
        "scores.json": [{**asdict(scores), "JF": scores.JF} for scores in found.model.scores],
    }
    for name, document in documents.items():
        (folder / name).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(found, weights, config), encoding="utf-8")
    files = sorted(path for path in folder.iterdir())
    sums = "".join(f"{file_sha256(path)}  {path.name}\n" for path in files)
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")


def _card(found: ModelLineage, weights: Path, config: dict[str, dict[str, object]]) -> str:
    from corrfractal.network.model import CorrFractal

    model, network, training = found.model, config["network"], config["training"]
    data = found.data
    clips = sum(shard.samples for shard in data.shards) if data else 0
    lines = [
        f"- {s.dataset}, {s.sequences} sequences, {s.objects} objects: J&F {100 * s.JF:.1f} (J "
        f"{100 * s.J:.1f}, F {100 * s.F:.1f}); files {s.set_digest[:12]}, settings "
        f"{s.settings[:12]}"
        for s in model.scores
    ]
    return CARD.format(
        name=model.name,
        version=model.version,
        uri=model.uri,
        aliases=", ".join(model.aliases) or "no alias",
        created=model.created,
        width=network["width"],
        channels=network["embedding_channels"],
        weights=f"{sum(p.numel() for p in CorrFractal.load(weights).parameters()):,}",
        steps=found.checkpoint.step or "unknown",
        references=training.get("references", "unknown"),
        batch_size=training.get("batch_size", "unknown"),
        run=found.run.id,
        commit=found.run.commit
        + (" with uncommitted changes" if found.run.dirty == "true" else ""),
        digest=model.shards_digest,
        videos=f"{clips} clips of {len(data.videos)} videos"
        if data
        else "unknown: no run has kept the manifest",
        scores="\n".join(lines) or "It has not been evaluated.",
    )
