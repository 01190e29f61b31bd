"""What the user names -> a sorted list of unique sources, each with its content's SHA-256 and its length.

A name may be a video file, a folder (searched with its sub-folders), a folder of frames (one video), a glob, or a
``.txt`` or ``.csv`` list of such names, one a line (first column), relative to the list. Each may be a URI of any store
that fsspec knows (``s3://bucket/videos``). In data sets laid out as DAVIS or YouTube-VOS (``JPEGImages`` beside
``Annotations``) the annotations are masks, not videos, and are passed over.

The URI of a source is what shards and reports call it: its path relative to the folder, the glob's fixed part or the
list it was found through, or its bare name where it was named itself. So the digest of a data set does not depend on
where its folder is mounted. Where two sources would get the same URI, both keep their whole location.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from corrfractal import storage
from corrfractal.console import progress
from corrfractal.decoders import FOLDER_FPS
from corrfractal.errors import CallError, NotFoundError
from corrfractal.frame_folder import frame_files
from corrfractal.images import IMAGE_SUFFIXES
from corrfractal.runtime import cpu_count, file_sha256

LISTS = (".txt", ".csv")
# What lies beside videos in a folder and is none. Any other file is a source: a video with a strange suffix must end
# in the shards or in the quarantine, never nowhere. A file named by the user, not by a glob, is always a source.
SIDE_FILES = (
    *IMAGE_SUFFIXES, *LISTS, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".pdf", ".log", ".sh",
    ".py", ".srt", ".vtt", ".ass", ".mat", ".npy", ".npz", ".tar", ".gz", ".zip", ".part", ".tmp",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video.

    Attributes:
        uri: what shards and reports call it, see the module's docstring.
        path: where it lies for this run, a local path or a URI; no digest depends on it.
        sha256: hex, of the file's bytes, or of names and hashes of a folder's frames. ``""``: it cannot be read.
        bytes: size of its contents.
        seconds: length by its header, 0 where that says nothing.
    """

    uri: str
    path: str
    sha256: str
    bytes: int = 0
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """Unique and readable, from name and contents; without dot and slash, as part of clip keys."""
        slug = re.sub(r"[^A-Za-z0-9-]+", "-", Path(self.uri).stem).strip("-")[:40] or "video"
        return f"{slug}-{self.sha256[:16]}"


def find_sources(names: Sequence[str], skip: str | Path) -> list[Source]:
    """Sources behind ``names``, sorted by URI, each file once; nothing below the folder ``skip`` is one.

    Raises:
        NotFoundError: a name, or an entry of a list, leads to nothing.
        CallError: a list or a folder cannot be read, or a store cannot be reached.
    """
    listed = list_sources(names, skip)
    sources = []
    with ThreadPoolExecutor(2 * cpu_count()) as pool, progress("sources", len(listed)) as advance:
        for source in pool.map(lambda found: _examine(*found), listed):
            sources.append(source)
            advance(1)
    return sources


def list_sources(names: Sequence[str], skip: str | Path) -> list[tuple[str, str]]:
    """(URI, location) of every source behind ``names``, without reading any of them; see ``find_sources``."""
    found: dict[str, str] = {}
    for name in names:
        before = len(found)
        try:
            for location, uri in _expand(name, storage.parent(name), storage.resolve(skip), lists=True):
                found.setdefault(storage.resolve(location), uri)
        except OSError as exc:
            raise CallError(f"cannot read {name}: {exc}") from exc
        if len(found) == before and storage.kind(name) == "folder":
            raise NotFoundError(f"the folder {name} holds no videos and no frames")
    uses = Counter(found.values())
    uris = {location: uri if uses[uri] == 1 else location for location, uri in found.items()}
    return [(_text(uris[location]), location) for location in sorted(uris, key=lambda location: uris[location])]


def _expand(name: str, base: str, skip: str, lists: bool) -> Iterator[tuple[str, str]]:
    """(location, URI) of every source behind one name."""
    kind = storage.kind(name)
    if kind == "folder":
        yield from _walk(name, name, skip, set())
    elif kind == "file":
        if lists and PurePosixPath(name).suffix.lower() in LISTS:
            yield from _listed(name, skip)
        else:
            yield name, _relative(name, base)
    elif kind == "other":
        raise CallError(f"{name} is neither a file nor a folder")
    elif glob.has_magic(name):
        matches = storage.matches(name)
        if not matches:
            raise NotFoundError(f"nothing matches {name}")
        fixed = _fixed_part(name)
        for match in matches:
            if storage.kind(match) == "folder" or PurePosixPath(match).suffix.lower() not in SIDE_FILES:
                for found, _ in _expand(match, fixed, skip, lists=False):
                    yield found, _relative(found, fixed)
    else:
        raise NotFoundError(f"no such video, folder or list: {name}")


def _walk(folder: str, root: str, skip: str, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Sources below a folder. Images make it a folder of frames, unless videos lie beside them (those are posters)."""
    real = storage.resolve(folder)
    if real == skip or real in seen:  # a symbolic link may lead back up
        return
    seen.add(real)
    try:
        files, folders = storage.listing(folder)
    except OSError as exc:
        raise CallError(f"cannot read the folder {folder}: {exc.strerror or exc}") from exc
    files = [name for name in files if not name.startswith(".")]
    videos = [name for name in files if PurePosixPath(name).suffix.lower() not in SIDE_FILES]
    if not videos and any(PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES for name in files):
        yield folder, _relative(folder, root) if folder != root else PurePosixPath(real).name
    for name in videos:
        location = storage.join(folder, name)
        yield location, _relative(location, root)
    masks_beside = "JPEGImages" in folders
    for name in folders:
        if not name.startswith(".") and not (masks_beside and "annotations" in name.lower()):
            yield from _walk(storage.join(folder, name), root, skip, seen)


def _listed(location: str, skip: str) -> Iterator[tuple[str, str]]:
    try:
        text = storage.read(location).decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text))) if location.lower().endswith(".csv") else _lines(text)
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CallError(f"cannot read the list {location}: {exc}") from exc
    folder = storage.parent(location)
    for number, row in enumerate(rows, start=1):
        entry = row[0].strip() if row else ""
        header = number == 1 and entry.lower() in ("path", "file", "filename", "video", "uri", "source")
        if not entry or entry.startswith("#") or header:
            continue
        name = entry if storage.is_uri(entry) or entry.startswith("/") else storage.join(folder, entry)
        try:
            for found, _ in _expand(name, folder, skip, lists=False):
                yield found, _relative(found, folder)
        except NotFoundError as exc:
            raise NotFoundError(f"{location}, line {number}: {exc}") from exc


def _lines(text: str) -> list[list[str]]:
    return [[line.strip()] for line in text.splitlines()]


def _relative(location: str, base: str) -> str:
    """``location`` below ``base``, else its bare name."""
    path, folder = PurePosixPath(location), PurePosixPath(base)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _fixed_part(pattern: str) -> str:
    """The folder of a glob before the first wildcard."""
    scheme, mark, path = pattern.rpartition("://")
    parts = PurePosixPath(path).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return scheme + mark + str(PurePosixPath(*parts[:fixed]))


def _examine(uri: str, location: str) -> Source:
    """Read a source once: its SHA-256, and what its header says. What cannot be read has no hash, and the pipeline
    quarantines it with the reason."""
    try:
        with storage.local_copy(location) as path:
            if not path.is_dir():
                size = path.stat().st_size
                return Source(
                    uri=uri, path=location, sha256=file_sha256(path), bytes=size, seconds=_header_seconds(path)
                )
            files = frame_files(path)
            lines = (f"{file.name} {file_sha256(file)}\n" for file in files)
            return Source(
                uri=uri,
                path=location,
                sha256=hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest(),
                bytes=sum(file.stat().st_size for file in files),
                seconds=len(files) / FOLDER_FPS,
            )
    except OSError:
        return Source(uri=uri, path=location, sha256="")


def _header_seconds(path: Path) -> float:
    """0 for what is no video, or does not say."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            return max(0.0, (container.duration or 0) / av.time_base)
    except Exception:  # third-party C fed with files from anywhere; the decoders will tell
        return 0.0


def _text(uri: str) -> str:
    """File names need not be UTF-8, JSON must be."""
    return os.fsencode(uri).decode("utf-8", "backslashreplace")
