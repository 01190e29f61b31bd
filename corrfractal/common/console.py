"""What a command prints: its result, its progress, and one JSON object with ``--json``.

``command`` turns a function into a command with the options that all commands share; the function
returns the result as a plain dictionary. ``say`` prints a line of the result. ``progress`` is the
progress bar of a loop. Everything else that the user may want to know is logged (``logs``). With
``--json`` standard output holds the JSON object and nothing else: what libraries print to it is
redirected to standard error.
"""

from __future__ import annotations

import errno
import functools
import json
import logging
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn, Protocol, TextIO

import click

from corrfractal.runtime.streams import lost, safe_writer
from corrfractal.runtime.surroundings import refuse_faults

from .errors import CallError, CorrFractalError
from .foreign_errors import describe_error
from .logs import configure_logging, is_quiet
from .text import without_password

LOG_EVERY_SECONDS = 10.0
REPORTER = "doctor"  # the command that reports settings that cannot work; the others refuse them

log = logging.getLogger(__name__)


def say(text: str = "") -> None:
    """Print one line of a command's result (to standard error under ``--json``).

    Messages about the work, which ``--quiet`` hides, are logged instead.
    """
    print(text, flush=True)


class Advance(Protocol):
    """Reports ``n`` more steps as done; ``note`` is shown beside the count."""

    def __call__(self, n: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield ``advance(n, note)``.

    Shown as a bar on a terminal, below whatever is printed meanwhile; otherwise as a line every ten
    seconds and one at the end; not at all with ``--quiet``.
    """
    if is_quiet():
        yield _ignore_progress
        return
    show = _bar if sys.stderr.isatty() else _lines
    with show(title, total) as advance:
        yield advance


def _ignore_progress(n: int, note: str = "") -> None:
    """An ``Advance`` that shows nothing."""


@contextmanager
def _lines(title: str, total: int) -> Iterator[Advance]:
    done = 0
    started = time.monotonic()
    last = started

    def advance(n: int, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        is_last = n > 0 and done == total
        if now - last < LOG_EVERY_SECONDS and not is_last:
            return
        last = now
        text = f"{title}: {done}/{total} in {now - started:.0f} s"
        if 0 < done < total:
            text += f", {_seconds_left(now - started, done, total):.0f} s left"
        if note:
            text += f"; {note}"
        print(text, file=sys.stderr, flush=True)

    yield advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
        TextColumn("{task.fields[note]}"),
    )
    done = 0
    started = time.monotonic()
    # rich prints above the bar what is written to a redirected stream. Standard output that is a
    # file must stay one.
    above = sys.stdout.isatty()
    with Progress(*columns, console=Console(stderr=True), redirect_stdout=above) as bar:
        task = bar.add_task(title, total=total, left="", note="")

        def advance(n: int, note: str = "") -> None:
            # rich's own estimate uses the steps of the last 30 seconds only; a shard takes longer.
            nonlocal done
            done += n
            left = ""
            if 0 < done < total:
                seconds = round(_seconds_left(time.monotonic() - started, done, total))
                left = f"{timedelta(seconds=seconds)} left"
            bar.update(task, advance=n, left=left, note=note)

        yield advance


def _seconds_left(elapsed: float, done: int, total: int) -> float:
    """Seconds that the remaining steps take at the average pace so far."""
    return elapsed * (total - done) / done


def command(function: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
    """Add ``--json``, ``--verbose``, ``--quiet`` and ``--debug`` to a command function, and turn
    its errors into a message and an exit code. Apply below the ``click`` decorators.

    A result with ``"ok": false`` is printed like any other, and the exit code is 1.
    """

    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object on standard output, nothing else.",
    )
    @click.option("-v", "--verbose", is_flag=True, help="Show details, with time and logger.")
    @click.option("-q", "--quiet", is_flag=True, help="Show results, warnings and errors only.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapper(
        *args: Any, as_json: bool, verbose: bool, quiet: bool, debug: bool, **kwargs: Any
    ) -> None:
        if verbose and quiet:
            raise click.UsageError("--verbose and --quiet exclude each other")
        _handle_signals()
        # Set inside the run of another program; our metrics would go to that run.
        os.environ.pop("MLFLOW_RUN_ID", None)
        stdout = _stdout_to_stderr() if as_json else None
        configure_logging(_level(verbose, quiet))
        try:
            _check_working_folder()
            if function.__name__ != REPORTER:
                refuse_faults("any")
            kwargs = {name: _checked(value) for name, value in kwargs.items()}
            result = function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as exc:
            if debug or isinstance(exc, click.ClickException):
                raise
            _fail(exc)
        if stdout is not None:
            stdout.write(json.dumps(result or {}, indent=2) + "\n")
            stdout.flush()
        failure = lost(stdout or sys.stdout)
        # A closed pipe is no failure: `| head -1` has read all it needs.
        if failure is not None and failure.errno != errno.EPIPE:
            log.warning("standard output is incomplete: %s", failure.strerror)
        if result is not None and result.get("ok") is False:
            sys.exit(1)

    return wrapper


def _level(verbose: bool, quiet: bool) -> int:
    if verbose:
        return logging.DEBUG
    return logging.WARNING if quiet else logging.INFO


def _fail(exc: BaseException) -> NoReturn:
    if isinstance(exc, KeyboardInterrupt):
        print("stopped; run the same command again to resume", file=sys.stderr)
        sys.exit(130)
    print(f"error: {without_password(describe_error(exc))}", file=sys.stderr)
    sys.exit(exc.exit_code if isinstance(exc, CorrFractalError) else 1)


def _checked(value: Any) -> Any:
    """A value of the command line, ``~`` expanded; raise a ``CallError`` for what would never end
    when it is read."""
    if isinstance(value, tuple):
        return tuple(_checked(item) for item in value)
    if not isinstance(value, str | Path):
        return value
    text = str(value)
    # The shell leaves it in `--out=~/shards`
    if text.startswith("~") and not os.path.lexists(text):
        value = type(value)(os.path.expanduser(text))  # noqa: PTH111
    try:
        mode = os.stat(value).st_mode  # noqa: PTH116 (a str stays one: it may be a URI)
    except (OSError, ValueError):
        return value
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise CallError(f"{value} is a pipe or a device: name a file or a folder")
    return value


def _check_working_folder() -> None:
    try:
        Path.cwd()
    except OSError as exc:
        raise CallError(
            "the working folder was deleted or cannot be read: cd to another one"
        ) from exc


def _handle_signals() -> None:
    """SIGTERM and the end of a terminal stop a command as Ctrl-C does; `nohup` keeps the latter
    from it."""
    signal.signal(signal.SIGTERM, _raise_interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _raise_interrupt)


def _raise_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stdout_to_stderr() -> TextIO:
    """Point file descriptor 1 at standard error, for child processes too; return the true standard
    output."""
    sys.stdout.flush()
    true_stdout = safe_writer(os.dup(1))
    os.dup2(2, 1)
    return true_stdout
