"""Kills at every write: the next build leaves every file as an undisturbed one does."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from corrfractal.files import storage
from tests.pipeline.growing import Growing

BASE = {"a.mp4": 0, "b.mp4": 1, "c.mp4": 2, "d.mp4": 3, "e.mp4": 4}
GROWN = {"a.mp4": 0, "b.mp4": 8, "d.mp4": 3, "e.mp4": 4, "f.mp4": 5}
OTHER = {"a.mp4": 9, "b.mp4": 8, "e.mp4": 4, "f.mp4": 5}

STEPS = ("write", "put", "remove")


class Killed(BaseException):
    """Stands for SIGKILL: no handler of errors sees it."""


@contextmanager
def killed_at(step: int) -> Iterator[list[str]]:
    """Raise ``Killed`` before the given write, upload or removal of a file; a file that was being
    written is left half-written under a temporary name. Yields the names of the steps so far."""
    done: list[str] = []

    def wrap(name: str) -> Any:
        real = getattr(storage, name)

        def wrapped(*arguments: Any) -> Any:
            done.append(f"{name} {Path(str(arguments[-1 if name != 'write' else 0])).name}")
            if len(done) == step:
                if name == "write":
                    path = Path(arguments[0])
                    path.with_name(f".{path.name}.99.tmp").write_bytes(arguments[1][:20])
                raise Killed
            return real(*arguments)

        return wrapped

    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(storage, name, wrap(name))
        yield done


def build_killed_at(growing: Growing, step: int) -> bool:
    """Whether the build was killed; False: it has fewer steps."""
    with killed_at(step):
        try:
            growing.build()
        except Killed:
            return True
    return False


@pytest.mark.parametrize("then", [BASE, GROWN], ids=["same", "changed"])
def test_a_first_build_that_is_killed_at_any_write_is_resumed_by_the_next(
    growing: Growing, then: dict[str, int]
) -> None:
    step = 0
    killed = True
    while killed:
        step += 1
        shutil.rmtree(growing.out, ignore_errors=True)
        growing.lay(BASE)
        killed = build_killed_at(growing, step)
        growing.lay(then)
        growing.build()
        assert growing.files() == growing.from_nothing(), f"killed at step {step}"
    assert step > 15


@pytest.mark.parametrize("then", [GROWN, OTHER, BASE], ids=["same", "changed", "reverted"])
def test_a_build_of_a_grown_folder_that_is_killed_at_any_write_is_resumed_by_the_next(
    growing: Growing, then: dict[str, int]
) -> None:
    growing.lay(BASE)
    growing.build()
    step = 0
    killed = True
    while killed:
        step += 1
        growing.lay(GROWN)
        killed = build_killed_at(growing, step)
        growing.lay(then)
        growing.build()
        assert growing.files() == growing.from_nothing(), f"killed at step {step}"
        growing.lay(BASE)
        growing.build()
        assert growing.files() == growing.from_nothing(), f"killed at step {step}"
    assert step > 15


def test_a_build_that_only_removes_shards_is_resumed_wherever_it_is_killed(
    growing: Growing,
) -> None:
    growing.lay({**BASE, "sub/z.mp4": 9})
    growing.build()
    step = 0
    killed = True
    while killed:
        step += 1
        growing.lay({name: BASE[name] for name in ("a.mp4", "b.mp4")})
        killed = build_killed_at(growing, step)
        growing.build()
        assert growing.files() == growing.from_nothing(), f"killed at step {step}"
        growing.lay({**BASE, "sub/z.mp4": 9})
        growing.build()
        assert growing.files() == growing.from_nothing(), f"killed at step {step}"
    assert step > 8
