"""The samples of a data set as columns: the driver reads them once and hands them to all workers.

A worker needs neither the manifest nor the index, and holds no object per clip or shard. In Ray's
object store the columns exist once per host, and workers map them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from corrfractal.shards.index import Index
from corrfractal.shards.manifest import LabelStatistics, load_manifest
from training.config import TrainingConfig

I64 = npt.NDArray[np.int64]


class Shard(NamedTuple):
    """One shard.

    Attributes:
        number: its row in the index.
        name: file name.
        sha256, bytes: of the file.
    """

    number: int
    name: str
    sha256: str
    bytes: int


class Sample(NamedTuple):
    """A clip that training can use.

    Attributes:
        shard: that holds it.
        offset, length: bytes of the shard that are its tar members.
        frames, views: numbers of each.
    """

    shard: Shard
    offset: int
    length: int
    frames: int
    views: int


@dataclass(frozen=True, kw_only=True)
class SampleIndex:
    """All shards of a data set, and the clips in them that a run can use, in stored order.

    Attributes:
        digest: of the data set.
        labels: statistics of its labels.
        side: height and width of stored frames, pixels.
        names, sha256: ASCII bytes (S,), of the shards.
        sizes: int64 (S,), bytes of the shards.
        counts: int64 (S,), usable clips of each shard.
        offset: int64 (n,), as of ``Sample``.
        length: int32 (n,).
        frames, views: int16 (n,).
    """

    digest: str
    labels: LabelStatistics
    side: int
    names: npt.NDArray[np.bytes_]
    sha256: npt.NDArray[np.bytes_]
    sizes: I64
    counts: I64
    offset: I64
    length: npt.NDArray[np.int32]
    frames: npt.NDArray[np.int16]
    views: npt.NDArray[np.int16]

    def __len__(self) -> int:
        """Number of usable clips."""
        return len(self.offset)

    def shard(self, number: int) -> Shard:
        """One shard."""
        return Shard(
            number,
            self.names[number].decode(),
            self.sha256[number].decode(),
            int(self.sizes[number]),
        )

    def sample(self, number: int) -> Sample:
        """One clip, by its number among the usable ones."""
        return Sample(
            self.shard(int(np.searchsorted(self._ends, number, side="right"))),
            int(self.offset[number]),
            int(self.length[number]),
            int(self.frames[number]),
            int(self.views[number]),
        )

    @cached_property
    def _ends(self) -> I64:
        """Number after the last clip of each shard."""
        return np.cumsum(self.counts)

    def __getstate__(self) -> dict[str, Any]:
        # What is computed from the columns is not handed on with them.
        return {name: value for name, value in vars(self).items() if name != "_ends"}


def read_samples(shards: str | Path, config: TrainingConfig) -> SampleIndex:
    """Read manifest and index of a folder of shards, each file once.

    Args:
        shards: the folder, local or a URI.
        config: decides how many frames a usable clip has.

    Raises:
        NotFoundError: there are no finished shards.
        IntegrityError: the manifest or a file of the index is missing or damaged.
    """
    manifest = load_manifest(shards)
    index = Index(shards, manifest)
    table = index.shard_files
    clips = index.clips
    usable = clips.frames >= config.clip_frames_needed
    return SampleIndex(
        digest=manifest.digest,
        labels=manifest.statistics.labels,
        side=manifest.config["size"],
        names=np.array(table.column("name").to_pylist(), dtype=np.bytes_),
        sha256=np.array(table.column("sha256").to_pylist(), dtype=np.bytes_),
        sizes=np.array(table.column("bytes").to_pylist(), dtype=np.int64),
        counts=np.bincount(clips.shard[usable], minlength=len(table)).astype(np.int64),
        offset=clips.offset[usable],
        length=clips.length[usable],
        frames=clips.frames[usable],
        views=clips.views[usable],
    )
