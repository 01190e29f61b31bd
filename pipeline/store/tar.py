"""A tar file of clips whose bytes depend on its members only: POSIX.1-1988 ustar, written through
``webdataset.TarWriter`` with fixed times, owner and mode.

That takes 0.7 % of a task more than headers filled in by hand, and imports torch into the worker:
once 1.1 s and 120 MB (docs/decisions/0046-tars-through-webdataset.md).
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from typing import BinaryIO

# Two blocks of zeros end an archive.
END_BYTES = 2 * tarfile.BLOCKSIZE


class TarWriter:
    """Appends clips and reports where each begins, for random access without reading the tar.

    Args:
        file: opened for writing in binary, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        # Imported late: it imports torch, which a driver can do without.
        import webdataset

        self._archive = webdataset.TarWriter
        self._file = file
        self.position = 0
        """Bytes written so far: the offset of the next member."""

    def add(self, members: Mapping[str, bytes]) -> int:
        """Append the members of one clip, sorted by name; return the number of bytes they take in
        the archive."""
        key = next(iter(members)).partition(".")[0]
        sample: dict[str, str | bytes] = {"__key__": key}
        for name, contents in members.items():
            sample[name.removeprefix(f"{key}.")] = contents

        # An archive of its own: webdataset writes a stream, from which a clip could not be
        # discarded again. Its end is cut off.
        block = io.BytesIO()
        with self._archive(
            block, user="", group="", mode=0o644, mtime=0, encoder=False, compress=False
        ) as archive:
            # webdataset 1.0.2 ignores its argument `format`, and tarfile's default is pax.
            archive.tarstream.format = tarfile.USTAR_FORMAT
            archive.write(sample)
            length = int(archive.tarstream.offset)
        self._file.write(block.getbuffer()[:length])
        self.position += length
        return length

    def rewind(self, position: int) -> None:
        """Discard everything from ``position`` on."""
        self._file.seek(position)
        self._file.truncate()
        self.position = position

    def close(self) -> None:
        """Write the end of the archive. The file stays open."""
        size = self.position + END_BYTES
        self._file.write(b"\0" * (END_BYTES + -size % tarfile.RECORDSIZE))
        self._file.flush()
