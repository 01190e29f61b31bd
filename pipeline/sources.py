"""What the user names -> a sorted list of unique sources, each with its content's SHA-256.

A name may be a video file, a folder (searched with its sub-folders), a folder of frames (one video), a glob, or a
``.txt`` or ``.csv`` list of such names, one a line (first column), relative to the list.

The URI of a source is what shards and reports call it: its path relative to the folder, the glob's fixed part or the
list it was found through, or its bare name where it was named itself. So the digest of a data set does not depend on
where its folder is mounted. Where two sources would get the same URI, both keep their whole path.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from corrfractal.decoders import IMAGE_SUFFIXES, frame_files
from corrfractal.errors import CallError, NotFoundError
from corrfractal.runtime import file_sha256

LISTS = (".txt", ".csv")
# What lies beside videos in a folder and is none. Any other file is a source: a video with a strange suffix must end
# in the shards or in the quarantine, never nowhere. A file named by the user, not by a glob, is always a source.
SIDE_FILES = (
    *IMAGE_SUFFIXES, *LISTS, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".pdf", ".log", ".sh",
    ".py", ".srt", ".vtt", ".ass", ".mat", ".npy", ".npz", ".tar", ".gz", ".zip", ".part", ".tmp", ".bmp", ".webp",
)  # fmt: skip
HASH_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Source:
    """One video.

    Attributes:
        uri: what shards and reports call it, see the module's docstring.
        path: where it lies for this run; no digest depends on it.
        sha256: hex, of the file's bytes, or of names and hashes of a folder's frames. ``""``: it cannot be read.
    """

    uri: str
    path: str
    sha256: str

    @property
    def id(self) -> str:
        """Unique and readable, from name and contents; without dot and slash, as part of clip keys."""
        slug = re.sub(r"[^A-Za-z0-9-]+", "-", Path(self.uri).stem).strip("-")[:40] or "video"
        return f"{slug}-{self.sha256[:16]}"


def find_sources(names: Sequence[str], skip: Path) -> list[Source]:
    """Sources behind ``names``, sorted by URI, each file once; nothing below the folder ``skip`` is one.

    Raises:
        NotFoundError: a name, or an entry of a list, leads to nothing.
        CallError: a list cannot be read.
    """
    found: dict[Path, str] = {}
    for name in names:
        before = len(found)
        for path, uri in _expand(name, Path(name).parent, skip.resolve(), lists=True):
            found.setdefault(path.resolve(), uri)
        if len(found) == before and Path(name).is_dir():
            raise NotFoundError(f"the folder {name} holds no videos and no frames")
    uses = Counter(found.values())
    uris = {path: uri if uses[uri] == 1 else path.as_posix() for path, uri in found.items()}
    paths = sorted(uris, key=lambda path: uris[path])
    with ThreadPoolExecutor(HASH_THREADS) as pool:
        hashes = list(pool.map(_sha256, paths))
    return [Source(uri=_text(uris[p]), path=str(p), sha256=h) for p, h in zip(paths, hashes, strict=True)]


def _expand(name: str, base: Path, skip: Path, lists: bool) -> Iterator[tuple[Path, str]]:
    """(path, URI) of every source behind one name."""
    path = Path(name)
    if path.is_dir():
        yield from _walk(path, path, skip, set())
    elif path.is_file():
        if lists and path.suffix.lower() in LISTS:
            yield from _listed(path, skip)
        else:
            yield path, _relative(path, base)
    elif path.exists():
        raise CallError(f"{name} is neither a file nor a folder")
    elif glob.has_magic(name):
        matches = sorted(glob.glob(name, recursive=True))  # noqa: PTH207 (a pattern may be absolute)
        if not matches:
            raise NotFoundError(f"nothing matches {name}")
        fixed = Path(*_fixed_part(path))
        for match in map(Path, matches):
            if match.is_dir() or match.suffix.lower() not in SIDE_FILES:
                for found, _ in _expand(str(match), fixed, skip, lists=False):
                    yield found, _relative(found, fixed)
    else:
        raise NotFoundError(f"no such video, folder or list: {name}")


def _walk(folder: Path, root: Path, skip: Path, seen: set[Path]) -> Iterator[tuple[Path, str]]:
    """Sources below a folder. Images make it a folder of frames, unless videos lie beside them (those are posters)."""
    real = folder.resolve()
    if real == skip or real in seen:  # a symbolic link may lead back up
        return
    seen.add(real)
    try:
        entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    except OSError as exc:
        raise CallError(f"cannot read the folder {folder}: {exc.strerror}") from exc
    videos = [p for p in entries if p.is_file() and p.suffix.lower() not in SIDE_FILES]
    if not videos and any(p.suffix.lower() in IMAGE_SUFFIXES for p in entries):
        yield folder, _relative(folder, root) if folder != root else folder.resolve().name
    for video in videos:
        yield video, _relative(video, root)
    for sub in entries:
        if sub.is_dir():
            yield from _walk(sub, root, skip, seen)


def _listed(path: Path, skip: Path) -> Iterator[tuple[Path, str]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file)) if path.suffix.lower() == ".csv" else [[line.strip()] for line in file]
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise CallError(f"cannot read the list {path}: {exc}") from exc
    for number, row in enumerate(rows, start=1):
        entry = row[0].strip() if row else ""
        header = number == 1 and entry.lower() in ("path", "file", "filename", "video", "uri", "source")
        if not entry or entry.startswith("#") or header:
            continue
        try:
            for found, _ in _expand(str(path.parent / entry), path.parent, skip, lists=False):
                yield found, _relative(found, path.parent)
        except NotFoundError as exc:
            raise NotFoundError(f"{path}, line {number}: {exc}") from exc


def _relative(path: Path, base: Path) -> str:
    """``path`` below ``base``, else its bare name."""
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _fixed_part(pattern: Path) -> Iterator[str]:
    """Parts of a glob before the first wildcard."""
    for part in pattern.parts:
        if glob.has_magic(part):
            return
        yield part


def _sha256(path: Path) -> str:
    """``""`` for what cannot be read: the pipeline then quarantines it with the reason."""
    try:
        if path.is_dir():
            lines = (f"{p.name} {_sha256(p)}\n" for p in frame_files(path))
            return hashlib.sha256("".join(lines).encode("utf-8", "surrogateescape")).hexdigest()
        return file_sha256(path)
    except OSError:
        return ""


def _text(uri: str) -> str:
    """File names need not be UTF-8, JSON must be."""
    return os.fsencode(uri).decode("utf-8", "backslashreplace")
