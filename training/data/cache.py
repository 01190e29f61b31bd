"""Shards as local files whose bytes have been checked: the only way in which training reads them.

A local shard is hashed at its first read in each process, and again when its file was changed. A
shard at a URI is fetched into a folder of this host, by one process for all of them, hashed on its
way, and published under its SHA-256. The folder holds ``limit`` bytes at most, files being fetched
included; the shards that were used longest ago go first. Any process may be killed at any time:
whole files have final names, and half ones are removed by whoever needs the room.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from corrfractal.common import storage
from corrfractal.common.errors import CorrFractalError, IntegrityError
from corrfractal.common.files import file_sha256
from corrfractal.shards.manifest import ShardEntry
from corrfractal.video.content import state

LANES = 8  # fetches at a time on one host
FETCHED = re.compile(r"[0-9a-f]{64}\.tar")
PART = re.compile(r"[0-9a-f]+\.\d+\.\d+\.part")


def default_folder() -> Path:
    """Where fetched shards are kept: ``corrfractal/shards`` in ``XDG_CACHE_HOME``, else in
    ``~/.cache``."""
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "corrfractal" / "shards"
    )


class ShardFiles:
    """Checked bytes of the shards of one data set; safe with several threads and processes.

    Args:
        shards: folder of the shards, local or a URI.
        entries: of its manifest.
        folder: where remote shards are kept on this host.
        limit: bytes that they may take there.
    """

    def __init__(
        self,
        shards: str | Path,
        entries: Mapping[str, ShardEntry],
        folder: Path | None = None,
        limit: int = 10 << 30,
    ) -> None:
        self._shards, self._entries = shards, entries
        self._folder, self._limit = folder or default_folder(), limit
        self._checked: dict[str, str] = {}  # state of the file when it was hashed
        self._guards = {name: threading.Lock() for name in entries}
        self._intact: set[str] = set()  # fetched shards whose hash this process has compared
        self.fetched_bytes = 0
        """Bytes that this process has fetched."""
        if storage.is_uri(shards):
            self._folder.mkdir(parents=True, exist_ok=True)

    def __reduce__(self) -> tuple[type[ShardFiles], tuple[object, ...]]:
        return type(self), (self._shards, self._entries, self._folder, self._limit)

    def read(self, shard: str, offset: int, length: int) -> bytes:
        """Bytes of a shard.

        Raises:
            IntegrityError: the shard is not what the manifest says, or has no such bytes; names it.
            CorrFractalError: it is larger than the cache may be.
            OSError: it cannot be had.
        """
        held = self._entries[shard].bytes
        if not 0 <= offset <= offset + length <= held:
            raise IntegrityError(
                f"{storage.join(self._shards, shard)} has {held} bytes, and a clip is said to lie "
                f"at {offset} to {offset + length}: its sidecar is not what was written. Run "
                "`corrfractal precompute` again"
            )
        while True:
            path = self.ready(shard)
            try:
                with path.open("rb") as file:
                    return os.pread(file.fileno(), length, offset)
            except FileNotFoundError:
                if not storage.is_uri(self._shards):
                    raise
                # Pushed out by another process between the two lines: fetch it again.

    def ready(self, shard: str) -> Path:
        """The shard as a local file, fetched and checked; counts as a use of it."""
        entry = self._entries[shard]
        with self._guards[shard]:
            if not storage.is_uri(self._shards):
                return self._local(entry)
            path = self._folder / f"{entry.sha256}.tar"
            try:
                os.utime(path)
                # A power cut or a full disk can leave a file damaged under its final name.
                if shard not in self._intact and file_sha256(path) != entry.sha256:
                    path.unlink()
                    self._fetch(entry, path)
            except FileNotFoundError:
                self._fetch(entry, path)
            self._intact.add(shard)
            return path

    def _local(self, entry: ShardEntry) -> Path:
        path = Path(self._shards) / entry.name
        try:
            now = state(path)
            if self._checked.get(entry.name) != now:
                self._compare(file_sha256(path), entry)
                self._checked[entry.name] = now
        except FileNotFoundError as exc:
            raise IntegrityError(f"{path} is missing: run `corrfractal precompute` again") from exc
        return path

    def _fetch(self, entry: ShardEntry, path: Path) -> None:
        if entry.bytes > self._limit:
            raise CorrFractalError(
                f"the shard {entry.name} has {entry.bytes / 1e9:.2f} GB and the cache in "
                f"{self._folder} may take {self._limit / 1e9:.2f} GB: raise cache_gb"
            )
        # The name tells the lane and the room that the file will take: it is counted in full from
        # its first byte on.
        part = path.with_suffix(f".{int(entry.sha256[:8], 16) % LANES}.{entry.bytes}.part")
        with self._lock(_lane(part)):
            if path.exists():  # another process was faster
                return
            try:
                self._reserve(part, entry.bytes)
                storage.fetch(storage.join(self._shards, entry.name), part)
                self.fetched_bytes += entry.bytes
                self._compare(file_sha256(part), entry)
                part.replace(path)
            except BaseException:
                part.unlink(missing_ok=True)
                raise

    def _reserve(self, part: Path, size: int) -> None:
        """Make room for a file and take it, so that processes that fetch side by side count each
        other."""
        with self._lock("lock"):
            for stray in self._ours(PART):
                if stray != part and self._abandoned(stray):
                    stray.unlink(missing_ok=True)
            held = sorted((p.stat().st_mtime_ns, p.stat().st_size, p) for p in self._ours(FETCHED))
            total = sum(s for _, s, _ in held) + sum(
                int(p.suffixes[-2][1:]) for p in self._ours(PART)
            )
            for _, freed, old in held:
                if total + size <= self._limit:
                    break
                old.unlink(missing_ok=True)
                total -= freed
            part.touch()

    def _ours(self, pattern: re.Pattern[str]) -> list[Path]:
        """The files of the cache, which are named by their SHA-256; whatever else is in the folder
        stays there."""
        return [path for path in self._folder.iterdir() if pattern.fullmatch(path.name)]

    def _abandoned(self, part: Path) -> bool:
        """Whether the process that was fetching a file is gone: its lane is free."""
        with (self._folder / _lane(part)).open("w") as lane:
            try:
                fcntl.flock(lane, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

    def _compare(self, sha256: str, entry: ShardEntry) -> None:
        if sha256 != entry.sha256:
            raise IntegrityError(
                f"{storage.join(self._shards, entry.name)} is damaged, its SHA-256 is not the "
                f"manifest's. Run `corrfractal verify {self._shards}`, then precompute again"
            )

    @contextmanager
    def _lock(self, name: str) -> Iterator[None]:
        with (self._folder / name).open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _lane(part: Path) -> str:
    return f"lane-{part.suffixes[-3][1:]}"
