"""Clips of an earlier build, copied instead of decoded again.

Where a new video moves the boundary of a group, or a folder of an older layout is built again, the
videos of a shard are the same and only the shard is another one. A clip is a run of tar members
that depends on its video and the configuration alone, so its bytes can be taken over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from corrfractal.common.errors import IntegrityError
from corrfractal.files import storage
from corrfractal.shards.clip import decode_labels, read_members
from corrfractal.shards.manifest import (
    LabelStatistics,
    SampleEntry,
    Sidecar,
    SourceEntry,
    read_sealed,
    sidecar_name,
)
from pipeline.discover.segments import Segment
from pipeline.discover.sources import source_id
from pipeline.label.pseudo_labels import label_statistics

from .tar import TarWriter


@dataclass(frozen=True, kw_only=True)
class SegmentSamples:
    """What one segment contributes to its shard.

    Attributes:
        entry: outcome of the segment, with the reason if it was not sampled.
        samples: position and size of each stored clip.
        statistics: of the labels of these clips.
    """

    entry: SourceEntry
    samples: tuple[SampleEntry, ...] = ()
    statistics: LabelStatistics = field(default_factory=LabelStatistics)


class ClipCopies:
    """Copies clips within one task.

    Args:
        out: folder of the shards.
        earlier: name of the shard that stores the clips of a segment, by name of the segment.

    Attributes:
        count: number of clips copied so far.
    """

    def __init__(self, out: str, earlier: Mapping[str, str]) -> None:
        self.count = 0
        self._out = out
        self._earlier = earlier
        self._sidecars: dict[str, Sidecar | None] = {}

    def copy(self, segment: Segment, sha256: str, tar: TarWriter) -> SegmentSamples | None:
        """Append the clips of a segment whose video has this content; None if there are none, or
        they were made from other bytes, or their shard is damaged."""
        sidecar = self._intact_sidecar(self._earlier.get(segment.name))
        entry = _entry_of(segment, sha256, sidecar)
        if sidecar is None or entry is None:
            return None
        samples = []
        statistics = LabelStatistics()
        location = storage.join(self._out, sidecar.name)
        mark = tar.position
        try:
            for sample in samples_of(entry, sidecar.samples):
                offset = tar.position
                block = storage.read_part(location, sample.offset, sample.length)
                members = read_members(block)
                length = tar.add(members)
                labels = np.stack([decode_labels(members, view) for view in range(sample.views)])
                statistics += label_statistics(labels)
                samples.append(replace(sample, offset=offset, length=length))
        except (IntegrityError, OSError):
            tar.rewind(mark)
            return None
        self.count += len(samples)
        return SegmentSamples(entry=entry, samples=tuple(samples), statistics=statistics)

    def _intact_sidecar(self, name: str | None) -> Sidecar | None:
        """The sidecar of an earlier shard whose tar has the bytes that it names; hashed once."""
        if name is None:
            return None
        if name not in self._sidecars:
            location = storage.join(self._out, name)
            try:
                sidecar = read_sealed(storage.join(self._out, sidecar_name(name)), Sidecar)
                intact = storage.sha256(location) == sidecar.sha256
            except (IntegrityError, OSError):
                intact = False
            self._sidecars[name] = sidecar if intact else None
        return self._sidecars[name]


def _entry_of(segment: Segment, sha256: str, sidecar: Sidecar | None) -> SourceEntry | None:
    """The entry of a segment in an earlier sidecar, if it was made from this content."""
    for entry in () if sidecar is None else sidecar.sources:
        same_part = (entry.segment, entry.segments) == (segment.number, segment.count)
        if entry.uri == segment.source.uri and same_part and entry.sha256 == sha256:
            return entry
    return None


def samples_of(entry: SourceEntry, samples: tuple[SampleEntry, ...]) -> tuple[SampleEntry, ...]:
    """The clips of one segment among those of its shard."""
    part = f"{entry.segment:03d}-" if entry.segments > 1 else ""
    prefix = f"{source_id(entry.uri, entry.sha256)}_{part}"
    return tuple(sample for sample in samples if sample.key.startswith(prefix))
