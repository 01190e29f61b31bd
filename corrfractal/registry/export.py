"""Export a registered version as a self-contained folder, usable without store, run and shards.

model.safetensors   loads with ``CorrFractal.load`` and ``corrfractal propagate --model``
config.json         network and training configuration
lineage.json        run, code, checkpoint, data set with its shards and videos
scores.json         evaluations of the version
README.md           the model card, see ``model_card``
SHA256SUMS          of all files above; check with ``sha256sum -c SHA256SUMS``
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from corrfractal.common.errors import CallError, IntegrityError
from corrfractal.files.atomic import file_sha256
from corrfractal.files.output_guard import refuse_overlap
from corrfractal.network import artifact
from corrfractal.registry.store.addresses import ARTIFACTS

from .lineage import Lineage, ModelLineage
from .model_card import OTHER_LICENSE, model_card
from .pages import read_run
from .store import local_file
from .weights import download_weights


def export(name: str, out: Path, uri: str, license_id: str = OTHER_LICENSE) -> ModelLineage:
    """Write the folder: to a temporary folder, renamed when complete.

    Args:
        name: version, as in ``versions.parse_model_name``.
        out: a folder that does not exist, or is empty.
        uri: MLflow store.
        license_id: of the weights, for the model card.

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
        _write_files(folder, lineage, license_id)
        if out.exists():
            out.rmdir()
        folder.rename(out)
    return lineage


def _write_files(folder: Path, lineage: ModelLineage, license_id: str) -> None:
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
    card = model_card(model, read_run(model.run_id), weights, license_id)
    (folder / "README.md").write_text(card, encoding="utf-8")

    # Last, since it covers every other file
    sums = "".join(f"{file_sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text(sums, encoding="utf-8")
