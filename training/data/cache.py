"""Shards as local files whose bytes were checked: training reads shards only through this module.

A local shard is hashed at its first read, once for a worker and its loader processes together, and
again after its file changed. A shard at a URI is fetched into a cache folder, once for all
processes of the host, hashed, and stored under its SHA-256. The cache takes at most ``limit``
bytes, files being fetched included; the least recently used shards are deleted first.

Any process may be killed at any time. A complete file has its final name; an incomplete one has the
suffix ``.part`` and is deleted by the next process that needs its space.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from copy import copy
from multiprocessing.context import BaseContext
from pathlib import Path

import torch

from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.files import storage
from corrfractal.files.atomic import file_sha256
from corrfractal.video.content import state

from .samples import Shard

LOCKS = 16  # shards with the same lock are hashed and fetched one after the other
CHANNELS = 8  # concurrent fetches on one host
FETCHED = re.compile(r"[0-9a-f]{64}\.tar")
PART = re.compile(r"[0-9a-f]+\.\d+\.\d+\.part")  # hash, channel, size of the complete file


def default_folder() -> Path:
    """The cache folder: ``corrfractal/shards`` in ``XDG_CACHE_HOME``, else in ``~/.cache``."""
    cache_home = os.environ.get("XDG_CACHE_HOME")
    base = Path(cache_home) if cache_home else Path.home() / ".cache"
    return base / "corrfractal" / "shards"


class ShardFiles:
    """Checked bytes of the shards of one data set. Safe with several threads and processes.

    Args:
        shards: folder of the shards, local or a URI.
        count: number of shards.
        folder: the cache folder for remote shards.
        limit: bytes that they may take there.

    Attributes:
        fetched_bytes: number of bytes that this process has fetched.
    """

    def __init__(
        self,
        shards: str | Path,
        count: int,
        folder: Path | None = None,
        limit: int = 10 << 30,
    ) -> None:
        self._shards = shards
        self._folder = folder or default_folder()
        self._limit = limit
        self._remote = storage.is_uri(shards)
        # By the number of a shard: 0 before it was hashed; then, of a local shard, what stands for
        # the state of its file at that time.
        self._checked = torch.zeros(count, dtype=torch.int64)
        self._locks: Sequence[AbstractContextManager[object]] = [
            threading.Lock() for _ in range(LOCKS)
        ]
        self.fetched_bytes = 0
        if self._remote:
            self._folder.mkdir(parents=True, exist_ok=True)

    def for_processes(self, context: BaseContext) -> ShardFiles:
        """The same files, for processes of ``context``: what one of them has checked, the others
        and this one trust."""
        self._checked.share_memory_()
        shared = copy(self)
        shared._locks = [context.Lock() for _ in range(LOCKS)]
        return shared

    def read(self, shard: Shard, offset: int, length: int) -> bytes:
        """Bytes of a shard.

        Raises:
            IntegrityError: the shard does not match the manifest, or has no such bytes; names it.
            CorrFractalError: it is larger than the cache may be.
            OSError: it cannot be fetched or read.
        """
        if not 0 <= offset <= offset + length <= shard.bytes:
            raise IntegrityError(
                f"{storage.join(self._shards, shard.name)} has {shard.bytes} bytes, and the index "
                f"names a clip at {offset} to {offset + length}: the index was changed. Run "
                "`corrfractal precompute` again"
            )
        while True:
            path = self.ready(shard)
            try:
                with path.open("rb") as file:
                    return os.pread(file.fileno(), length, offset)
            except FileNotFoundError:
                # Another process may delete it from the cache before it is opened: fetch it again.
                if not self._remote:
                    raise

    def touch(self, shards: Iterable[Shard]) -> None:
        """Count as a use of those shards that are in the cache."""
        for shard in shards if self._remote else ():
            # Absent until it is fetched; then that counts.
            with suppress(FileNotFoundError):
                os.utime(self._folder / f"{shard.sha256}.tar")

    def ready(self, shard: Shard) -> Path:
        """The shard as a local file, fetched and checked. Counts as a use of it."""
        path = self._folder / f"{shard.sha256}.tar" if self._remote else self._local(shard)
        if self._is_checked(shard, path):
            return path
        with self._locks[shard.number % LOCKS]:
            # Another thread or process may have checked it while this one waited.
            if not self._is_checked(shard, path):
                self._check(shard, path)
        return path

    def _local(self, shard: Shard) -> Path:
        return Path(self._shards) / shard.name

    def _is_checked(self, shard: Shard, path: Path) -> bool:
        mark = int(self._checked[shard.number])
        if not mark:
            return False
        if not self._remote:
            return mark == self._state(path)
        try:
            os.utime(path)
        except FileNotFoundError:
            return False
        return True

    def _check(self, shard: Shard, path: Path) -> None:
        if not self._remote:
            # If it changes meanwhile, it is hashed again.
            mark = self._state(path)
            self._compare(file_sha256(path), shard)
            self._checked[shard.number] = mark
            return
        try:
            os.utime(path)
            # A power cut or a full disk can leave a damaged file under its final name.
            if not self._checked[shard.number] and file_sha256(path) != shard.sha256:
                path.unlink()
                self._fetch(shard, path)
        except FileNotFoundError:
            self._fetch(shard, path)
        self._checked[shard.number] = 1

    def _state(self, path: Path) -> int:
        """Stands for the state of a local shard, never 0."""
        try:
            return 1 + int(state(path)[:15], 16)
        except FileNotFoundError as exc:
            raise IntegrityError(f"{path} is missing: run `corrfractal precompute` again") from exc

    def _fetch(self, shard: Shard, path: Path) -> None:
        if shard.bytes > self._limit:
            raise CorrFractalError(
                f"the shard {shard.name} has {shard.bytes / 1e9:.2f} GB and the cache in "
                f"{self._folder} may take {self._limit / 1e9:.2f} GB: raise cache_gb"
            )
        # The name holds the channel and the final size, so that other processes count the file in
        # full from its first byte on.
        channel = int(shard.sha256[:8], 16) % CHANNELS
        part = path.with_suffix(f".{channel}.{shard.bytes}.part")
        with self._file_lock(_channel_of(part)):
            if path.exists():  # another process fetched it while this one waited
                return
            try:
                self._reserve(part, shard.bytes)
                storage.fetch(storage.join(self._shards, shard.name), part)
                self.fetched_bytes += shard.bytes
                self._compare(file_sha256(part), shard)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _reserve(self, part: Path, size: int) -> None:
        """Delete shards until ``size`` bytes fit, and create the empty file ``part``, which makes
        concurrent fetches count it."""
        with self._file_lock("lock"):
            for stray in self._cache_files(PART):
                if stray != part and self._is_abandoned(stray):
                    stray.unlink(missing_ok=True)

            cached = []
            for path in self._cache_files(FETCHED):
                status = path.stat()
                cached.append((status.st_mtime_ns, status.st_size, path))
            total = sum(cached_size for _, cached_size, _ in cached)
            total += sum(int(other.suffixes[-2][1:]) for other in self._cache_files(PART))

            # Least recently used first
            for _, cached_size, path in sorted(cached):
                if total + size <= self._limit:
                    break
                path.unlink(missing_ok=True)
                total -= cached_size
            part.touch()

    def _cache_files(self, pattern: re.Pattern[str]) -> list[Path]:
        """The files of the cache whose names match. Other files in the folder are not touched."""
        return [path for path in self._folder.iterdir() if pattern.fullmatch(path.name)]

    def _is_abandoned(self, part: Path) -> bool:
        """Whether the process that fetched a file has ended: the lock of its channel is free."""
        with (self._folder / _channel_of(part)).open("w") as channel:
            try:
                fcntl.flock(channel, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def _compare(self, sha256: str, shard: Shard) -> None:
        if sha256 != shard.sha256:
            raise IntegrityError(
                f"{storage.join(self._shards, shard.name)} is damaged, its SHA-256 is not the "
                f"manifest's. Run `corrfractal verify {self._shards}`, then precompute again"
            )

    @contextmanager
    def _file_lock(self, name: str) -> Iterator[None]:
        with (self._folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _channel_of(part: Path) -> str:
    """Name of the lock file of a file being fetched."""
    return f"channel-{part.suffixes[-3][1:]}"
