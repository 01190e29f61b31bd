"""What commands log: levels, streams, the limits of libraries, and the records of other processes.

Modules log with ``logging.getLogger(__name__)``. Only commands call ``configure_logging``: a
program that imports this package configures ``logging`` itself.

    level              shown                   stream            line
    DEBUG              --verbose               standard error    time, level, logger, message
    INFO               unless --quiet          standard output   message
    WARNING, ERROR     always                  standard error    "warning: " message

With ``--verbose`` every line has time, level and logger. Records of libraries go to standard error,
from WARNING on, or from INFO on with ``--verbose``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .text import without_password

OWN_PACKAGES = ("corrfractal", "pipeline", "training", "inference", "cluster")

# Loggers whose library sets a level of its own, so that the root logger's has no effect on them.
LIBRARY_LEVELS = {
    # A line for each table of a new store.
    "alembic": logging.WARNING,
    "mlflow": logging.WARNING,
    # The traceback of a locked or unreachable database, which our own error names in a sentence.
    "mlflow.store": logging.CRITICAL,
    "mlflow.store.db.utils": logging.CRITICAL,
    # Advice on Ray's own defaults, such as the size of /dev/shm.
    "ray": logging.ERROR,
    # The commands of Ray's own client for a submitted job.
    "ray.dashboard.modules.job.sdk": logging.WARNING,
}

_process_label = ""


def configure_logging(level: int = logging.INFO) -> None:
    """Show log records on the standard streams. Idempotent; the last call decides.

    Args:
        level: ``logging.DEBUG`` (``--verbose``), ``logging.INFO`` or ``logging.WARNING``
            (``--quiet``), of the loggers of this project.
    """
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _ConsoleHandler):
            root.removeHandler(handler)
    root.addHandler(_ConsoleHandler(verbose=level <= logging.DEBUG))
    root.setLevel(logging.INFO if level <= logging.DEBUG else logging.WARNING)
    for package in OWN_PACKAGES:
        logging.getLogger(package).setLevel(level)
    limit_libraries()


def limit_libraries() -> None:
    """Set the levels of ``LIBRARY_LEVELS``, or INFO with ``--verbose``.

    A library sets its own level when it is imported, so call this after importing one of them.
    """
    for name in LIBRARY_LEVELS:
        logging.getLogger(name).setLevel(library_level(name))


def library_level(name: str) -> int:
    """Lowest level that is shown of a library in ``LIBRARY_LEVELS``."""
    verbose = _own_level() == logging.DEBUG
    return logging.INFO if verbose else LIBRARY_LEVELS[name]


def is_quiet() -> bool:
    """Whether ``--quiet`` hides progress."""
    return _own_level() >= logging.WARNING


def set_process_label(label: str) -> None:
    """Put ``[label]`` before every message of this process, for example ``rank 1 @ host``."""
    global _process_label
    _process_label = label


@contextmanager
def forwarded_records(path: Path) -> Iterator[None]:
    """Append this process's records from INFO on to a file, one JSON object a line.

    For workers whose standard streams the user does not see. The process that the user sees reads
    the file and passes each line to ``show_forwarded``.
    """
    handler = _ForwardingHandler(path)
    loggers = [logging.getLogger(package) for package in OWN_PACKAGES]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


def show_forwarded(line: str) -> None:
    """Log a record that another process wrote with ``forwarded_records``, under its label."""
    try:
        record = logging.makeLogRecord(json.loads(line))
    except (ValueError, TypeError):  # on a network file system a line can still be incomplete
        return
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)


def _own_level() -> int:
    """Level that ``configure_logging`` set; NOTSET if it was not called."""
    return logging.getLogger(OWN_PACKAGES[0]).level


def _label(record: logging.LogRecord) -> str:
    return getattr(record, "process_label", _process_label)


class _ConsoleHandler(logging.Handler):
    """Prints records as the table above says.

    The streams are looked up for each record: a live progress bar replaces them to print above it.
    """

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def emit(self, record: logging.LogRecord) -> None:
        is_own = record.name.partition(".")[0] in OWN_PACKAGES
        stream = sys.stdout if is_own and record.levelno == logging.INFO else sys.stderr
        try:
            print(self._line(record, is_own), file=stream, flush=True)
        except Exception:
            self.handleError(record)

    def _line(self, record: logging.LogRecord, is_own: bool) -> str:
        # An error of a driver can repeat the address it was given, with its password.
        text = without_password(self.format(record))
        level = record.levelname.lower()
        label = _label(record)
        if label:
            text = f"[{label}] {text}"
        if self._verbose:
            time = logging.Formatter().formatTime(record, "%H:%M:%S")
            return f"{time} {level} {record.name}: {text}"
        if not is_own:
            text = f"{record.name}: {text}"
        return text if record.levelno <= logging.INFO else f"{level}: {text}"


class _ForwardingHandler(logging.Handler):
    """Appends records to a file; opens it for each, so that several processes can share it."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.INFO)
        self._path = path

    def emit(self, record: logging.LogRecord) -> None:
        fields = {
            "levelname": record.levelname,
            "levelno": record.levelno,
            "process_label": _label(record),
            "name": record.name,
            "created": record.created,
            "msg": self.format(record),
        }
        # On a full disk the message stays in the log of the worker.
        with contextlib.suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")
