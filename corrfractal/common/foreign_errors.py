"""What an error says to a user, whoever raised it: one sentence on what failed, and what to do.

Ours carry their own sentence (``errors``). Those of libraries that can reach a user are in one
table, by the name of their class, of a base of it, or of its package; nothing is imported for it.
Those of the MLflow store are described in ``tracking``. Others are reported as unexpected.
"""

from __future__ import annotations

import errno
import sys
from typing import NamedTuple

from .errors import CorrFractalError

_LONGEST = 300


class _Entry(NamedTuple):
    name: str
    """``package.module.Class``, or the name of a package: all its classes."""
    containing: str
    """A text that the message must contain, in lower case."""
    what: str
    """What failed; the message of the error follows."""
    advice: str


_NETWORK = "check its address, the credentials and the proxies that the environment names, or try again later"
_MEMORY = "take fewer --workers, smaller inputs, or a machine with more memory"
_STORE = "check MLFLOW_TRACKING_URI; `corrfractal doctor` examines the store"
_RAY = "`corrfractal doctor` examines what Ray needs; the same command resumes the work"
_REINSTALL = "install the parts again from requirements.lock"

# The first entry that fits counts.
_TABLE = (
    _Entry("builtins.MemoryError", "", "out of memory", _MEMORY),
    _Entry("torch.OutOfMemoryError", "", "out of memory on the GPU", _MEMORY),
    _Entry("builtins.RuntimeError", "out of memory", "out of memory", _MEMORY),
    _Entry("builtins.RuntimeError", "can't allocate memory", "out of memory", _MEMORY),
    _Entry(
        "builtins.RuntimeError", "can't start new thread", "no more threads", "raise `ulimit -u`"
    ),
    _Entry("builtins.RuntimeError", "cuda", "the GPU failed", "try again, or work on the CPU"),
    _Entry("torch", "", "PyTorch failed", "try again, or work on the CPU"),
    _Entry("builtins.RecursionError", "", "an input is nested too deeply", "simplify that file"),
    _Entry("builtins.UnicodeError", "", "a text has bytes that cannot be read", "save it as UTF-8"),
    _Entry(
        "builtins.ValueError", "embedded null", "a path contains a NUL character", "mend that path"
    ),
    _Entry("builtins.ValueError", "mlflow_", "MLflow cannot read a variable", "unset it"),
    _Entry("builtins.RuntimeError", "version mismatch", "Ray", "install what the cluster runs"),
    _Entry(
        "json.decoder.JSONDecodeError", "", "a file is no valid JSON", "restore or remove that file"
    ),
    _Entry("tomllib.TOMLDecodeError", "", "a file is no valid TOML", "mend that line"),
    _Entry("yaml", "", "a file is no valid YAML", "mend or remove it (.numba_config.yaml?)"),
    _Entry("pydantic_core", "", "a value does not fit", "mend that value"),
    _Entry(
        "ray.exceptions.AuthenticationError", "", "Ray refuses the login", "set RAY_AUTH_TOKEN_PATH"
    ),
    _Entry("ray", "", "Ray failed", _RAY),
    _Entry("grpc", "", "the connection to Ray broke", _RAY),
    _Entry("sqlite3", "", "a data base failed", _STORE),
    _Entry("botocore", "", "the object store failed", _NETWORK),
    _Entry("google", "", "the object store failed", _NETWORK),
    _Entry("azure", "", "the object store failed", _NETWORK),
    _Entry("requests", "", "a server failed", _NETWORK),
    _Entry("urllib3", "", "a server failed", _NETWORK),
    _Entry("urllib", "", "a server failed", _NETWORK),
    _Entry("aiohttp", "", "a server failed", _NETWORK),
    _Entry("builtins.ConnectionError", "", "a connection failed", _NETWORK),
    _Entry("builtins.TimeoutError", "", "something took too long", _NETWORK),
    _Entry("cv2", "", "OpenCV could not process a picture", "look at the inputs"),
    _Entry("av", "", "FFmpeg could not process a video", "look at the inputs"),
    _Entry("decord", "", "decord could not process a video", "look at the inputs"),
    _Entry("PIL", "", "a picture cannot be read", "look at the inputs"),
    _Entry("safetensors", "", "a model file is damaged", "fetch or train the model again"),
    _Entry("tarfile", "", "a shard is damaged", "run `corrfractal verify`"),
    _Entry("zlib", "", "compressed data are damaged", "look at the inputs"),
    _Entry("numba", "", "compiling a loop failed", "unset the NUMBA_ variables, or " + _REINSTALL),
    _Entry("concurrent", "", "a helper process died", _MEMORY),
    _Entry("multiprocessing", "", "a helper process died", _MEMORY),
    _Entry("builtins.ImportError", "", "a part is missing or broken", _REINSTALL),
)

_OS_ADVICE = {
    errno.ENOSPC: "make room, then run the same command again",
    errno.EDQUOT: "make room, then run the same command again",
    errno.EFBIG: "raise `ulimit -f`, then run the same command again",
    errno.EMFILE: "raise `ulimit -n`",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "change its permissions, or name another path",
}


def describe_error(exc: BaseException) -> str:
    """One sentence for any error; the message of the original error is cut to its first line."""
    exc = _cause(exc)
    if isinstance(exc, CorrFractalError):
        return str(exc)
    if "mlflow" in sys.modules:
        from corrfractal.registry.mlflow_errors import current_store, is_store_error, store_error

        if is_store_error(exc):
            return str(store_error(exc, current_store()))
    said = _first_line(exc)
    names = {name for kind in type(exc).__mro__ for name in _names(kind)}
    for entry in _TABLE:
        if entry.name in names and entry.containing in str(exc).lower():
            return f"{entry.what}{': ' if said else ''}{said}; {entry.advice}"
    if isinstance(exc, OSError):
        return _describe_os_error(exc)
    return f"unexpected {type(exc).__name__}: {said} (run again with --debug for the traceback)"


def _cause(exc: BaseException) -> BaseException:
    """What a task raised, where Ray has wrapped it with the worker's traceback."""
    cause = getattr(exc, "cause", None)
    return cause if isinstance(cause, Exception) else exc


def _names(kind: type) -> tuple[str, str]:
    return kind.__module__.partition(".")[0], f"{kind.__module__}.{kind.__qualname__}"


def _first_line(exc: BaseException) -> str:
    lines = (line.strip() for line in str(exc).splitlines())
    return next((line for line in lines if line), "")[:_LONGEST].rstrip(".:; ")


def _describe_os_error(exc: OSError) -> str:
    """A full disk, a store out of reach: not a mistake of ours."""
    if exc.errno == errno.ENAMETOOLONG:
        return f"the path {str(exc.filename)[:60]}... is too long; take shorter names"
    where = f": {exc.filename}" if exc.filename else ""
    advice = _OS_ADVICE.get(exc.errno or 0)
    said = f"{exc.strerror or _first_line(exc) or type(exc).__name__}{where}"
    return f"{said}; {advice}" if advice else said
