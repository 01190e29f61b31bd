"""A tar file of clips whose bytes depend on its members only: POSIX.1-1988 ustar, written through
``webdataset.TarWriter`` with fixed times, owner and mode.

That takes 0.7 % of a task more than headers filled in by hand
(docs/decisions/0046-tars-through-webdataset.md).
"""

from __future__ import annotations

import importlib.util
import io
import sys
import tarfile
from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any, BinaryIO

# Two blocks of zeros end an archive.
END_BYTES = 2 * tarfile.BLOCKSIZE


@cache
def _archive_class() -> Any:
    """``webdataset.TarWriter``, without the rest of its package.

    ``import webdataset`` imports torch, 120 MB and a second of every worker, which its module
    ``writer`` does not use. So that module is imported as part of an empty package over the same
    folder.
    """
    found = importlib.util.find_spec("webdataset")
    if found is None or found.submodule_search_locations is None:
        raise ModuleNotFoundError("webdataset is not installed", name="webdataset")
    package = ModuleType(f"{__name__}._webdataset")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.writer").TarWriter


class TarWriter:
    """Appends clips and reports where each begins, for random access without reading the tar.

    Args:
        file: opened for writing in binary, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._archive = _archive_class()
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
