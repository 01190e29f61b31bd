"""What a command shows: progress on a terminal, plain lines otherwise, one JSON object with ``--json``.

``say`` prints a line for the user. ``progress`` wraps a loop. ``command`` turns a function into a command with the two
options that all commands share, ``--json`` and ``--debug``; the function returns the result as a plain dictionary.
Everything but that one JSON object goes to standard error when ``--json`` is given, whatever a library prints.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Protocol

import click

from .errors import CorrFractalError
from .runtime import without_password

LOG_EVERY_SECONDS = 10.0


def say(text: str = "") -> None:
    """Print one line for the user (to standard error under ``--json``)."""
    print(text, flush=True)


class Advance(Protocol):
    """Tells of ``n`` more steps done; ``note`` is shown beside the count."""

    def __call__(self, n: int, note: str = "") -> None: ...


@contextmanager
def progress(title: str, total: int) -> Iterator[Advance]:
    """Yield ``advance(n, note)``. A bar on a terminal; otherwise a line every ten seconds and one at the end."""
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
            print(f"{title}: {done}/{total} in {now - started:.0f} s{left}{more}", file=sys.stderr, flush=True)

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
            # rich forgets steps older than half a minute, and then has no estimate: a shard takes longer
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

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output, nothing else.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, debug: bool, **kwargs: Any) -> None:
        signal.signal(signal.SIGTERM, _raise_interrupt)
        stdout = _stdout_to_stderr() if as_json else None
        try:
            result = function(*args, **kwargs)
        except (Exception, KeyboardInterrupt) as exc:
            if debug or isinstance(exc, click.ClickException):
                raise
            _fail(exc)
        if stdout is not None:
            stdout.write(json.dumps(result or {}, indent=2) + "\n")
            stdout.flush()
        if result is not None and result.get("ok") is False:
            sys.exit(1)

    return wrapper


def _fail(exc: BaseException) -> None:
    said = without_password(str(exc))
    if isinstance(exc, CorrFractalError):
        print(f"error: {said}", file=sys.stderr)
        sys.exit(exc.exit_code)
    if isinstance(exc, KeyboardInterrupt):
        print("stopped; run the same command again to go on", file=sys.stderr)
        sys.exit(130)
    if isinstance(exc, OSError):  # a full disk, a store out of reach: not a mistake of ours
        where = f": {exc.filename}" if exc.filename else ""
        print(f"error: {exc.strerror or exc}{where}", file=sys.stderr)
        sys.exit(1)
    if "mlflow" in sys.modules:
        from .tracking import is_store_error, shown_store, store_error

        if is_store_error(exc):
            print(f"error: {store_error(exc, shown_store())}", file=sys.stderr)
            sys.exit(1)
    print(
        f"error: unexpected {type(exc).__name__}: {said} (run again with --debug for the traceback)",
        file=sys.stderr,
    )
    sys.exit(1)


def _raise_interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _stdout_to_stderr() -> Any:
    """Point file descriptor 1 at standard error, for child processes too; return the true standard output."""
    sys.stdout.flush()
    true_stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return true_stdout
