"""A folder of shards as a sequence of clips, for looking at them and for other training code.

One read of the store fetches one clip. Whole epochs are read faster as a stream
(``open_webdataset``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

from corrfractal.files import storage

from .clip import Clip, decode_clip, read_members
from .index import Index
from .manifest import Manifest, SourceEntry, load_manifest


class ClipSet(Sequence[Clip]):
    """The clips of a folder of shards, in stored order.

    ``len(clips)`` and ``clips[i]`` work as for a list; a slice is a list of clips. A clip has
    ``frames`` uint8 (T, H, W, 3) RGB, ``labels`` uint8 (V, T, H, W) with ids 0..15, ``key`` and
    ``meta`` (the fields of ``KEY.json``).

    Attributes:
        location: the folder, a local path or a URI.
        manifest: description of the data set: configuration, statistics, digest.
    """

    def __init__(self, location: str, manifest: Manifest) -> None:
        self.location = location
        self.manifest = manifest
        self._index = Index(location, manifest)

    def __len__(self) -> int:
        return self.manifest.statistics.samples

    @overload
    def __getitem__(self, position: int) -> Clip: ...

    @overload
    def __getitem__(self, position: slice) -> list[Clip]: ...

    def __getitem__(self, position: int | slice) -> Clip | list[Clip]:
        """One clip, or a list of them.

        Raises:
            IndexError: there is no clip at this position.
            IntegrityError: the index, or the clip, is missing or damaged.
        """
        if isinstance(position, slice):
            return [self[i] for i in range(*position.indices(len(self)))]
        if not -len(self) <= position < len(self):
            raise IndexError(f"clip {position} of {len(self)}")
        found = self._index.clips.ref(position % len(self))
        shard = storage.join(self.location, found.shard)
        return decode_clip(read_members(storage.read_part(shard, found.offset, found.length)))

    def sources(self) -> Iterator[SourceEntry]:
        """The videos that the clips come from, and those that were quarantined or rejected, sorted
        by URI."""
        yield from self._index.sources

    def __repr__(self) -> str:
        return f"ClipSet({self.location!r}, {len(self)} clips, digest {self.manifest.digest[:16]})"


def open_clips(shards: str | Path) -> ClipSet:
    """Open a folder of shards; ``corrfractal.shards.open`` is this function.

    Args:
        shards: the folder, a local path or a URI that fsspec supports.

    Raises:
        NotFoundError: there are no finished shards.
        IntegrityError: the manifest is damaged.
    """
    return ClipSet(str(shards), load_manifest(shards))
