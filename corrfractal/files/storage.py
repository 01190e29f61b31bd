"""Read and write files by location: a local path, or any URI that fsspec supports (``s3://``,
``gs://``, ``memory://``, ...).

Writes are atomic: locally by fsync and rename, in an object store because uploads are. Every
failure is an ``OSError`` that names the location. A URI with a password raises ``CallError``, since
locations are stored in manifests, reports and logs.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import posixpath
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from corrfractal.common.errors import CallError
from corrfractal.common.text import without_password

from .atomic import file_sha256, publish, write_bytes

Location = str | Path

# Package of the fsspec driver by URI scheme
DRIVERS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
}


def is_uri(location: Location) -> bool:
    """Whether a location is a URI, as opposed to a local path."""
    return isinstance(location, str) and "://" in location


def refuse_password(location: Location) -> None:
    """Raise a ``CallError`` if a URI contains a password."""
    shown = without_password(str(location))
    if is_uri(location) and shown != location:
        raise CallError(
            f"{shown}: leave the password out: it would be stored in manifests and reports. Drivers "
            "read it from the environment: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or "
            "FSSPEC_HTTPS and the like (docs/explanation/security.md)"
        )


def place(text: str) -> Location:
    """The location that a user names: a URI, or a path; ``file://`` URIs are paths, so that local
    files have local guarantees."""
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("file", "local"):
        return Path(rest.removeprefix("localhost"))
    return text if separator else Path(text)


def absolute(location: Location) -> Location:
    """A location that does not depend on the working directory; links are kept."""
    return str(location).rstrip("/") if is_uri(location) else Path(location).absolute()


def name_of(location: Location) -> str:
    """The last part of a location."""
    return posixpath.basename(str(location).rstrip("/"))


def join(folder: Location, name: str) -> str:
    """The location of ``name`` in a folder."""
    return f"{str(folder).rstrip('/')}/{name}" if is_uri(folder) else str(Path(folder) / name)


def parent(location: Location) -> str:
    """The folder of a location."""
    return posixpath.dirname(str(location)) if is_uri(location) else str(Path(location).parent)


def resolve(location: Location) -> str:
    """A location that does not depend on the working directory."""
    return str(location).rstrip("/") if is_uri(location) else str(Path(location).resolve())


def identity(folder: Location) -> str:
    """An identifier of an existing folder: equal for all paths and links that lead to it."""
    if is_uri(folder):
        return resolve(folder)
    facts = Path(folder).stat()
    return f"{facts.st_dev}:{facts.st_ino}"


def kind(location: Location) -> str | None:
    """``"file"``, ``"folder"``, ``"other"`` (a device or a pipe), or None if it cannot be accessed;
    ``fault`` gives the reason."""
    if is_uri(location):
        with _remote(location) as (fs, path):
            return "file" if fs.isfile(path) else "folder" if fs.isdir(path) else None
    try:
        mode = Path(location).stat().st_mode
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return None
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "other"


def fault(location: Location) -> str:
    """Why a location is neither a file nor a folder, if its ``kind`` is None or ``"other"``."""
    if is_uri(location):
        return "no such file or bucket"
    try:
        mode = Path(location).stat().st_mode
    except ValueError:
        return "no such file or folder"
    except OSError as exc:
        missing = exc.errno in (errno.ENOENT, errno.ENOTDIR)
        if missing and Path(location).is_symlink():
            return f"a link to {Path(location).readlink()}, which does not exist"
        return "no such file or folder" if missing else f"it cannot be reached: {exc.strerror}"
    if stat.S_ISFIFO(mode):
        return "a named pipe, not a file"
    return "a socket, not a file" if stat.S_ISSOCK(mode) else "a device, not a file"


def entries(folder: Location) -> list[tuple[str, str | None]]:
    """Name and ``kind`` of every entry of a folder, sorted by name. In an object store a file and a
    folder can have the same name."""
    if not is_uri(folder):
        with os.scandir(folder) as found:
            return sorted((entry.name, _entry_kind(entry)) for entry in found)
    with _remote(folder) as (fs, path):
        listed = [(entry["name"], entry["type"]) for entry in fs.ls(path, detail=True)]
    own = path.rstrip("/")
    kinds = {"file": "file", "directory": "folder"}
    # Object stores can list the folder's own marker object as its child.
    children = [(name.rstrip("/"), what) for name, what in listed if name.rstrip("/") != own]
    return sorted(
        ((posixpath.basename(name), kinds.get(what)) for name, what in children),
        key=lambda entry: entry[0],
    )


def _entry_kind(entry: os.DirEntry[str]) -> str | None:
    """``kind``, without a further system call for regular files and folders."""
    if entry.is_symlink():
        return kind(entry.path)
    if entry.is_dir():
        return "folder"
    return "file" if entry.is_file() else "other"


def file_facts(folder: Location) -> dict[str, tuple[int, str]]:
    """Size and stamp of the files in a folder, by name, from one listing; no content is read.

    The stamp changes when a file is written or replaced: its modification time, change time and
    inode, or the ETag or time that an object store states. Links are followed.
    """
    if not is_uri(folder):
        found = {}
        with os.scandir(folder) as items:
            for item in items:
                try:
                    status = item.stat()
                except OSError:
                    continue  # a broken link
                if stat.S_ISREG(status.st_mode):
                    found[item.name] = (status.st_size, local_stamp(status))
        return found
    with _remote(folder) as (fs, path):
        listed = fs.ls(path, detail=True)
    files = {}
    for item in listed:
        if item["type"] == "file":
            name = posixpath.basename(item["name"])
            files[name] = (int(item["size"] or 0), _remote_stamp(item))
    return files


def file_fact(location: Location) -> tuple[int, str]:
    """Size and stamp of one file, as in ``file_facts``.

    Raises:
        FileNotFoundError: there is none.
    """
    if not is_uri(location):
        status = Path(location).stat()
        return status.st_size, local_stamp(status)
    with _remote(location) as (fs, path):
        item = fs.info(path)
    return int(item["size"] or 0), _remote_stamp(item)


def local_stamp(status: os.stat_result) -> str:
    """The stamp of a local file, see ``file_facts``."""
    return f"{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"


def _remote_stamp(item: dict[str, Any]) -> str:
    """What object stores and file servers call it: an ETag if there is one, else a time."""
    for name in ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime",
                 "created"):  # fmt: skip
        if item.get(name):
            return str(item[name]).strip('"')
    return ""


def listing(folder: Location) -> tuple[list[str], list[str]]:
    """Names of the files and names of the folders in a folder, each sorted."""
    found = entries(folder)
    return [name for name, what in found if what == "file"], [
        name for name, what in found if what == "folder"
    ]


def names_below(uri: str) -> set[str]:
    """Names of all files in a folder at a URI and in its sub-folders, relative to it."""
    with _remote(uri) as (fs, path):
        top = path.rstrip("/") + "/"
        return {name.removeprefix(top) for name in fs.find(path) if name.startswith(top)}


def matches(pattern: str) -> list[str]:
    """Locations that match a glob pattern, sorted; ``**`` matches sub-folders, each visited
    once."""
    if not is_uri(pattern):
        return sorted(set(_local_matches(pattern)))
    with _remote(pattern) as (fs, path):
        return sorted(fs.unstrip_protocol(found) for found in fs.glob(path))


def _local_matches(pattern: str) -> Iterator[str]:
    """Like ``glob.glob``, but visits each real folder once: ``glob`` follows links to a parent
    folder up to the system's limit, and with two such links practically without end."""
    head, found, tail = pattern.partition("**/")
    if not found or (head and not head.endswith("/")):
        yield from glob.glob(pattern, recursive=True)  # noqa: PTH207 (a pattern may be absolute)
        return
    for start in glob.glob(head) if head else [""]:  # noqa: PTH207
        for folder in _folders_below(start):
            yield from _local_matches(glob.escape(folder) + tail)


def _folders_below(start: str) -> Iterator[str]:
    """A folder and all folders below it, each real one once, with a slash at the end. ``""`` is the
    working directory."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        folder = waiting.pop()
        try:
            real = identity(folder)
            if real in seen:
                continue
            seen.add(real)
            yield folder
            below = [
                name
                for name, what in entries(folder or ".")
                if what == "folder" and not name.startswith(".")
            ]
        except OSError:
            continue  # unreadable folders are skipped, as by a shell's glob
        waiting.extend(f"{folder}{name}/" for name in reversed(below))


def make_folder(folder: Location) -> None:
    """Create a folder. Object stores have none, but the bucket must exist."""
    if is_uri(folder):
        with _remote(folder) as (fs, path):
            bucket = path.partition("/")[0]
            if bucket:
                fs.info(bucket)  # unlike exists(), raises the reason, and before the work starts
    else:
        Path(folder).mkdir(parents=True, exist_ok=True)


def read(location: Location) -> bytes:
    """Contents of a file."""
    if not is_uri(location):
        return Path(location).read_bytes()
    with _remote(location) as (fs, path):
        return bytes(fs.cat_file(path))


def read_part(location: Location, offset: int, length: int) -> bytes:
    """``length`` bytes of a file, starting at ``offset``."""
    if not is_uri(location):
        with Path(location).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    with _remote(location) as (fs, path):
        return bytes(fs.cat_file(path, start=offset, end=offset + length))


@contextmanager
def open_file(location: Location, block_size: int = 1 << 18) -> Iterator[Any]:
    """A file for reading in parts, binary; of a remote one only what is asked for is fetched.

    Args:
        location: of the file.
        block_size: bytes that a request to an object store fetches at least.
    """
    if not is_uri(location):
        with Path(location).open("rb") as file:
            yield file
        return
    with _remote(location) as (fs, path), fs.open(path, "rb", block_size=block_size) as file:
        yield file


def write(location: Location, contents: bytes) -> None:
    """Write a small file atomically."""
    if not is_uri(location):
        write_bytes(Path(location), contents)
        return
    with _remote(location) as (fs, path):
        fs.pipe_file(path, contents)


def write_if(location: Location, contents: bytes, stamp: str | None) -> bool:
    """Write a small file if it is still the one with this stamp of ``file_fact``; None: if there is
    none.

    S3 compares and writes in one step. Other stores do so for None, where their driver can; for a
    stamp another writer may come between the two.

    Returns:
        Whether it was written.
    """
    if not is_uri(location):
        return _compare_and_write(location, contents, stamp)
    try:
        with _remote(location) as (fs, path):
            if stamp is None:
                fs.pipe_file(path, contents, mode="create")
            elif "s3" in fs.protocol:
                fs.pipe_file(path, contents, IfMatch=f'"{stamp}"')
            else:
                return _compare_and_write(location, contents, stamp)
    except FileNotFoundError:
        if stamp is not None:
            return False  # it was deleted meanwhile
        raise  # no such bucket
    except OSError as exc:
        code = _store_code(exc)
        if code == "NotImplemented":  # a server of the S3 protocol without conditions
            return _compare_and_write(location, contents, stamp)
        if code in ("exists", "PreconditionFailed", "ConditionalRequestConflict"):
            return False
        raise
    return True


def _compare_and_write(location: Location, contents: bytes, stamp: str | None) -> bool:
    try:
        current = file_fact(location)[1]
    except FileNotFoundError:
        current = None
    if current != stamp:
        return False
    write(location, contents)
    return True


def _store_code(exc: BaseException) -> str:
    """The store's own code of an error that a driver and ``_remote`` have wrapped; else ``""``."""
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, FileExistsError):
            return "exists"
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        cause = cause.__cause__
    return ""


def put(temporary: Path, location: Location) -> None:
    """Move a complete local file, created in ``scratch``, to its location."""
    if not is_uri(location):
        publish(temporary, Path(location))
        return
    upload(temporary, str(location))
    temporary.unlink()


def upload(path: Path, uri: str) -> None:
    """Copy a local file to a URI, which shows it when it is complete."""
    with _remote(uri) as (fs, target):
        fs.put_file(str(path), target)


def fetch(location: Location, target: Path) -> None:
    """Copy a remote file to a local path, replacing an existing file."""
    with _remote(location) as (fs, path):
        fs.get_file(path, str(target))


def scratch(folder: Location) -> Path:
    """The local folder for temporary files that ``put`` moves to ``folder``: ``folder`` itself if
    local, so that a rename suffices; otherwise the system's temporary folder."""
    return Path(tempfile.gettempdir() if is_uri(folder) else folder)


def remove(location: Location) -> None:
    """Remove a file if it exists."""
    if not is_uri(location):
        Path(location).unlink(missing_ok=True)
        return
    with _remote(location) as (fs, path):
        if fs.exists(path):
            fs.rm_file(path)


def sha256(location: Location) -> str:
    """SHA-256 (hex) of a file's bytes."""
    if not is_uri(location):
        return file_sha256(Path(location))
    with (
        _remote(location) as (fs, path),
        fs.open(path, "rb", cache_type="readahead", block_size=8 << 20) as file,
    ):
        digest = hashlib.sha256()
        while block := file.read(8 << 20):
            digest.update(block)
        return digest.hexdigest()


@contextmanager
def local_copy(location: Location) -> Iterator[Path]:
    """Yield a local path to a file or folder of files; a download is deleted after the block."""
    if not is_uri(location):
        yield Path(location)
        return
    folder = Path(tempfile.mkdtemp(prefix="corrfractal-"))
    try:
        yield download(location, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def download(location: Location, folder: Path) -> Path:
    """Copy a remote file, or a remote folder of files, into a local folder; return its path
    there."""
    target = folder / posixpath.basename(str(location).rstrip("/"))
    with _remote(location) as (fs, path):
        if not fs.isfile(path):
            target.mkdir()
            names = listing(location)[0]
            fs.get(
                [posixpath.join(path, name) for name in names],
                [str(target / name) for name in names],
            )
        else:
            fs.get_file(path, str(target))
    return target


@contextmanager
def _remote(location: Location) -> Iterator[tuple[Any, str]]:
    """Yield the fsspec file system and the path in it; re-raise any driver's error as
    ``OSError``."""
    import fsspec

    refuse_password(location)
    scheme = str(location).partition("://")[0]
    try:
        fs, path = _file_system(fsspec, str(location))
        yield fs, path
    except FileNotFoundError as exc:
        raise FileNotFoundError(errno.ENOENT, "no such file or bucket", str(location)) from exc
    except ImportError as exc:
        driver = DRIVERS.get(scheme, f"the fsspec driver of {scheme}")
        raise OSError(
            f"{location} needs {driver}: pip install {DRIVERS.get(scheme, 'it')}"
        ) from exc
    except Exception as exc:
        reason = str(exc).splitlines()[0] if str(exc) else type(exc).__name__
        raise OSError(f"cannot reach {location}: {reason}") from exc


def _file_system(fsspec: Any, location: str) -> tuple[Any, str]:
    """``url_to_fs``, for keys that contain ``::`` too: fsspec parses that as a chain of URIs."""
    scheme, _, rest = location.partition("://")
    if "::" in location and "://" not in rest and "::" not in scheme:
        kind_of_store = fsspec.get_filesystem_class(scheme)
        return kind_of_store(use_listings_cache=False), kind_of_store._strip_protocol(location)
    fs, path = fsspec.core.url_to_fs(location, use_listings_cache=False)
    return fs, str(path)
