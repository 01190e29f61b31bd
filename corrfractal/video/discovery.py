"""Find the videos behind user-given names: files, folders, globs and lists, local or URIs.

All commands use the same rules (docs/decisions/0041). Every entry is one of these:

- a video: a file named by the user, or found in a folder or by a glob and not ignored;
- a frame folder, read as one video: it contains images and no file with a video suffix;
- ignored by a rule of ``entry_rules.IGNORED``, and counted;
- neither readable nor ignored, such as a broken link: an ``Entry`` with its ``fault``.

Shards and reports identify an entry by its URI: its path relative to the folder, to the fixed part
of the glob or to the list it was found through, or its bare name if it was named itself. The digest
of a data set is therefore independent of where its folder is mounted. Entries whose URIs would
collide keep their complete location.
"""

from __future__ import annotations

import csv
import glob
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from corrfractal.common.errors import CallError, NotFoundError
from corrfractal.files import storage
from corrfractal.runtime.process import cpu_count

from .entry_rules import (
    FRAME,
    HIDDEN,
    IGNORED,
    LIST_SUFFIXES,
    POSTER,
    TEXT,
    VIDEO_SUFFIXES,
    classify_files,
    classify_folders,
    file_rule,
    folder_rule,
    is_image,
    is_text,
    suffix_of,
    unreadable_frames,
)
from .source_lists import read_list, resolve_line


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A video, or an entry that cannot be read.

    Attributes:
        uri: identifier in shards and reports (see the module docstring); unique within ``Found``.
        location: local path or URI of the file or frame folder.
        fault: why it cannot be read; ``""`` for a video file or a frame folder.
    """

    uri: str
    location: str
    fault: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Entries sorted by URI, and the number of others that each rule of ``IGNORED`` excluded."""

    entries: tuple[Entry, ...]
    ignored: dict[str, int]


def ignored_summary(ignored: Mapping[str, int]) -> str:
    """One line for people about ``Found.ignored``."""
    rules = ", ".join(f"{rule}: {count}" for rule, count in ignored.items())
    count = sum(ignored.values())
    noun = "entry that is no video" if count == 1 else "entries that are no videos"
    return f"ignored {count} {noun} ({rules})"


def discover(names: Sequence[str], skip: Sequence[str | Path] = ()) -> Found:
    """Find the videos behind ``names``, each file once, without decoding any of them.

    A file reached through two links is one entry, under the first URI. Folders are searched
    recursively; symbolic links to folders are followed, each real folder once.

    Args:
        names: files, folders, globs, lists (one name per line, relative to the list), URIs.
        skip: output folders; their contents are never entries.

    Raises:
        NotFoundError: a name does not exist, or contains no video. A line of a list that does not
            exist is an entry with a fault instead.
        CallError: a list or a named folder cannot be read, or a store cannot be reached.
    """
    existing_outputs = [path for path in skip if storage.is_uri(path) or Path(path).is_dir()]
    search = _Search([storage.identity(folder) for folder in existing_outputs])
    for name in names:
        try:
            search.add_named(name)
        except OSError as exc:
            raise CallError(f"cannot read {name}: {exc.strerror or exc}") from exc

    # Only now are all entries known: a file may be named itself and also be in a named folder.
    search.exclude_texts()
    for name in names:
        search.check_not_empty(name)
    return search.found()


class _Search:
    """State of one ``discover`` call.

    A *place* is a path or URI as found, a *location* what it resolves to, which identifies an
    entry.
    """

    def __init__(self, skip: Sequence[str]) -> None:
        self._skip = set(skip)  # identities of folders
        self._entries: dict[str, Entry] = {}  # by location
        self._places: set[str] = set()
        self._ignored: dict[str, str] = {}  # place -> rule
        self._unknown_suffix: set[str] = set()  # locations; videos or texts
        self._locations_by_name: dict[str, set[str]] = {}  # of each name of the call
        self._current: set[str] = set()  # locations of the name being searched
        self._added = 0  # calls of _add

    def add_named(self, name: str) -> None:
        """Add everything that one name of the call refers to."""
        self._current = self._locations_by_name.setdefault(name, set())
        kind = storage.kind(name)
        if kind == "folder":
            self._walk(name, name)
        elif kind == "file" and suffix_of(name) in LIST_SUFFIXES:
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

    def exclude_texts(self) -> None:
        """Ignore files of unknown suffix that are plain text: LICENSE, Makefile, checksums."""
        locations = sorted(self._unknown_suffix)
        # Reading a few bytes is bound by latency, above all in object stores.
        with ThreadPoolExecutor(2 * cpu_count()) as pool:
            texts = list(pool.map(is_text, locations))
        for location, text in zip(locations, texts, strict=True):
            if text:
                del self._entries[location]
                self._places.discard(location)
                self._ignored[location] = TEXT

    def check_not_empty(self, name: str) -> None:
        """Raise NotFoundError if a name has no entry."""
        if not self._locations_by_name[name].isdisjoint(self._entries):
            return
        rules = self.found().ignored
        ignored = f"; {ignored_summary(rules)}" if rules else ""
        if storage.kind(name) == "folder":
            raise NotFoundError(f"the folder {name} holds no videos and no frames{ignored}")
        raise NotFoundError(f"{name} names no videos{ignored}")

    def found(self) -> Found:
        """All entries, with unique URIs."""
        uses = Counter(entry.uri for entry in self._entries.values())
        entries = [
            entry if uses[entry.uri] == 1 else replace(entry, uri=entry.location)
            for entry in self._entries.values()
        ]
        # A place that one name ignores may be an entry through another name.
        counts = Counter(rule for place, rule in self._ignored.items() if place not in self._places)
        return Found(
            entries=tuple(sorted(entries, key=lambda entry: entry.uri)),
            ignored={rule: counts[rule] for rule in IGNORED if counts[rule]},
        )

    def _add(
        self, place: str, base: str, *, fault: str = "", uri: str = "", named: bool = True
    ) -> None:
        """Add an entry whose URI is relative to ``base``.

        Args:
            place: as found; a link is not resolved yet.
            base: folder, list folder or fixed part of a glob.
            fault: why the place cannot be read.
            uri: overrides the URI made from ``place`` and ``base``.
            named: the user or a list named it; False if a folder or a glob contains it.
        """
        self._added += 1
        self._places.add(place)

        # A broken or circular link resolves to nothing, so it is identified by its own path.
        unresolvable = bool(fault) and not storage.is_uri(place)
        location = str(Path(place).absolute()) if unresolvable else storage.resolve(place)
        self._current.add(location)

        # What a user names is a video even if it looks like text.
        if named:
            self._unknown_suffix.discard(location)
        elif location not in self._entries and not fault and suffix_of(place) not in VIDEO_SUFFIXES:
            self._unknown_suffix.add(location)

        # The first name wins: a second link to a file must not change its URI.
        entry = Entry(uri=uri or _relative(place, base), location=location, fault=fault)
        self._entries.setdefault(location, entry)

    def _add_unnamed(self, place: str, base: str, kind: str | None) -> None:
        """Add what a folder or a glob contains; ``kind`` is that of ``storage.kind``."""
        fault = "" if kind == "file" else storage.fault(place)
        self._add(place, base, fault=fault, named=False)

    def _walk(self, root: str, base: str) -> None:
        """Add the contents of a folder and its sub-folders; URIs are relative to ``base``."""
        seen: set[str] = set()
        pending = [root]
        while pending:
            folder = pending.pop()
            try:
                identity = storage.identity(folder)
                # A symbolic link may lead back to a parent folder.
                if identity in self._skip or identity in seen:
                    continue
                seen.add(identity)
                entries = storage.entries(folder)
            except OSError as exc:
                # A named folder, or a store that fails, ends the call; a sub-folder does not.
                if folder == root or storage.is_uri(folder):
                    raise
                self._add(folder, base, fault=f"the folder cannot be read: {exc.strerror or exc}")
                continue

            self._add_files(folder, [entry for entry in entries if entry[1] != "folder"], base)
            # The last item is searched next, so reversing keeps the order of names.
            names = [name for name, kind in entries if kind == "folder"]
            pending.extend(reversed(self._sub_folders(folder, names)))

    def _sub_folders(self, folder: str, names: Sequence[str]) -> list[str]:
        """Sub-folders to search, in the order of ``names``; the others are recorded as ignored."""
        remaining = []
        for name, rule in classify_folders(names).items():
            place = storage.join(folder, name)
            if rule:
                self._ignored[place] = rule
            else:
                remaining.append(place)
        return remaining

    def _add_files(self, folder: str, files: Sequence[tuple[str, str | None]], base: str) -> None:
        """Add the files of one folder, each (name, kind), or the folder if they are frames."""
        rules = classify_files([name for name, _ in files])
        frames = [name for name, rule in rules.items() if rule == FRAME]
        if frames:
            fault = unreadable_frames(frames)
            self._add(folder, base, uri=_folder_uri(folder, base), fault=fault)

        for name, kind in files:
            place = storage.join(folder, name)
            if not rules[name]:
                self._add_unnamed(place, base, kind)
            elif rules[name] != FRAME:
                self._ignored[place] = rules[name]

    def _add_matches(self, pattern: str, base: str) -> str:
        """Add the matches of a glob; return why there is no video among them, or ``""``."""
        matches = storage.matches(pattern)
        before = self._added
        images = []
        for place in matches:
            name = PurePosixPath(place).name
            kind = storage.kind(place)
            rule = folder_rule(name) if kind == "folder" else file_rule(name)
            # "*" matches no hidden name, so the pattern names this one explicitly.
            if rule and rule != HIDDEN:
                self._ignored[place] = rule
            elif kind == "folder":
                self._walk(place, base)
            elif is_image(name):
                images.append(place)
            else:
                self._add_unnamed(place, base, kind)

        if self._added > before:
            self._ignored.update(dict.fromkeys(images, POSTER))
            return ""
        if images:
            return (
                f"it matches {len(images)} images and no video; name their folder, which is read "
                "as one video"
            )
        if matches:
            return f"nothing matches but {len(matches)} entries that are no videos"
        return "nothing matches"

    def _add_list(self, location: str) -> None:
        """Add what the lines of a list name; a line without result is an entry with a fault."""
        try:
            lines = read_list(location)
        except (ValueError, csv.Error) as exc:
            raise CallError(f"cannot read the list {location}: {exc}") from exc
        folder = storage.parent(location)
        for number, line in lines:
            place = resolve_line(line, folder)
            if place and (fault := self._add_line(place, folder)):
                fault = f"{PurePosixPath(location).name}, line {number}: {fault}"
                self._add(place, folder, fault=fault)

    def _add_line(self, place: str, base: str) -> str:
        """Add what a line of a list names; return why there is no video, or ``""``."""
        kind = storage.kind(place)
        if kind == "file":
            if suffix_of(place) in LIST_SUFFIXES:
                return "a list within a list is not read"
            self._add(place, base)
            return ""
        if kind == "folder":
            before = self._added
            try:
                self._walk(place, base)
            except OSError as exc:
                if storage.is_uri(place):
                    raise
                return f"the folder cannot be read: {exc.strerror or exc}"
            return "" if self._added > before else "the folder holds no videos and no frames"
        if kind is None and glob.has_magic(place):
            return self._add_matches(place, base)
        return storage.fault(place)


def _relative(location: str, base: str) -> str:
    """``location`` relative to ``base`` if it is inside, otherwise its bare name."""
    # Of a million files this is a third of the listing with paths, and a second with texts.
    prefix = base.rstrip("/") + "/"
    if location.startswith(prefix):
        rest = location[len(prefix) :]
        if "//" not in f"/{rest}/" and "/./" not in f"/{rest}/":
            return rest
    path = PurePosixPath(location)
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.name


def _folder_uri(folder: str, base: str) -> str:
    """URI of a frame folder: its own name if it is the base itself."""
    uri = _relative(folder, base)
    return PurePosixPath(storage.resolve(folder)).name if uri == "." else uri


def _fixed_part(pattern: str) -> str:
    """The folder of a glob before the first wildcard."""
    scheme, mark, path = pattern.rpartition("://")
    parts = PurePosixPath(path).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    return scheme + mark + str(PurePosixPath(*parts[:fixed]))
