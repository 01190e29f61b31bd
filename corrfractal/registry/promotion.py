"""Move the alias ``champion``: forward through the gate, back by rollback; keep every move.

A move is a tag of the registered model, written right after the alias. A change of the alias
without a tag (in MLflow's pages, or by a process that died between both) is shown by the history,
and the next rollback undoes it first.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from corrfractal.common.config import Config, config_from_dict
from corrfractal.common.errors import CallError, GateError, NotFoundError
from corrfractal.common.text import without_password

from .connection import open_store
from .gate import evaluate_gate
from .mlflow_errors import NoSuchVersionError, mlflow_errors
from .names import CHAMPION, MOVE_PREFIX, PROJECT
from .versions import ModelVersion, find_registered_model, find_version


@dataclass(frozen=True, kw_only=True)
class Move(Config):
    """One move of ``champion``."""

    at: str
    """When, ISO 8601, UTC."""
    who: str
    """user@host."""
    action: Literal["promote", "rollback"]
    before: int | None
    """Previous champion, if any."""
    after: int
    """New champion."""
    why: str
    """Reason given by the user."""
    scores: dict[str, Any] | None = None
    """What the gate compared: ``own``, ``champion`` if there was one, and ``tolerance``."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Recorded moves, oldest first, and the version that has the alias now."""

    moves: tuple[Move, ...]
    champion: int | None

    @property
    def recorded(self) -> int | None:
        """The champion according to the moves; differs if the alias was moved by hand."""
        return self.moves[-1].after if self.moves else None


def promote(
    model: str,
    uri: str,
    *,
    dataset: str,
    tolerance: float = 0.0,
    why: str = "",
    name: str = PROJECT,
) -> tuple[ModelVersion, Move]:
    """Make a version champion if it passes the gate.

    Args:
        model: as in ``versions.parse_model_name``.
        uri: MLflow store.
        dataset: name of the evaluation set that decides.
        tolerance: accepted loss of J&F, a fraction.
        why: reason, kept with the move.
        name: registered model.

    Raises:
        NotFoundError: no such version.
        CallError: it is the champion already.
        GateError: it does not pass; names every reason, and nothing has changed.
    """
    version = find_version(model, uri)
    champion = _find_champion(uri, name)
    if champion is not None and champion.version == version.version:
        raise CallError(f"{version.uri} is champion already")

    gate = evaluate_gate(version, champion, dataset, tolerance)
    if gate.reasons:
        raise GateError(f"{version.uri} may not become champion: " + "; ".join(gate.reasons))

    compared: dict[str, Any] = {}
    if gate.scores is not None:
        compared["own"] = asdict(gate.scores)
    if gate.baseline is not None:
        compared["champion"] = asdict(gate.baseline)
    compared["tolerance"] = tolerance
    before = champion.version if champion else None
    return _move_champion(uri, name, "promote", before, version.version, why, compared)


def rollback(uri: str, *, why: str = "", name: str = PROJECT) -> tuple[ModelVersion, Move]:
    """Restore the previous champion; if the alias was moved by hand, undo that instead.

    Args:
        uri: MLflow store.
        why: reason, kept with the move.
        name: registered model.

    Raises:
        CallError: there was no previous champion.
        NotFoundError: that version no longer exists.
    """
    past = history(uri, name)
    # A change without a move is undone first: the moves describe the champion before it.
    if past.moves and past.champion != past.recorded:
        target = past.recorded
    else:
        stack = _champion_stack(past.moves)
        target = stack[-2] if len(stack) > 1 else None
    if target is None:
        raise CallError(f"no earlier champion of {name} is recorded: nothing to roll back to")

    # The version may have been deleted since.
    find_version(f"{name}/{target}", uri)
    return _move_champion(uri, name, "rollback", past.champion, target, why, None)


def history(uri: str, name: str = PROJECT) -> History:
    """All recorded moves of ``champion``, and the current one.

    Raises:
        NotFoundError: no such registered model.
    """
    registered = None
    if open_store(uri):
        with mlflow_errors():
            registered = find_registered_model(name)
    if registered is None:
        raise NotFoundError(
            f"no model '{name}' is registered in {without_password(uri)}: `corrfractal train` "
            "registers one"
        )

    # Tag names end with the time, so sorting by name gives the order of the moves.
    moves = [
        config_from_dict(Move, json.loads(text), where=f"tag {tag} of {name}")
        for tag, text in sorted(registered.tags.items())
        if tag.startswith(MOVE_PREFIX)
    ]
    champion = registered.aliases.get(CHAMPION)
    return History(moves=tuple(moves), champion=None if champion is None else int(champion))


def _champion_stack(moves: Sequence[Move]) -> list[int]:
    """Champions as a stack: a promotion pushes its version, a rollback pops down to its own."""
    stack: list[int] = []
    for move in moves:
        if move.action == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        else:
            stack.append(move.after)
    return stack


def _find_champion(uri: str, name: str) -> ModelVersion | None:
    try:
        return find_version(f"{name}@{CHAMPION}", uri)
    except NoSuchVersionError:
        return None


def _move_champion(
    uri: str,
    name: str,
    action: Literal["promote", "rollback"],
    before: int | None,
    after: int,
    why: str,
    scores: dict[str, Any] | None,
) -> tuple[ModelVersion, Move]:
    import mlflow

    now = datetime.now(UTC)
    move = Move(
        at=now.isoformat(timespec="seconds"),
        who=_current_user(),
        action=action,
        before=before,
        after=after,
        why=why,
        scores=scores,
    )
    tag = f"{MOVE_PREFIX}{now:%Y%m%dT%H%M%S.%f}"
    with mlflow_errors():
        client = mlflow.MlflowClient()
        # Alias first: a crash in between leaves a visible change without a move. The reverse order
        # would record a move that never happened, and a rollback would act on it.
        client.set_registered_model_alias(name, CHAMPION, str(after))
        client.set_registered_model_tag(name, tag, json.dumps(asdict(move)))
    return find_version(f"{name}/{after}", uri), move


def _current_user() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user id without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
