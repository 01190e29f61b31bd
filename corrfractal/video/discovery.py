"""Find the videos behind the names that a user gives: files, folders, globs and lists, local or
URIs.

One set of rules for all commands (docs/decisions/0041). Every entry is one of these:

- a video: a file named by the user, or found in a folder or by a glob and not ignored;
- a folder of frames, read as one video: it holds images and no file with the suffix of a video;
- ignored by a rule of ``IGNORED``, and counted;
- neither readable nor ignored, such as a link that leads nowhere: an ``Entry`` with its ``fault``.

The URI of an entry is what shards and reports call it: its path relative to the folder, the fixed
part of the glob or the list it was found through, or its bare name where it was named itself. So
the digest of a data set does not depend on where its folder is mounted. Where two entries would get
the same URI, both keep their complete location.
"""

from __future__ import annotations

import csv
import glob
import io
import posixpath
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from corrfractal.common import storage
from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.common.process import cpu_count
from corrfractal.common.text import decode_text, split_lines

from .images import IMAGE_SUFFIXES

LISTS = (".txt", ".csv", ".lst", ".list")

VIDEO_SUFFIXES = (
    ".3g2", ".3gp", ".asf", ".avi", ".divx", ".dv", ".f4v", ".flv", ".h264", ".h265", ".hevc", ".m2ts", ".m2v", ".m4v",
    ".mjpeg", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".ogv", ".rm", ".rmvb", ".ts", ".vob", ".webm",
    ".wmv", ".y4m",
)  # fmt: skip
"""Images beside files with these are posters, not frames. A file with any other suffix may be a
video too."""

OTHER_IMAGES = (
    ".arw", ".avif", ".cr2", ".dng", ".dpx", ".exr", ".hdr", ".heic", ".heif", ".j2k", ".jp2", ".jxl", ".nef", ".pbm",
    ".pgm", ".pnm", ".ppm", ".psd", ".tga",
)  # fmt: skip
"""Images that are not read as frames. A folder of nothing else is an entry with a fault."""

SIDE_SUFFIXES = (
    *LISTS, ".json", ".jsonl", ".xml", ".yaml", ".yml", ".toml", ".md", ".html", ".pdf", ".log", ".sh", ".py", ".srt",
    ".vtt", ".ass", ".mat", ".npy", ".npz", ".tar", ".gz", ".zip", ".7z", ".bz2", ".rar", ".tgz", ".xz", ".zst", ".tsv",
    ".ini", ".db", ".md5", ".sha1", ".sha256", ".doc", ".docx", ".xls", ".xlsx", ".h5", ".hdf5", ".parquet", ".pkl",
    ".pt", ".pth", ".safetensors", ".sqlite", ".lnk", ".url", ".swp", ".torrent",
)  # fmt: skip
# Empty or binary, and known by their names
SIDE_NAMES = ("_success", "icon\r", "thumbs.db", "desktop.ini")
PARTIAL_SUFFIXES = (".aria2", ".crdownload", ".download", ".part", ".partial", ".tmp", ".ytdl")
SYSTEM_FOLDERS = (
    "@eadir",
    "__macosx",
    "$recycle.bin",
    "#recycle",
    "lost+found",
    "system volume information",
)

HIDDEN = "hidden"
SYSTEM = "folder of an operating system"
SIDE = "side file"
PARTIAL = "unfinished download"
POSTER = "image beside videos"
OTHER_IMAGE = "image of another kind beside frames"
TEXT = "text file"
MASKS = "folder of annotations beside JPEGImages"
FRAME = "frame of a folder"
IGNORED = (HIDDEN, SYSTEM, SIDE, PARTIAL, POSTER, OTHER_IMAGE, TEXT, MASKS)
"""The rules by which an entry of a folder or a glob is left out. What the user names itself is
never ignored."""

HEADERS = ("path", "file", "filename", "video", "uri", "source")
PEEK = 4096  # bytes that tell text from video


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A video, or an entry that cannot be read.

    Attributes:
        uri: what shards and reports call it, see the module's docstring; unique within ``Found``.
        location: where it is stored, a local path or a URI.
        fault: why it cannot be read; ``""`` for a video file or a folder of frames.
    """

    uri: str
    location: str
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Entries sorted by URI, and how many others each rule of ``IGNORED`` left out."""

    entries: tuple[Entry, ...]
    ignored: dict[str, int]


def ignored_summary(ignored: Mapping[str, int]) -> str:
    """What was ignored, for people."""
    rules = ", ".join(f"{rule}: {count}" for rule, count in ignored.items())
    count = sum(ignored.values())
    noun = "entry that is no video" if count == 1 else "entries that are no videos"
    return f"ignored {count} {noun} ({rules})"


def discover(names: Sequence[str], skip: Sequence[str | Path] = ()) -> Found:
    """Find the videos behind ``names``, each file once, without reading any of them.

    A file reached through two links is one entry, under the first URI. Folders are searched with
    their sub-folders; links to folders are followed, each real folder once.

    Args:
        names: files, folders, globs, lists with a name on each line (relative to the list), URIs.
        skip: folders of outputs; nothing in them is an entry.

    Raises:
        NotFoundError: a name leads to nothing, or to nothing that is a video. An entry of a list
            that leads to nothing is an entry with a fault.
        CallError: a list or a named folder cannot be read, or a store cannot be reached.
    """
    search = _Search(
        [
            storage.identity(folder)
            for folder in skip
            if storage.is_uri(folder) or Path(folder).is_dir()
        ]
    )
    for name in names:
        try:
            search.add_named(name)
        except OSError as exc:
            raise CallError(f"cannot read {name}: {exc.strerror or exc}") from exc
    search.leave_out_texts()
    for name in names:
        search.check_not_empty(name)
    return search.found()


def is_list(path: Path) -> bool:
    """Whether a path is a list of videos."""
    return path.suffix.lower() in LISTS and path.is_file()


def is_frame_folder(folder: Path) -> bool:
    """Whether a local folder is one video of single frames: images, and no file with the suffix of
    a video.

    Raises:
        OSError: it cannot be read.
    """
    names = [
        name
        for name, what in storage.entries(folder)
        if what != "folder" and not name.startswith(".")
    ]
    suffixes = {_suffix(name) for name in names}
    return not suffixes.isdisjoint(IMAGE_SUFFIXES) and suffixes.isdisjoint(VIDEO_SUFFIXES)


class _Search:
    """Entries found so far, by where they really are, and the places that a rule left out."""

    def __init__(self, skip: Sequence[str]) -> None:
        self._skip = set(skip)
        self._entries: dict[str, Entry] = {}
        self._places: set[str] = set()  # as they were found, links not followed
        self._ignored: dict[str, str] = {}
        self._maybe_text: set[str] = set()  # entries with a suffix of no known kind
        self._by_name: dict[str, set[str]] = {}  # entries that each given name leads to
        self._now: set[str] = set()  # those of the name at work
        self._added = 0  # calls of _add

    def add_named(self, name: str) -> None:
        """Add what one name of the call leads to."""
        self._now = self._by_name.setdefault(name, set())
        kind = storage.kind(name)
        if kind == "folder":
            self._walk(name, name)
        elif kind == "file" and _suffix(name) in LISTS:
            self._add_list(name)
        elif kind == "file":
            self._add(name, storage.parent(name))
        elif kind == "other":
            raise CallError(f"{name} is neither a file nor a folder but {storage.fault(name)}")
        elif glob.has_magic(name):
            if fault := self._add_matches(name, _fixed_part(name)):
                raise NotFoundError(f"{name}: {fault}")
        else:
            raise NotFoundError(f"no such video, folder or list: {name} ({storage.fault(name)})")

    def leave_out_texts(self) -> None:
        """Leave out the files of no known suffix that are plain text: LICENSE, Makefile, checksums."""
        places = sorted(self._maybe_text)
        with ThreadPoolExecutor(2 * cpu_count()) as pool:
            texts = list(pool.map(_is_text, places))
        for place, is_text in zip(places, texts, strict=True):
            if is_text:
                del self._entries[place]
                self._places.discard(place)
                self._ignored[place] = TEXT

    def check_not_empty(self, name: str) -> None:
        """Raise NotFoundError where a name of the call leads to no video."""
        if not self._by_name[name].isdisjoint(self._entries):
            return
        rules = self.found().ignored
        ignored = f"; {ignored_summary(rules)}" if rules else ""
        if storage.kind(name) == "folder":
            raise NotFoundError(f"the folder {name} holds no videos and no frames{ignored}")
        raise NotFoundError(f"{name} names no videos{ignored}")

    def found(self) -> Found:
        """Everything, with unique URIs."""
        uses = Counter(entry.uri for entry in self._entries.values())
        entries = [
            entry if uses[entry.uri] == 1 else replace(entry, uri=entry.location)
            for entry in self._entries.values()
        ]
        counts = Counter(rule for place, rule in self._ignored.items() if place not in self._places)
        return Found(
            entries=tuple(sorted(entries, key=lambda entry: entry.uri)),
            ignored={rule: counts[rule] for rule in IGNORED if counts[rule]},
        )

    def _add(
        self, place: str, base: str, *, fault: str = "", uri: str = "", named: bool = True
    ) -> None:
        """Add an entry; not ``named``: found in a folder or by a glob."""
        self._added += 1
        self._places.add(place)
        # A link that leads nowhere, or back to itself, has no place but its own.
        location = (
            str(Path(place).absolute())
            if fault and not storage.is_uri(place)
            else storage.resolve(place)
        )
        self._now.add(location)
        if named:
            self._maybe_text.discard(location)
        elif location not in self._entries and not fault and _suffix(place) not in VIDEO_SUFFIXES:
            self._maybe_text.add(location)
        self._entries.setdefault(
            location, Entry(uri=uri or _relative(place, base), location=location, fault=fault)
        )

    def _walk(self, root: str, base: str) -> None:
        """Add what is in a folder and its sub-folders; URIs are relative to ``base``."""
        seen: set[str] = set()
        waiting = [root]
        while waiting:
            folder = waiting.pop()
            try:
                real = storage.identity(folder)
                if real in self._skip or real in seen:  # a symbolic link may lead back up
                    continue
                seen.add(real)
                entries = storage.entries(folder)
            except OSError as exc:
                if folder == root or storage.is_uri(folder):
                    raise
                self._add(folder, base, fault=f"the folder cannot be read: {exc.strerror or exc}")
                continue
            self._add_files(
                folder, {name: kind for name, kind in entries if kind != "folder"}, base
            )
            below = self._sub_folders(folder, [name for name, kind in entries if kind == "folder"])
            waiting.extend(reversed(below))

    def _sub_folders(self, folder: str, names: Sequence[str]) -> list[str]:
        below = []
        for name in names:
            place = storage.join(folder, name)
            rule = (
                MASKS
                if "JPEGImages" in names and "annotations" in name.lower()
                else _folder_rule(name)
            )
            if rule:
                self._ignored[place] = rule
            else:
                below.append(place)
        return below

    def _add_files(self, folder: str, kinds: Mapping[str, str | None], base: str) -> None:
        """Add the files of one folder, or the folder itself where they are frames."""
        rules = {name: _file_rule(name) for name in kinds}
        left = [name for name in kinds if not rules[name]]
        has_videos = any(_suffix(name) in VIDEO_SUFFIXES for name in left)
        images = [name for name in left if _suffix(name) in IMAGE_SUFFIXES]
        others = [name for name in left if _suffix(name) in OTHER_IMAGES]
        if has_videos:
            rules.update(dict.fromkeys((*images, *others), POSTER))
        elif images or others:
            rules.update(dict.fromkeys(images, FRAME))
            rules.update(dict.fromkeys(others, OTHER_IMAGE if images else FRAME))
            fault = "" if images else _not_read(others)
            self._add(folder, base, uri=_folder_uri(folder, base), fault=fault)
        for name, kind in kinds.items():
            place = storage.join(folder, name)
            if not rules[name]:
                self._add(
                    place, base, fault="" if kind == "file" else storage.fault(place), named=False
                )
            elif rules[name] != FRAME:
                self._ignored[place] = rules[name]

    def _add_matches(self, pattern: str, base: str) -> str:
        """Add what a glob matches; return why that is nothing, or ``""``."""
        matches = storage.matches(pattern)
        before = self._added
        images = []
        for place in matches:
            name = PurePosixPath(place).name
            kind = storage.kind(place)
            rule = _folder_rule(name) if kind == "folder" else _file_rule(name)
            if rule and rule != HIDDEN:  # a pattern matches hidden names only where it says so
                self._ignored[place] = rule
            elif kind == "folder":
                self._walk(place, base)
            elif _suffix(name) in (*IMAGE_SUFFIXES, *OTHER_IMAGES):
                images.append(place)
            else:
                self._add(
                    place, base, fault="" if kind == "file" else storage.fault(place), named=False
                )
        if self._added > before:
            self._ignored.update(dict.fromkeys(images, POSTER))
            return ""
        if images:
            return f"it matches {len(images)} images and no video; name their folder, which is read as one video"
        return (
            f"nothing matches but {len(matches)} entries that are no videos"
            if matches
            else "nothing matches"
        )

    def _add_list(self, location: str) -> None:
        """Add what the lines of a list name; a line that leads to nothing is an entry with a fault."""
        try:
            lines = _read_list(location)
        except (ValueError, csv.Error) as exc:
            raise CallError(f"cannot read the list {location}: {exc}") from exc
        for number, line in lines:
            place = _place(line, storage.parent(location))
            if place and (fault := self._add_line(place, storage.parent(location))):
                fault = f"{PurePosixPath(location).name}, line {number}: {fault}"
                self._add(place, storage.parent(location), fault=fault)

    def _add_line(self, place: str, base: str) -> str:
        """Add what a line of a list leads to; return why that is nothing, or ``""``."""
        kind = storage.kind(place)
        if kind == "file":
            if _suffix(place) in LISTS:
                return "a list within a list is not read"
            self._add(place, base)
        elif kind == "folder":
            before = self._added
            try:
                self._walk(place, base)
            except OSError as exc:
                if storage.is_uri(place):
                    raise
                return f"the folder cannot be read: {exc.strerror or exc}"
            if self._added == before:
                return "the folder holds no videos and no frames"
        elif kind is None and glob.has_magic(place):
            return self._add_matches(place, base)
        else:
            return storage.fault(place)
        return ""


def _suffix(name: str) -> str:
    return posixpath.splitext(name)[1].lower()


def _file_rule(name: str) -> str:
    """The rule by which a file is ignored whatever is beside it, or ``""``."""
    if name.startswith("."):  # AppleDouble files too: ._clip.mp4
        return HIDDEN
    if _suffix(name) in PARTIAL_SUFFIXES:
        return PARTIAL
    return SIDE if _suffix(name) in SIDE_SUFFIXES or name.lower() in SIDE_NAMES else ""


def _folder_rule(name: str) -> str:
    if name.startswith("."):
        return HIDDEN
    return SYSTEM if name.lower() in SYSTEM_FOLDERS else ""


def _not_read(names: Sequence[str]) -> str:
    suffixes = ", ".join(sorted({_suffix(name) for name in names}))
    return f"its {len(names)} images are of a kind that is not read as frames ({suffixes}): convert them to PNG or JPEG"


def _is_text(location: str) -> bool:
    """Whether a file is text by its first bytes; one that cannot be read is not."""
    try:
        head = storage.read_part(location, 0, PEEK)
        text = decode_text(head)
    except (OSError, ValueError):
        return False
    # The last character may have been cut in two.
    foreign = any(
        "\udc80" <= char <= "\udcff" or (char < " " and char not in "\t\n\r\f")
        for char in text[:-3]
    )
    return bool(text) and not foreign


def _read_list(location: str) -> list[tuple[int, str]]:
    """Line numbers and entries of a list: its lines, or the first column of CSV, or the one that
    its header names."""
    text = decode_text(storage.read(location))
    if _suffix(location) != ".csv":
        return list(enumerate(split_lines(text), start=1))
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True)
    rows = [(reader.line_num, row) for row in reader if row]
    column = 0
    if rows:
        header = [cell.strip().lower() for cell in rows[0][1]]
        named = [number for number, cell in enumerate(header) if cell in HEADERS]
        if named:
            column = named[0]
            del rows[0]
    return [(number, row[column] if column < len(row) else "") for number, row in rows]


def _place(line: str, folder: str) -> str:
    """The location that a line of a list names; ``""`` for a blank line or a comment."""
    name = line.strip()
    if not name or storage.is_uri(name):
        return name
    spellings = [line, name]
    if name[0] in "\"'" and name[-1] == name[0]:
        spellings.append(name[1:-1])
    if "\\" in name:  # as Windows writes it
        spellings.append(name.replace("\\", "/"))
    places = [_absolute(spelling, folder) for spelling in spellings]
    existing = [place for place in places if storage.kind(place) is not None]
    if existing:
        return existing[0]
    return "" if name.startswith("#") else places[1]


def _absolute(name: str, folder: str) -> str:
    if name.startswith("~/"):
        return str(Path(name).expanduser())
    return name if name.startswith("/") else storage.join(folder, name)


def _relative(location: str, base: str) -> str:
    """``location`` below ``base``, else its bare name."""
    path = PurePosixPath(location)
    folder = PurePosixPath(base)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def _folder_uri(folder: str, base: str) -> str:
    uri = _relative(folder, base)
    return PurePosixPath(storage.resolve(folder)).name if uri == "." else uri


def _fixed_part(pattern: str) -> str:
    """The folder of a glob before the first wildcard."""
    scheme, mark, path = pattern.rpartition("://")
    parts = PurePosixPath(path).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return scheme + mark + str(PurePosixPath(*parts[:fixed]))
