"""Describe any exception in one sentence: what failed, and what to do.

Our own errors (``errors``) carry that sentence. Library errors that can reach a user are in one
table, by the name of their class, of a base class, or of its package, so that no library is
imported for it. A room that wraps a library adds its own function with ``add_description``. Any
other error is reported as unexpected.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import NamedTuple

from .errors import CorrFractalError

MAX_MESSAGE_CHARS = 300

Description = Callable[[BaseException], str | None]
"""The sentence for an exception, or None if the function does not know it."""


class _KnownError(NamedTuple):
    name: str
    """``package.module.Class``, or the name of a package: all its classes."""
    containing: str
    """Text that the message must contain, in lower case."""
    what: str
    """What failed; the message of the error follows."""
    advice: str


_NETWORK = (
    "check its address, the credentials and the proxies that the environment names, or try again "
    "later"
)
_MEMORY = "take fewer --workers, smaller inputs, or a machine with more memory"
_STORE = "check MLFLOW_TRACKING_URI; `corrfractal doctor` examines the store"
_RAY = "`corrfractal doctor` examines what Ray needs; the same command resumes the work"
_REINSTALL = "reinstall the packages of requirements.lock"
_INPUTS = "check the inputs"

# The first match is used, so a class comes before its package.
_TABLE = (
    _KnownError("builtins.MemoryError", "", "out of memory", _MEMORY),
    _KnownError("torch.OutOfMemoryError", "", "out of memory on the GPU", _MEMORY),
    _KnownError("builtins.RuntimeError", "out of memory", "out of memory", _MEMORY),
    _KnownError("builtins.RuntimeError", "can't allocate memory", "out of memory", _MEMORY),
    _KnownError(
        "builtins.RuntimeError", "can't start new thread", "no more threads", "raise `ulimit -u`"
    ),
    _KnownError("builtins.RuntimeError", "cuda", "the GPU failed", "try again, or use the CPU"),
    _KnownError("torch", "", "PyTorch failed", "try again, or use the CPU"),
    _KnownError(
        "builtins.RecursionError", "", "an input is nested too deeply", "simplify that file"
    ),
    _KnownError(
        "builtins.UnicodeError", "", "a text has bytes that cannot be decoded", "save it as UTF-8"
    ),
    _KnownError(
        "builtins.ValueError", "embedded null", "a path contains a NUL character", "fix that path"
    ),
    _KnownError("builtins.ValueError", "mlflow_", "MLflow cannot read a variable", "unset it"),
    _KnownError(
        "builtins.RuntimeError", "version mismatch", "Ray", "install the versions of the cluster"
    ),
    _KnownError(
        "json.decoder.JSONDecodeError", "", "a file is not valid JSON", "restore or remove it"
    ),
    _KnownError("tomllib.TOMLDecodeError", "", "a file is not valid TOML", "fix that line"),
    _KnownError("yaml", "", "a file is not valid YAML", "fix or remove it (.numba_config.yaml?)"),
    _KnownError("pydantic_core", "", "a value does not fit", "correct that value"),
    _KnownError(
        "ray.exceptions.AuthenticationError", "", "Ray refuses the login", "set RAY_AUTH_TOKEN_PATH"
    ),
    _KnownError("ray", "", "Ray failed", _RAY),
    _KnownError("grpc", "", "the connection to Ray broke", _RAY),
    _KnownError("sqlite3", "", "a database failed", _STORE),
    _KnownError("botocore", "", "the object store failed", _NETWORK),
    _KnownError("google", "", "the object store failed", _NETWORK),
    _KnownError("azure", "", "the object store failed", _NETWORK),
    _KnownError("requests", "", "a server failed", _NETWORK),
    _KnownError("urllib3", "", "a server failed", _NETWORK),
    _KnownError("urllib", "", "a server failed", _NETWORK),
    _KnownError("aiohttp", "", "a server failed", _NETWORK),
    _KnownError("builtins.ConnectionError", "", "a connection failed", _NETWORK),
    _KnownError("builtins.TimeoutError", "", "timeout", _NETWORK),
    _KnownError("cv2", "", "OpenCV could not process an image", _INPUTS),
    _KnownError("av", "", "FFmpeg could not process a video", _INPUTS),
    _KnownError("decord", "", "decord could not process a video", _INPUTS),
    _KnownError("PIL", "", "an image cannot be read", _INPUTS),
    _KnownError("safetensors", "", "a model file is damaged", "download or train the model again"),
    _KnownError("tarfile", "", "a shard is damaged", "run `corrfractal verify`"),
    _KnownError("zlib", "", "compressed data are damaged", _INPUTS),
    _KnownError(
        "numba", "", "compiling a loop failed", "unset the NUMBA_ variables, or " + _REINSTALL
    ),
    _KnownError("concurrent", "", "a helper process died", _MEMORY),
    _KnownError("multiprocessing", "", "a helper process died", _MEMORY),
    _KnownError("builtins.ImportError", "", "a package is missing or broken", _REINSTALL),
)

_OS_ADVICE = {
    errno.ENOSPC: "free some space, then run the same command again",
    errno.EDQUOT: "free some space, then run the same command again",
    errno.EFBIG: "raise `ulimit -f`, then run the same command again",
    errno.EMFILE: "raise `ulimit -n`",
    errno.EROFS: "name a writable folder",
    errno.EACCES: "change its permissions, or name another path",
}

_descriptions: list[Description] = []


def add_description(describe: Description) -> None:
    """Ask ``describe`` first about every library error from now on. Idempotent."""
    if describe not in _descriptions:
        _descriptions.append(describe)


def describe_error(exc: BaseException) -> str:
    """One sentence for any error; a library's message is cut to its first line."""
    exc = _cause(exc)
    if isinstance(exc, CorrFractalError):
        return str(exc)
    for describe in _descriptions:
        sentence = describe(exc)
        if sentence is not None:
            return sentence

    message = _first_line(exc)
    names = {name for kind in type(exc).__mro__ for name in _names(kind)}
    for known in _TABLE:
        if known.name in names and known.containing in str(exc).lower():
            what = f"{known.what}: {message}" if message else known.what
            return f"{what}; {known.advice}"
    if isinstance(exc, OSError):
        return _describe_os_error(exc)
    return f"unexpected {type(exc).__name__}: {message} (run again with --debug for the traceback)"


def _cause(exc: BaseException) -> BaseException:
    """The exception that a Ray task raised: Ray wraps it with the worker's traceback."""
    cause = getattr(exc, "cause", None)
    return cause if isinstance(cause, Exception) else exc


def _names(kind: type) -> tuple[str, str]:
    return kind.__module__.partition(".")[0], f"{kind.__module__}.{kind.__qualname__}"


def _first_line(exc: BaseException) -> str:
    lines = (line.strip() for line in str(exc).splitlines())
    first = next((line for line in lines if line), "")
    return first[:MAX_MESSAGE_CHARS].rstrip(".:; ")


def _describe_os_error(exc: OSError) -> str:
    """Errors of the system, such as a full disk: the user can do something about them."""
    if exc.errno == errno.ENAMETOOLONG:
        return f"the path {str(exc.filename)[:60]}... is too long; use shorter names"
    message = exc.strerror or _first_line(exc) or type(exc).__name__
    if exc.filename:
        message += f": {exc.filename}"
    advice = _OS_ADVICE.get(exc.errno or 0)
    return f"{message}; {advice}" if advice else message
