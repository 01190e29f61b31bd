"""``champion`` changes only through the gate or a rollback, and every move is recorded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner, Result

from corrfractal.__main__ import main
from corrfractal.common.errors import CallError, GateError
from corrfractal.registry.names import CHAMPION, PROJECT
from corrfractal.registry.promotion import history, promote, rollback
from corrfractal.registry.score_log import log_scores
from corrfractal.registry.scores import Scores
from corrfractal.registry.versions import find_version

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

SET = "davis2017-val"


def note(store: str, version: int, JF: float, **changes: str) -> None:
    """Note a score on a version as an evaluation does."""
    found = find_version(str(version), store)
    scores = Scores(
        dataset=SET,
        set_digest="a" * 64,
        settings="b" * 64,
        weights=found.weights_sha256,
        sequences=7,
        objects=8,
        J=JF,
        F=JF,
        at="2026-01-01T00:00:00+00:00",
    )
    log_scores(found.run_id, (PROJECT, str(version)), replace(scores, **changes), {"JF": JF})


def champion(store: str) -> int | None:
    return history(store).champion


def models(store: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["models", *arguments, "--tracking-uri", store])


def test_a_version_that_was_not_evaluated_is_refused_with_the_command_to_run(store: str) -> None:
    refused = models(store, "promote", "2")
    assert refused.exit_code == 1
    assert "it has no scores on davis2017-val" in refused.output
    assert (
        "run `corrfractal evaluate davis --data DIR --model models:/corrfractal/2`"
        in refused.output
    )
    assert champion(store) is None
    assert history(store).moves == ()


def test_champion_moves_to_what_is_not_worse_and_every_move_is_kept(store: str) -> None:
    note(store, 1, 0.5)
    note(store, 2, 0.49)
    promote("1", store, dataset=SET, why="the first")
    with pytest.raises(
        GateError,
        match=r"J&F 49\.00 % on davis2017-val, the champion models:/corrfractal/1 has 50\.00 %",
    ):
        promote("2", store, dataset=SET)
    assert champion(store) == 1
    with pytest.raises(CallError, match="is champion already"):
        promote("1", store, dataset=SET)

    version, move = promote("candidate", store, dataset=SET, tolerance=0.011, why="smaller")
    assert CHAMPION in version.aliases
    assert champion(store) == version.version == 2
    assert (move.before, move.after, move.why) == (1, 2, "smaller")
    assert move.scores is not None
    assert (move.scores["own"]["J"], move.scores["champion"]["J"], move.scores["tolerance"]) == (
        0.49,
        0.5,
        0.011,
    )

    assert rollback(store, why="regret")[0].version == champion(store) == 1
    with pytest.raises(CallError, match="nothing to roll back to"):
        rollback(store)
    told = models(store, "history").output.splitlines()
    assert [line.split("  ")[1].strip() for line in told] == ["promote", "promote", "rollback"]
    assert "champion 1 -> 2" in told[1]
    assert "J&F 49.00 against 50.00" in told[1]
    assert told[2].endswith("(regret)")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"set_digest": "c" * 64},
            "the champion, .*/1, has no scores on davis2017-val of the same files",
        ),
        (
            {"settings": "c" * 64},
            "the champion, .*/1, has no scores on davis2017-val of the same files",
        ),
        ({"weights": "c" * 64}, "it has no scores on davis2017-val"),
        ({"dataset": "mine"}, "it has no scores on davis2017-val"),
    ],
)
def test_unlike_is_never_compared_with_like(store: str, changes: dict[str, str], said: str) -> None:
    note(store, 1, 0.5)
    promote("1", store, dataset=SET)
    note(store, 2, 0.9, **changes)
    with pytest.raises(GateError, match=said):
        promote("2", store, dataset=SET)
    assert champion(store) == 1


def test_what_is_wrong_with_a_version_is_named_all_at_once(
    store: str, registered: tuple[Path, list[Path]]
) -> None:
    (weights,) = Path(registered[0].parent / "mlartifacts").glob(
        f"models/{_model_id(store, 2)}/artifacts/artifacts/model.safetensors"
    )
    whole = weights.read_bytes()
    mlflow.MlflowClient().delete_model_version_tag(PROJECT, "2", "shards.digest")
    try:
        weights.write_bytes(whole[:-8] + bytes(8))
        with pytest.raises(GateError) as caught:
            promote("2", store, dataset=SET)
    finally:
        weights.write_bytes(whole)
    for reason in (
        "its data set is unknown",
        "its weights are not those that were registered",
        "it has no scores on",
    ):
        assert reason in str(caught.value)


def test_an_alias_moved_by_hand_shows_and_rollback_undoes_it(store: str) -> None:
    note(store, 1, 0.5)
    promote("1", store, dataset=SET)
    mlflow.MlflowClient().set_registered_model_alias(PROJECT, CHAMPION, "2")
    told = models(store, "history")
    assert "champion is version 2, without a recorded move" in told.output
    assert rollback(store)[0].version == 1
    assert history(store).moves[-1].before == 2


def _model_id(store: str, version: int) -> str:
    mlflow.set_tracking_uri(store)
    return str(mlflow.MlflowClient().get_model_version(PROJECT, str(version)).source).removeprefix(
        "models:/"
    )
