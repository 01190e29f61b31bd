"""What it costs to write tars through ``webdataset.TarWriter`` (decision 0046).

    python benchmarks/tars.py DATA

DATA contains the folder videos. A task that builds a shard runs with each writer in turns, and then
each writer alone writes the same members; CPU time, median of five runs. The task's time varies by
more than the writers differ, so the share is that of the writers alone. The tars must be equal.
"""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import click
import cv2
from measure import print_table
from precompute import in_turn, one_task, reencode
from threadpoolctl import threadpool_limits

import pipeline.store.shard_task
from corrfractal.shards.clip import read_members
from corrfractal.shards.manifest import Sidecar, read_sealed
from pipeline.store.tar import TarWriter

# Fields of a ustar header that differ between members
SIZE_FIELD = slice(124, 135)
CHECKSUM_FIELD = slice(148, 154)


class ByHand(TarWriter):
    """A writer that makes one blank header with ``tarfile`` and fills in the rest."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self._blank = tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)
        # Without the size field, which is all "0" in a blank header
        self._checksum = int(self._blank[CHECKSUM_FIELD], 8) - sum(self._blank[SIZE_FIELD])

    def add(self, members: Mapping[str, bytes]) -> int:
        start = self.position
        for name, contents in members.items():
            padding = b"\0" * (-len(contents) % tarfile.BLOCKSIZE)
            block = self._header(name.encode(), len(contents)) + contents + padding
            self.position += self._file.write(block)
        return self.position - start

    def _header(self, name: bytes, size: int) -> bytes:
        header = bytearray(self._blank)
        header[: len(name)] = name
        header[SIZE_FIELD] = b"%011o" % size
        header[CHECKSUM_FIELD] = b"%06o" % (self._checksum + sum(name) + sum(header[SIZE_FIELD]))
        return bytes(header)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    """Measure both writers."""
    cv2.setNumThreads(1)
    # One thread, as in a Ray task.
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(1):
        measure(data, Path(folder))


def measure(data: Path, work: Path) -> None:
    """Print the table of both writers."""
    busy = reencode(data / "videos" / "imageio_cockatoo.mp4", work / "busy.mp4")
    out = work / "out"
    shard = out / "shard-0123456789abcdef.tar"
    writers = {"headers by hand": ByHand, "webdataset.TarWriter": TarWriter}
    task, count = one_task(busy, out, 1)

    def task_with(writer: Any) -> None:
        pipeline.store.shard_task.TarWriter = writer  # type: ignore[attr-defined]
        task()

    contents = {}
    for name, writer in writers.items():
        task_with(writer)
        contents[name] = shard.read_bytes()
    by_hand = contents["headers by hand"]
    assert by_hand == contents["webdataset.TarWriter"], "the tars differ"

    sidecar = read_sealed(out / "shard-0123456789abcdef.json", Sidecar)
    clips = [
        read_members(by_hand[sample.offset : sample.offset + sample.length])
        for sample in sidecar.samples
    ]

    def write_with(writer: Any) -> None:
        with (work / "alone.tar").open("wb") as file:
            archive = writer(file)
            for members in clips:
                archive.add(members)
            archive.close()

    tasks = in_turn(*(partial(task_with, writer) for writer in writers.values()))
    alone = in_turn(*(partial(write_with, writer) for writer in writers.values()))
    rows = []
    for name, task_seconds, own_seconds in zip(writers, tasks, alone, strict=True):
        rows.append(
            {
                "tars through": name,
                "whole task, ms a frame": 1e3 * task_seconds / count,
                "writer alone, ms a frame": 1e3 * own_seconds / count,
                "more than by hand, % of a task": 100 * (own_seconds - alone[0]) / tasks[0],
            }
        )
    members = sum(len(members) for members in clips)
    title = f"tars: {len(clips)} clips, {members} members, equal bytes"
    print_table(title, rows)


if __name__ == "__main__":
    main()
