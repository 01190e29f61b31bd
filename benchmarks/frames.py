"""Which frames each command reads of each file.

    python benchmarks/frames.py DATA [--page PAGE]

All videos below the folders of DATA go through plan, precompute, propagate and the served model;
folders of frames also go through the reader of evaluate. ffprobe, of the package ffmpeg, counts the
frames that a player shows. Exit code 1 if two counts differ and no damage is reported.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
from measure import table
from PIL import Image

from corrfractal.common.errors import CorrFractalError
from corrfractal.shards.index import Index
from corrfractal.shards.manifest import SourceEntry, load_manifest
from corrfractal.video import open_video
from corrfractal.video.container import read_container
from corrfractal.video.frame_folder import frame_files
from inference.datasets.folders import read_picture
from inference.load import open_model, resolve_model
from inference.prompts.shapes import read_prompts
from inference.propagate import propagate_video
from inference.serving import DAMAGED, MaskPropagation
from pipeline.config import PipelineConfig
from pipeline.report.header_info import probe
from pipeline.run import precompute

FOLDERS = ("videos", "odd_videos", "train_videos", "field")
# Suffixes of the videos in the folder field, which contains other files too.
SUFFIXES = (".mp4", ".mkv", ".webm")
PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference" / "frames.md"
BOX = "1,4,4,14,14"

HEAD = """# Which frames each command sees

Written by `{command}` over {files} files. Columns:

- *header*: frames according to the container's header;
- *ffprobe*: frames of the shown track that `ffprobe -count_frames` decodes;
- *plan*: packets that are shown;
- *precompute*: frames in the index, which `inspect` and `lineage` read too;
- *propagate*: masks;
- *serving*: rows with a mask, from the registered model as a service;
- *evaluate*: frames read, for frame folders only;
- *damage*: the damage, or the reason why counts differ.

A file without an entry in the last column has the same count in every column from *ffprobe* on.
Everything from the first damaged frame on is left out; ffprobe counts concealed damage as frames.
{same} files have the same count in all of these; {damaged} have an entry in the last column.
"""


@dataclass(frozen=True)
class Counts:
    """Frames of one file that each command reads; None if a command does not apply."""

    file: str
    header: int | None
    ffprobe: int | None
    plan: int | None
    precompute: int
    propagate: int
    serving: int | None
    evaluate: int | None
    damage: str

    @property
    def agree(self) -> bool:
        counts = (self.ffprobe, self.plan, self.precompute, self.propagate, self.serving)
        return len({count for count in (*counts, self.evaluate) if count is not None}) == 1


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--page", type=click.Path(path_type=Path), default=PAGE, show_default=True)
def main(data: Path, page: Path) -> None:
    """Count frames, and write the page."""
    if shutil.which("ffprobe") is None:
        raise SystemExit("ffprobe is missing: install the package ffmpeg")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "in"
        paths = list(copy_inputs(data, root))
        out = Path(folder) / "shards"
        precompute([str(root)], out, PipelineConfig(), workers=2)
        entries = {entry.uri: entry for entry in Index(out, load_manifest(out)).sources}
        # A folder of images is not always a folder of frames: precompute decides.
        paths = [path for path in paths if path.is_file() or uri_of(path, root) in entries]
        rows = [count(path, root, entries, Path(folder) / "masks") for path in paths]
    same = sum(row.agree for row in rows)
    unexplained = [row for row in rows if not row.agree and not row.damage]
    damaged = sum(bool(row.damage) for row in rows)
    head = HEAD.format(
        command="python benchmarks/frames.py ../shared/data",
        files=len(rows),
        same=same,
        damaged=damaged,
    )
    page.write_text(head + "\n" + table([table_row(row) for row in rows]), encoding="utf-8")
    print(f"{len(rows)} files: {same} agree, {damaged} damaged -> {page}")
    if unexplained:
        raise SystemExit("\n".join(f"{row}" for row in unexplained))


def copy_inputs(data: Path, root: Path) -> Iterator[Path]:
    """Copy the videos and folders of frames of DATA, and yield the copies."""
    for name in FOLDERS:
        for source in sorted((data / name).rglob("*")):
            target = root / source.relative_to(data)
            if source.is_dir() and frame_files(source):
                shutil.copytree(source, target)
                yield target
            elif source.is_file() and (name != "field" or source.suffix in SUFFIXES):
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
                yield target


def uri_of(path: Path, root: Path) -> str:
    """The URI of a path in the index."""
    return os.fsencode(path.relative_to(root)).decode("utf-8", "backslashreplace")


def count(path: Path, root: Path, entries: dict[str, SourceEntry], masks: Path) -> Counts:
    """All counts of one video or folder of frames."""
    uri = uri_of(path, root)
    entry = entries[uri]
    header = probe(str(path))
    propagated, damage = propagate(path, masks / uri.replace("/", "_"))
    counts: dict[str, int | None] = {
        "header": None,
        "ffprobe": None,
        "serving": None,
        "evaluate": None,
    }
    if path.is_dir():
        counts["header"] = len(frame_files(path))
        counts["evaluate"] = evaluated(path)
    else:
        counts["header"], counts["ffprobe"] = header_and_ffprobe(path)
        counts["serving"] = served(path)
    unread = entry.outcome == "quarantined" or (entry.outcome, entry.stage) == ("rejected", "read")
    return Counts(
        file=uri,
        **counts,
        plan=round(header.seconds * header.fps),
        precompute=entry.frames,
        propagate=propagated,
        damage=damage or (str(entry.reason) if unread else hidden_frames(path, entry)),
    )


def hidden_frames(path: Path, entry: SourceEntry) -> str:
    """Describe packets of frames that are never shown, as VP9 can store them."""
    if path.is_dir():
        return ""
    hidden = read_container(path).frames - entry.frames
    if hidden <= 0:
        return ""
    return f"{hidden} packets hold frames that are not shown; a plan counts them"


def header_and_ffprobe(path: Path) -> tuple[int | None, int]:
    """Frames according to the container (None: not stated), and frames that ffprobe decodes."""
    try:
        container = read_container(path)
    except CorrFractalError:
        return None, 0
    command = ["ffprobe", "-v", "error", "-count_frames", "-select_streams", str(container.track)]
    fields = ["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", str(path)]
    output = subprocess.run([*command, *fields], capture_output=True, text=True, check=False).stdout
    number = output.strip().split("\n")[0].strip(",")
    return container.header_frames, int(number) if number.isdecimal() else 0


def propagate(path: Path, out: Path) -> tuple[int, str]:
    """Number of masks that ``corrfractal propagate`` writes, and its error, if any."""
    try:
        prompts = read_prompts(boxes=(BOX,))
        return propagate_video(path, prompts, out, "baseline:copy").frames, ""
    except CorrFractalError as exc:
        return len(list(out.glob("*.png"))), str(getattr(exc, "reason", exc))


def served(path: Path) -> int:
    """Number of masks that the serving code returns, with the copying model."""
    try:
        info = open_video(path).info
    except CorrFractalError:
        return 0
    mask = np.zeros((info.height, info.width), np.uint8)
    mask[4:14, 4:14] = 1
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    service: Any = MaskPropagation()
    service.model = open_model(resolve_model("baseline:copy"))
    request = pd.DataFrame({"video": [path.read_bytes()], "mask": [buffer.getvalue()]})
    return sum(answer != DAMAGED for answer in service.predict(None, request)["mask"])


def evaluated(path: Path) -> int:
    """Number of frames of a folder before the first that a data set's reader cannot read."""
    files = frame_files(path)
    for index, file in enumerate(files):
        try:
            read_picture(file, index)
        except CorrFractalError:
            return index
    return len(files)


def table_row(row: Counts) -> dict[str, Any]:
    """A row of the table."""
    values = {name: getattr(row, name) for name in Counts.__dataclass_fields__}
    return {name: "" if value is None else value for name, value in values.items()}


if __name__ == "__main__":
    main()
