"""What planning needs of a few sources beside the listing; the bodies of small tasks.

Only two kinds of sources are looked at before the shards are planned: files that may be longer than
a segment (their header is read), and files of exactly equal size (compared by a few kilobytes, and
by their complete content where these are equal).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence

from corrfractal.common.errors import VideoError
from corrfractal.files import storage
from corrfractal.video.content import content_files, read_content
from pipeline.config import PipelineConfig

from .segments import long_rows
from .source_table import Source, as_table
from .work_plan import Known, same_size

PART_BYTES = 4096
BATCH = 16  # sources of a task
EQUAL_BATCH = 64  # sources of a task that reads three small parts of each


def length_batches(
    sources: Sequence[Source], known: Mapping[str, Known], config: PipelineConfig
) -> Iterator[list[Source]]:
    """The sources whose length is needed and unknown, in batches for ``read_lengths``."""
    table = as_table(sources)
    wanted = [
        table[row]
        for row in long_rows(table, config)
        if known.get(table.uris[row], Known()).seconds is None
    ]
    for start in range(0, len(wanted), BATCH):
        yield wanted[start : start + BATCH]


def equal_batches(sources: Sequence[Source], known: Mapping[str, Known]) -> Iterator[list[Source]]:
    """Sources of equal size of which not all contents are known, in batches for ``read_equal``.

    In a large archive most sources share their size with some other one, so a batch has several
    sizes.
    """
    table = as_table(sources)
    batch: list[Source] = []
    for rows in same_size(table):
        if any(not known.get(table.uris[row], Known()).sha256 for row in rows):
            batch += [table[row] for row in rows]
        if len(batch) >= EQUAL_BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def read_lengths(sources: Sequence[Source]) -> dict[str, Known]:
    """Length of each source by its header, by URI; 0 for what is no video or does not say."""
    return {source.uri: Known(seconds=_seconds(source.path)) for source in sources}


def read_equal(sources: Sequence[Source]) -> dict[str, Known]:
    """Content of those sources whose size and first, middle and last kilobytes are equal, by URI.

    The others differ from all, which an empty SHA-256 says well enough.
    """
    by_parts: dict[tuple[int, int, str], list[Source]] = {}
    for source in sources:
        try:
            parts = (source.bytes, source.files, _fingerprint(source))
            by_parts.setdefault(parts, []).append(source)
        except OSError:
            continue  # its task will say why it cannot be read
    found = {}
    for members in by_parts.values():
        if len(members) == 1:
            continue
        for source in members:
            try:
                with storage.local_copy(source.path) as path:
                    found[source.uri] = Known(sha256=read_content(path).sha256)
            except (OSError, VideoError):
                continue
    return found


def _fingerprint(source: Source) -> str:
    """SHA-256 of three parts of a file, or of the names and sizes of a frame folder."""
    if source.files:
        with storage.local_copy(source.path) as path:
            lines = [f"{file.name} {file.stat().st_size}\n" for file in content_files(path)]
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
    digest = hashlib.sha256()
    last = max(0, source.bytes - PART_BYTES)
    for offset in (0, last // 2, last):
        digest.update(storage.read_part(source.path, offset, PART_BYTES))
    return digest.hexdigest()


def _seconds(location: str) -> float:
    import av

    try:
        with (
            storage.open_file(location) as file,
            av.open(file, metadata_errors="replace") as container,
        ):
            return max(0.0, (container.duration or 0) / av.time_base)
    except Exception:  # third-party C fed with files from anywhere; the decoders will report it
        return 0.0
