"""Looking up versions costs a constant number of requests, and every spelling of a name works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow.tracking._model_registry import fluent
from requests.adapters import HTTPAdapter

from corrfractal.__main__ import main
from corrfractal.common.errors import NotFoundError
from corrfractal.registry import versions, weights
from corrfractal.registry.connection import open_experiment
from corrfractal.registry.names import CANDIDATE, CHAMPION, PROJECT
from corrfractal.registry.promotion import history
from corrfractal.registry.versions import find_version, list_models, parse_model_name
from tests.tracking_server import TrackingServer

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A real MLflow server."""
    before = mlflow.get_tracking_uri()
    server = TrackingServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.stop()
    mlflow.set_tracking_uri(before)


@pytest.fixture
def server(running: TrackingServer) -> str:
    """Its address."""
    return f"http://{running.address}"


def add_versions(running: TrackingServer, count: int) -> None:
    """Register versions until there are ``count``, each with a run of its own and its metrics.

    The newest one is the candidate. They are written to the server's database: over HTTP they would
    take a minute.
    """
    client = mlflow.MlflowClient(f"sqlite:///{running.folder / 'server.db'}")
    if not client.search_registered_models(f"name = '{PROJECT}'"):
        client.create_registered_model(PROJECT)
    existing = len(client.search_model_versions(f"name = '{PROJECT}'"))
    for number in range(existing + 1, count + 1):
        run_id = client.create_run("0").info.run_id
        client.log_metric(run_id, "loss", number / 100)
        client.create_model_version(PROJECT, "s3://bucket/model", run_id, await_creation_for=0)
    client.set_registered_model_alias(PROJECT, CANDIDATE, str(max(existing, count)))


@contextmanager
def counted_requests(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths of all HTTP requests that MLflow sends within the block."""
    sent: list[str] = []
    send = HTTPAdapter.send

    def record(adapter: HTTPAdapter, request: Any, *arguments: Any, **options: Any) -> Any:
        sent.append(request.path_url)
        return send(adapter, request, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(HTTPAdapter, "send", record)
        yield sent


def test_the_number_of_requests_does_not_grow_with_the_number_of_versions(
    running: TrackingServer, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: dict[str, Callable[[], object]] = {
        "list": lambda: list_models(server, metrics=False),
        "list with metrics": lambda: list_models(server),
        "show": lambda: find_version("1", server),
        "alias": lambda: find_version(CANDIDATE, server),
        "history": lambda: history(server),
    }
    counts: dict[str, list[int]] = {name: [] for name in lookups}
    for count in (1, 10, 50):
        add_versions(running, count)
        for name, look_up in lookups.items():
            with counted_requests(monkeypatch) as sent:
                look_up()
            counts[name].append(len(sent))

        found = list_models(server)
        assert [version.version for version in found] == list(range(count, 0, -1))
        assert [version.metrics["loss"] for version in found] == [
            version.version / 100 for version in found
        ]
        assert found[0].aliases == (CANDIDATE,)
        assert find_version(CANDIDATE, server) == found[0]
    expected = {"list": 2, "list with metrics": 4, "show": 3, "alias": 3, "history": 1}
    assert counts == {name: [requests] * 3 for name, requests in expected.items()}


def test_the_list_reads_metrics_for_json_only(
    running: TrackingServer, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_versions(running, 2)
    for options, expected in (([], False), (["--json"], True)):
        with counted_requests(monkeypatch) as sent:
            arguments = ["models", "list", "--tracking-uri", server, *options]
            result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 0
        assert any("runs/search" in path for path in sent) == expected


def test_the_code_of_a_model_is_not_searched_for_its_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for folder in ("artifacts", "code/corrfractal/network", "code/corrfractal/video"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "artifacts" / "model.safetensors").touch()
    (tmp_path / "code" / "corrfractal" / "x.safetensors").touch()
    listed = []
    list_artifacts = mlflow.artifacts.list_artifacts

    def record(artifact_uri: str) -> Any:
        listed.append(Path(artifact_uri).name)
        return list_artifacts(artifact_uri=artifact_uri)

    monkeypatch.setattr(mlflow.artifacts, "list_artifacts", record)
    found = weights.download_weights(str(tmp_path), None)
    assert found == tmp_path / "artifacts" / "model.safetensors"
    assert listed == [tmp_path.name, "artifacts"]


def test_a_server_shows_the_experiment_as_model_training(server: str) -> None:
    experiment = open_experiment(server)
    tags = mlflow.MlflowClient(server).get_experiment(experiment).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"


def test_versions_and_runs_on_several_pages_are_all_listed(
    running: TrackingServer, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_versions(running, 12)
    expected = list_models(server)
    monkeypatch.setattr(fluent, "SEARCH_MODEL_VERSION_MAX_RESULTS_DEFAULT", 5)
    monkeypatch.setattr(versions, "RUNS_PER_REQUEST", 5)
    with counted_requests(monkeypatch) as sent:
        assert list_models(server) == expected
    pages = -(-len(expected) // 5)
    assert sum("model-versions/search" in path for path in sent) == pages
    assert sum("runs/search" in path for path in sent) == pages


def test_a_version_without_run_or_with_one_of_another_experiment_is_listed(server: str) -> None:
    client = mlflow.MlflowClient(server)
    name = "by hand"
    client.create_registered_model(name)
    elsewhere = client.create_run(client.create_experiment("elsewhere"))
    client.log_metric(elsewhere.info.run_id, "loss", 0.5)
    client.delete_run(elsewhere.info.run_id)
    assert client.get_run(elsewhere.info.run_id).info.lifecycle_stage == "deleted"
    for run_id in (elsewhere.info.run_id, None, "it's gone"):
        client.create_model_version(name, "s3://bucket/model", run_id, await_creation_for=0)
    metrics = [version.metrics for version in reversed(list_models(server, name))]
    assert metrics == [{"loss": 0.5}, {}, {}]


@pytest.mark.parametrize(
    ("model", "parsed"),
    [
        ("3", (PROJECT, 3)),
        (CHAMPION, (PROJECT, CHAMPION)),
        ("other/3", ("other", 3)),
        ("other@champion", ("other", CHAMPION)),
        ("models:/other/3", ("other", 3)),
        ("models:/other@champion", ("other", CHAMPION)),
        ("9" * 30, (PROJECT, "9" * 30)),
        ("²", (PROJECT, "²")),
    ],
)
def test_every_spelling_of_a_model_name_is_parsed(
    model: str, parsed: tuple[str, int | str]
) -> None:
    assert parse_model_name(model) == parsed


@pytest.mark.parametrize("model", ["99", "9" * 30, "²", "", "nobody", "other/1", "models:/m-1"])
def test_a_version_that_does_not_exist_is_an_error_that_lists_the_existing_ones(
    running: TrackingServer, server: str, model: str
) -> None:
    add_versions(running, 1)
    with pytest.raises(NotFoundError, match=r"existing versions: .*models list") as caught:
        find_version(model, server)
    assert "\n" not in str(caught.value)
