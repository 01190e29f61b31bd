"""What a command shows: progress on a terminal, plain lines otherwise, one JSON object with
``--json``.

``say`` prints a line for the user. ``progress`` wraps a loop. ``command`` turns a function into a
command with the two options that all commands share, ``--json`` and ``--debug``; the function
returns the result as a plain dictionary. Everything but that one JSON object goes to standard error
when ``--json`` is given, whatever a library prints.
"""

from __future__ import annotations

import errno
import functools
import json
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

from .errors import CallError, CorrFractalError
from .foreign_errors import describe_error
from .streams import lost, safe_writer
from .surroundings import refuse_faults
from .text import without_password

LOG_EVERY_SECONDS = 10.0
REPORTER = "doctor"  # the command that reports settings that cannot work; the others refuse them


def say(text: str = "") -> None:
    """Print one line for the user (to standard error under ``--json``)."""
    print(text, flush=True)


class Advance(Protocol):
    """Tells of ``n`` more steps done; ``note`` is shown beside the count."""

    def __call__(self, n: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield ``advance(n, note)``. A bar on a terminal; otherwise a line every ten seconds and one
    at the end."""
    with (_bar if sys.stderr.isatty() else _lines)(title, total) as advance:
        yield advance


@contextmanager
def _lines(title: str, total: int) -> Iterator[Advance]:
    done, started, last = 0, time.monotonic(), time.monotonic()

    def advance(n: int, note: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS or (n and done == total):
            last = now
            left = f", {_left(now - started, done, total):.0f} s left" if 0 < done < total else ""
            more = f"; {note}" if note else ""
            print(
                f"{title}: {done}/{total} in {now - started:.0f} s{left}{more}",
                file=sys.stderr,
                flush=True,
            )

    yield advance


@contextmanager
def _bar(title: str, total: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    done, started = 0, time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, left="", note="")

        def advance(n: int, note: str = "") -> None:
            # rich forgets steps older than half a minute, and then has no estimate: a shard takes
            #     longer
            nonlocal done
            done += n
            seconds = round(_left(time.monotonic() - started, done, total)) if done else 0
            left = f"{timedelta(seconds=seconds)} left" if 0 < done < total else ""
            bar.update(task, advance=n, left=left, note=note)

        yield advance


def _left(elapsed: float, done: int, total: int) -> float:
    """Seconds that the rest will take at the pace so far."""
    return elapsed * (total - done) / done


def command(function: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
    """Give a command function ``--json`` and ``--debug``. Apply below the ``click`` decorators.

    A result with ``"ok": false`` is shown like any other, and the exit code is 1.
    """

    @click.option(
        "--json",
        "as_json",
        is_flag=True,
        help="Print one JSON object on standard output, nothing else.",
    )
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        _handle_signals()
        os.environ.pop("MLFLOW_RUN_ID", None)  # of a run around us: ours would end in it
        stdout = _stdout_to_stderr() if as_json else None
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
        # `| head -1` has read what it wanted
        if failure is not None and failure.errno != errno.EPIPE:
            print(f"warning: standard output is incomplete: {failure.strerror}", file=sys.stderr)
        if result is not None and result.get("ok") is False:
            sys.exit(1)

    return wrapper


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
