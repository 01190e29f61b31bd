"""A tar file whose bytes follow from its members alone (POSIX.1-1988 ustar; fixed times, owner and
mode)."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from typing import BinaryIO

END = 2 * tarfile.BLOCKSIZE  # two zero blocks end an archive


class TarWriter:
    """Writes members one after another and knows where each began.

    Args:
        file: opened for writing in binary, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        """Bytes written so far: where the next member will begin."""

    def add(self, members: Mapping[str, bytes]) -> int:
        """Append members in the order given; return the number of bytes that they take in the
        archive."""
        start = self.position
        for name, contents in members.items():
            padding = b"\0" * (-len(contents) % tarfile.BLOCKSIZE)
            self.position += self._file.write(_header(name, len(contents)) + contents + padding)
        return self.position - start

    def rewind(self, position: int) -> None:
        """Forget what was written from ``position`` on."""
        self._file.seek(position)
        self._file.truncate()
        self.position = position

    def close(self) -> None:
        """Write the end of the archive. The file stays open."""
        size = self.position + END
        self._file.write(b"\0" * (END + -size % tarfile.RECORDSIZE))
        self._file.flush()


def _header(name: str, size: int) -> bytes:
    """The header of a member. tarfile takes longer for one than zlib for a label map, so it makes
    one for all."""
    encoded = name.encode()
    if len(encoded) > tarfile.LENGTH_NAME:
        return _by_tarfile(name, size)
    header = bytearray(BLANK)
    header[: len(encoded)] = encoded
    header[124:135] = b"%011o" % size
    header[148:154] = b"%06o" % (BLANK_SUM + sum(encoded) + sum(header[124:135]))
    return bytes(header)


def _by_tarfile(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


BLANK = _by_tarfile("", 0)
BLANK_SUM = int(BLANK[148:154], 8) - sum(BLANK[124:135])
