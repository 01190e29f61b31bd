"""Models are found as files, folders, in the registry, or as baselines; none is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from corrfractal import CorrFractal, CorrFractalConfig
from corrfractal.common.errors import CallError, IntegrityError, NotFoundError
from corrfractal.network.tracker import TrackerConfig
from corrfractal.registry.score_log import log_scores
from corrfractal.registry.scores import Scores
from inference.load import open_model, resolve_model
from inference.reports.model_facts import describe_model


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A tiny network as a model file."""
    path = tmp_path / "model" / "artifacts" / "model.safetensors"
    CorrFractal(CorrFractalConfig(width=4, embedding_channels=4)).save(path)
    return path


def test_a_file_and_its_folder_are_the_same_model(weights: Path) -> None:
    by_file = resolve_model(str(weights))
    by_folder = resolve_model(str(weights.parents[1]))
    assert by_file.digest == by_folder.digest
    assert by_file.path == by_folder.path == weights
    assert isinstance(open_model(by_file), CorrFractal)


def test_only_safetensors_files_are_opened(tmp_path: Path, weights: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"pickle")
    with pytest.raises(CallError, match=r"model\.pt is not a \.safetensors file"):
        resolve_model(str(tmp_path / "model.pt"))
    (weights.parent / "second.safetensors").write_bytes(weights.read_bytes())
    with pytest.raises(CallError, match="exactly one"):
        resolve_model(str(weights.parent))


def test_a_damaged_file_is_named(weights: Path) -> None:
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        open_model(resolve_model(str(weights)))


def test_the_copy_baseline_repeats_the_mask_and_takes_annotations(
    moving_frames: np.ndarray,
) -> None:
    mask = np.zeros((160, 192), dtype=np.uint8)
    mask[:10] = 1
    tracker = open_model(resolve_model("baseline:copy")).tracker(
        moving_frames[0], mask, TrackerConfig()
    )
    np.testing.assert_array_equal(tracker.step(moving_frames[1]), mask)
    later = np.zeros_like(mask)
    later[5:15] = 2
    assert np.unique(tracker.step(moving_frames[2], mask=later)[:15:7, 0]).tolist() == [1, 2]


def test_copying_labels_repeats_them(moving_frames: np.ndarray) -> None:
    labels = np.random.default_rng(0).random((3, 160, 192), dtype=np.float32)
    tracker = open_model(resolve_model("baseline:copy")).label_tracker(
        moving_frames[0], labels, TrackerConfig()
    )
    np.testing.assert_array_equal(tracker.step_labels(moving_frames[1]), labels)


def test_the_untrained_baseline_is_always_the_same_network() -> None:
    source = resolve_model("baseline:untrained")
    first = open_model(source)
    second = open_model(source)
    assert isinstance(first, CorrFractal)
    assert isinstance(second, CorrFractal)
    for weight, repeated in zip(first.parameters(), second.parameters(), strict=True):
        np.testing.assert_array_equal(weight.detach().numpy(), repeated.detach().numpy())


@pytest.mark.parametrize(
    "name",
    ["models:/corrfractal@champion", "champion", "3", "runs:/" + "0" * 32 + "/model", "0" * 32],
)
def test_looking_for_a_model_creates_no_store(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    with pytest.raises(NotFoundError, match=r"mlflow\.db does not exist; train a model"):
        resolve_model(name)
    assert not store.exists()


def test_the_starter_is_the_announced_default_where_nothing_is_registered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert resolve_model(None) == resolve_model("starter")
    printed = capsys.readouterr().out
    assert "mlflow.db does not exist" in printed
    assert "starter model" in printed
    assert not (tmp_path / "mlflow.db").exists()


def test_the_starter_tracks_a_moving_window_better_than_copying(moving_frames: np.ndarray) -> None:
    mask = np.zeros(moving_frames.shape[1:3], dtype=np.uint8)
    mask[60:110, 80:140] = 1
    tracker = open_model(resolve_model("starter")).tracker(moving_frames[0], mask, TrackerConfig())
    for t in range(1, 9):
        predicted = tracker.step(moving_frames[t])
    truth = np.zeros_like(mask)
    truth[60 - 8 : 110 - 8, 80 - 24 : 140 - 24] = 1
    overlap = (predicted & truth).sum() / (predicted | truth).sum()
    assert overlap > 0.8 > (mask & truth).sum() / (mask | truth).sum()


@pytest.mark.parametrize("name", ["no/such/file", "baseline:magic", "champions"])
def test_an_unknown_name_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(
        NotFoundError, match=f"no such model: {name}; give a safetensors file"
    ) as caught:
        resolve_model(name)
    assert "\n" not in str(caught.value)


# A warning inside MLflow.
@pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy:sqlalchemy.exc.SADeprecationWarning"
)
def test_registered_models_are_found_by_alias_version_and_run_and_keep_their_scores(
    weights: Path, tmp_path: Path
) -> None:
    import mlflow

    store = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    try:
        client = mlflow.MlflowClient()
        experiment = client.create_experiment(
            "e", artifact_location=(tmp_path / "artifacts").as_uri()
        )
        run = client.create_run(experiment).info.run_id
        client.log_artifact(run, str(weights), "model/artifacts")
        client.create_registered_model("corrfractal")
        assert resolve_model(None) == resolve_model("starter")
        client.create_model_version("corrfractal", f"runs:/{run}/model", run)
        client.set_registered_model_alias("corrfractal", "candidate", "1")

        names = (None, "models:/corrfractal@candidate", "models:/corrfractal/1", "candidate", "1")
        found = [resolve_model(name) for name in names]
        assert {source.name for source in found} == {"models:/corrfractal/1"}
        by_run = resolve_model(run, tmp_path / "fetched")
        assert {source.digest for source in (*found, by_run)} == {
            resolve_model(str(weights)).digest
        }
        assert by_run.path is not None
        assert by_run.path.is_relative_to(tmp_path / "fetched")
        with pytest.raises(NotFoundError, match="no such model: models:/corrfractal/7"):
            resolve_model("models:/corrfractal/7")
        with pytest.raises(NotFoundError, match="no such model: models:/other@champion"):
            resolve_model("models:/other@champion")
        with pytest.raises(CallError, match="cannot read the model name"):
            resolve_model("models:/corrfractal")

        scores = Scores(
            dataset="davis2017-val",
            set_digest="a",
            settings="b",
            weights=by_run.digest,
            sequences=7,
            objects=8,
            J=0.5,
            F=0.7,
            at="2026-01-01T00:00:00+00:00",
        )
        log_scores(run, ("corrfractal", "1"), scores, {"J": 0.5})
        assert client.get_run(run).data.metrics["davis2017-val/JF"] == pytest.approx(0.6)
        assert client.get_model_version("corrfractal", "1").tags == {scores.tag: scores.to_text()}
        assert f"{scores.tag}.json" in {entry.path for entry in client.list_artifacts(run)}
        facts = describe_model(found[0])
        assert facts["version"] == "corrfractal/1 @candidate"
        assert facts["weights (SHA-256)"] == found[0].digest
        assert run in facts["MLflow run"]
    finally:
        mlflow.set_tracking_uri(store)
