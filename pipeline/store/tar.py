"""A tar file whose bytes depend on its members only: POSIX.1-1988 ustar with fixed times, owner and
mode."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from typing import BinaryIO

# Two blocks of zeros end an archive.
END_BYTES = 2 * tarfile.BLOCKSIZE

# Fields of a ustar header that differ between members
NAME_LENGTH = tarfile.LENGTH_NAME
SIZE_FIELD = slice(124, 135)
CHECKSUM_FIELD = slice(148, 154)


class TarWriter:
    """Appends members and reports where each begins, for random access without reading the tar.

    Args:
        file: opened for writing in binary, empty.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.position = 0
        """Bytes written so far: the offset of the next member."""

    def add(self, members: Mapping[str, bytes]) -> int:
        """Append members in the order given; return the number of bytes they take in the
        archive."""
        start = self.position
        for name, contents in members.items():
            padding = b"\0" * (-len(contents) % tarfile.BLOCKSIZE)
            self.position += self._file.write(_header(name, len(contents)) + contents + padding)
        return self.position - start

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


def _header(name: str, size: int) -> bytes:
    """Header of a member.

    ``tarfile`` takes longer for a header than zlib for a label map, so it makes one blank header
    and only name, size and checksum are filled in here.
    """
    encoded = name.encode()
    if len(encoded) > NAME_LENGTH:
        return _tarfile_header(name, size)
    header = bytearray(BLANK)
    header[: len(encoded)] = encoded
    header[SIZE_FIELD] = b"%011o" % size
    checksum = BLANK_CHECKSUM + sum(encoded) + sum(header[SIZE_FIELD])
    header[CHECKSUM_FIELD] = b"%06o" % checksum
    return bytes(header)


def _tarfile_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT)


BLANK = _tarfile_header("", 0)
# Without the size field, which is all "0" in a blank header
BLANK_CHECKSUM = int(BLANK[CHECKSUM_FIELD], 8) - sum(BLANK[SIZE_FIELD])
