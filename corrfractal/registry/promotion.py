"""``champion`` moves through the gate, back by rollback, and every move is a tag of the registered
model.

A move is recorded right after the alias has moved. Whatever moves the alias without a record (a
hand in MLflow's pages, a process that died in between) shows in the history, and rollback undoes it
first.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from corrfractal.common.config import Config, config_from_dict
from corrfractal.common.errors import CallError, GateError, NotFoundError
from corrfractal.common.text import without_password

from .connection import mlflow_errors
from .gate import evaluate_gate
from .versions import CHAMPION, NAME, ModelVersion, list_models, name_filter, show

PREFIX = "move."


@dataclass(frozen=True, kw_only=True)
class Move(Config):
    """One move of ``champion``."""

    at: str
    """When, ISO 8601, UTC."""
    who: str
    """user@host."""
    action: str
    """``promote`` or ``rollback``."""
    before: int | None
    """Version that was champion, if any."""
    after: int
    """Version that became it."""
    why: str
    """Reason given by who did it."""
    scores: dict[str, Any] | None = None
    """What the gate compared: ``own`` and, if there was a champion, ``champion``; and the
    ``tolerance``."""


@dataclass(frozen=True, kw_only=True)
class History:
    """Moves, oldest first, and the champion as it is."""

    moves: tuple[Move, ...]
    champion: int | None

    @property
    def recorded(self) -> int | None:
        """The champion as the moves tell it."""
        return self.moves[-1].after if self.moves else None


def promote(
    model: str, uri: str, *, dataset: str, tolerance: float = 0.0, why: str = "", name: str = NAME
) -> tuple[ModelVersion, Move]:
    """Make a version champion.

    Args:
        model: as in ``registry.show``.
        uri: MLflow store.
        dataset: name of the evaluation set that decides.
        tolerance: J&F that may be lost, a fraction.
        why: kept with the move.

    Raises:
        NotFoundError: no such version.
        CallError: it is champion already.
        GateError: it may not; names every reason. Nothing has moved.
    """
    version, champion = show(model, uri), _champion(uri, name)
    if champion is not None and champion.version == version.version:
        raise CallError(f"{version.uri} is champion already")
    gate = evaluate_gate(version, champion, dataset, tolerance)
    if gate.reasons:
        raise GateError(f"{version.uri} may not become champion: " + "; ".join(gate.reasons))
    compared = {"own": gate.scores, "champion": gate.baseline}
    scores = {key: asdict(value) for key, value in compared.items() if value is not None}
    before = champion.version if champion else None
    return _move(
        uri, name, "promote", before, version.version, why, {**scores, "tolerance": tolerance}
    )


def rollback(uri: str, *, why: str = "", name: str = NAME) -> tuple[ModelVersion, Move]:
    """Make the champion before this one champion again; or, where the alias was moved without a
    record, undo that.

    Raises:
        CallError: there was none before.
        NotFoundError: that version is gone.
    """
    past = history(uri, name)
    if past.moves and past.champion != past.recorded:
        target = past.recorded
    else:
        standing = _standing(past.moves)
        target = standing[-2] if len(standing) > 1 else None
    if target is None:
        raise CallError(
            f"no champion of {name} was promoted before this one: there is nothing to go back to"
        )
    show(f"{name}/{target}", uri)
    return _move(uri, name, "rollback", past.champion, target, why, None)


def history(uri: str, name: str = NAME) -> History:
    """All recorded moves, oldest first."""
    import mlflow

    champion = _champion(uri, name)
    with mlflow_errors():
        found = mlflow.MlflowClient().search_registered_models(name_filter(name))
    if not found:
        raise NotFoundError(
            f"no model '{name}' is registered in {without_password(uri)}: `corrfractal train` "
            "registers one"
        )
    tags = sorted((tag, text) for tag, text in found[0].tags.items() if tag.startswith(PREFIX))
    return History(
        moves=tuple(
            config_from_dict(Move, json.loads(text), where=f"tag {tag} of {name}")
            for tag, text in tags
        ),
        champion=champion.version if champion else None,
    )


def _standing(moves: Sequence[Move]) -> list[int]:
    """Champions one above the other: a promotion puts one on top, a rollback takes down to its own."""
    stack: list[int] = []
    for move in moves:
        if move.action == "rollback" and move.after in stack:
            while stack[-1] != move.after:
                stack.pop()
        else:
            stack.append(move.after)
    return stack


def _champion(uri: str, name: str) -> ModelVersion | None:
    return next(
        (version for version in list_models(uri, name) if CHAMPION in version.aliases), None
    )


def _move(
    uri: str,
    name: str,
    action: str,
    before: int | None,
    after: int,
    why: str,
    scores: dict[str, Any] | None,
) -> tuple[ModelVersion, Move]:
    import mlflow

    now = datetime.now(UTC)
    at = now.isoformat(timespec="seconds")
    move = Move(
        at=at, who=_who(), action=action, before=before, after=after, why=why, scores=scores
    )
    client = mlflow.MlflowClient()
    with mlflow_errors():
        client.set_registered_model_alias(name, CHAMPION, str(after))
        client.set_registered_model_tag(
            name, f"{PREFIX}{now:%Y%m%dT%H%M%S.%f}", json.dumps(asdict(move))
        )
    return show(f"{name}/{after}", uri), move


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"
