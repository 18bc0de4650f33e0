from __future__ import annotations

import json
import math
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from kcv.config import TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking import DataRecord, MlflowTracker, NoTracker, open_tracker
from kcv.tracking.mlflow_records import reserved_tags

Messages = Callable[[], list[str]]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a database in it: making one takes MLflow some seconds."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KCV_CACHE_DIR", str(folder / "cache"))
        tracker = MlflowTracker(f"sqlite:///{folder}/mlflow.db", "kcv")
        tracker.start("first", {}, {})
        tracker.finish()
    return folder


@pytest.mark.filterwarnings("ignore")  # the test reads through MLflow's client itself
def test_a_run_is_all_there_afterwards(
    store: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(store)
    tracker = open_tracker(TrackingConfig())
    assert tracker.location == f"sqlite:///{store}/mlflow.db"
    params = {f"key.{i}": i for i in range(150)} | {"text": "x" * 20_000, "nothing": None}
    tracker.start("mine", params, {"device": "cpu"})
    for epoch, loss in enumerate((2.0, 1.0, math.nan), start=1):
        tracker.log_metrics({"loss": loss, "val_accuracy": epoch / 10}, step=epoch)
    plots = store / "plots"
    plots.mkdir()
    (plots / "curve.png").write_bytes(b"png")
    single = store / "model.keras"
    single.write_bytes(b"model")
    tracker.log_artifacts(plots)
    tracker.log_artifacts(single)
    tracker.finish("FINISHED")
    tracker.finish("FAILED")  # the second says nothing

    assert capfd.readouterr() == ("", "")

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=tracker.location)
    experiment = client.get_experiment_by_name("kcv")
    assert experiment is not None
    assert experiment.artifact_location == (store / "mlartifacts").as_uri()
    (run,) = client.search_runs([experiment.experiment_id], "attributes.run_name = 'mine'")
    assert run.info.status == "FINISHED"
    assert run.data.params["key.149"] == "149"
    assert run.data.params["nothing"] == "None"
    assert set(run.data.params["text"]) == {"x"}
    assert run.data.tags["device"] == "cpu"
    history = client.get_metric_history(run.info.run_id, "val_accuracy")
    assert [(point.step, point.value) for point in history] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    assert sorted(file.path for file in client.list_artifacts(run.info.run_id)) == ["curve.png", "model.keras"]


def test_a_database_that_breaks_later_gets_the_rest_with_the_next_run(
    store: Path, monkeypatch: pytest.MonkeyPatch, messages: Messages, spools: Path, until: Until
) -> None:
    uri = f"sqlite:///{store}/mlflow.db"
    tracker = MlflowTracker(uri, "kcv")
    tracker.start("breaks", {}, {})
    run_id = tracker.state_dict()["run"]

    def fail(*_: object, **__: object) -> None:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.MlflowClient.log_batch", fail)
        patch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.5)
        tracker.log_metrics({"loss": 1.0}, step=1)
        tracker.log_metrics({"loss": 0.5}, step=2)
        tracker.finish()
    (spool,) = spools.glob("*.jsonl")
    assert messages() == [
        f"tracking: {uri}: the disk is gone; the training goes on, and its entries wait in {spool}",
        f"tracking: 3 entries for {uri} wait in {spool}; the next run with this store delivers them",
    ]
    until(lambda: not [thread for thread in threading.enumerate() if thread.name == "kcv-tracking"])
    following = MlflowTracker(uri, "kcv")
    following.start("follows", {}, {})
    following.finish()

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    assert run_id is not None
    assert [(point.step, point.value) for point in client.get_metric_history(run_id, "loss")] == [(1, 1.0), (2, 0.5)]
    assert client.get_run(run_id).info.status == "FINISHED"
    assert list(spools.iterdir()) == []


@pytest.mark.filterwarnings("ignore")  # the test reads through MLflow's client itself
def test_a_run_has_its_data_sets_and_the_tags_that_the_page_shows(
    store: Path, monkeypatch: pytest.MonkeyPatch, messages: Messages
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "anna")
    uri, commit = f"sqlite:///{store}/mlflow.db", "4fe2" * 10
    counts = {"cat": 70, "dog": 50}
    records = [
        DataRecord("photos", "train", "a" * 32, "/data/photos", "path", 120, 32, "f" * 64, counts),
        DataRecord("photos", "test", "b" * 32, "https://host/photos.zip", "url", 30, 32, "f" * 64, {}),
        DataRecord("digits", "val", "c" * 32, "digits", "name", 20, 8, "e" * 64, {}),
        DataRecord("hf:a/b", "val", "d" * 32, "hf:a/b", "url", 20, 8, "e" * 64, {}),
        DataRecord("x", "val", "0" * 32, "s3://bucket/x", "url", 20, 8, "e" * 64, {}),
    ]
    tracker = MlflowTracker(uri, "kcv")
    tracker.start("data", {}, {"device": "cpu", "git_commit": f"{commit}-dirty", "note": "resnet50 on photos"})
    tracker.log_datasets(records)
    tracker.finish("KILLED")

    from mlflow import MlflowClient
    from mlflow.data import get_source
    from mlflow.data.schema import TensorDatasetSchema

    client = MlflowClient(tracking_uri=uri)
    run_id = str(tracker.state_dict()["run"])
    client.set_tag(run_id, "mlflow.note.content", "edited on the page")
    monkeypatch.setattr("getpass.getuser", lambda: "bert")
    resumed = MlflowTracker(uri, "kcv")
    resumed.load_state_dict(tracker.state_dict())
    resumed.start("data", {}, {"device": "cpu", "git_commit": commit, "note": "resnet50 on photos"})
    resumed.log_datasets(records)
    resumed.finish()

    run = client.get_run(run_id)
    tags = run.data.tags
    assert (tags["mlflow.user"], run.info.user_id) == ("anna", "anna")
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("kcv", "LOCAL")
    assert (tags["mlflow.source.git.commit"], tags["mlflow.source.git.dirty"]) == (commit, "true")
    assert tags["mlflow.note.content"] == "edited on the page"
    assert "note" not in tags
    inputs = {one.dataset.digest: one for one in run.inputs.dataset_inputs}
    assert len(run.inputs.dataset_inputs) == len(inputs) == 5
    for record in records:
        assert inputs[record.digest].dataset.name == record.name
        assert [(tag.key, tag.value) for tag in inputs[record.digest].tags] == [("mlflow.data.context", record.split)]
    sources = [get_source(inputs[record.digest].dataset).to_dict() for record in records]
    assert sources[:2] == [{"uri": "/data/photos"}, {"url": "https://host/photos.zip"}]
    assert sources[2]["tags"]["data.source"] == "digits"
    assert (sources[3]["path"], sources[4]) == ("a/b", {"uri": "s3://bucket/x"})
    train = inputs["a" * 32].dataset
    profile = json.loads(train.profile)
    assert (profile["num_rows"], profile["images_per_class"], profile["fingerprint"]) == (120, counts, "f" * 64)
    schema = TensorDatasetSchema.from_dict(json.loads(train.schema))
    assert schema.features.inputs[0].shape == (-1, 32, 32, 3)
    assert not [line for line in messages() if "refuses" in line]


def test_a_user_without_a_name_has_no_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise OSError("no name")

    monkeypatch.setattr("getpass.getuser", fail)
    assert reserved_tags({"git_commit": None, "device": "cpu"}) == {
        "git_commit": None,
        "device": "cpu",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.name": "kcv",
    }


def test_none_keeps_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = open_tracker(TrackingConfig(uri="none"))
    assert isinstance(tracker, NoTracker)
    tracker.start("run", {"a": 1}, {})
    tracker.log_metrics({"a": 1.0}, 1)
    tracker.log_artifacts(tmp_path)
    tracker.finish()
    assert tracker.location is None
    assert list(tmp_path.iterdir()) == []


def test_the_environment_names_the_store_where_the_configuration_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking.example:5000")
    assert open_tracker(TrackingConfig()).location == "http://tracking.example:5000"
    assert open_tracker(TrackingConfig(uri="none")).location is None


def test_a_password_is_never_shown() -> None:
    tracker = open_tracker(TrackingConfig(uri="postgresql://anna:secret@db.example/kcv"))
    assert tracker.location == "postgresql://db.example/kcv"


@pytest.mark.parametrize("uri", ["runs", "file:///tmp/runs", "ftp://x", "http:///x", "sqlite://", "sqlite:///"])
def test_a_uri_of_no_known_kind_is_refused_before_anything_is_written(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"^tracking\.uri: received "):
        open_tracker(TrackingConfig(uri=uri))


def test_a_store_that_cannot_be_used_is_one_line(store: Path, tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("a")
    foreign = sqlite3.connect(tmp_path / "foreign.db")
    foreign.execute("create table alembic_version (version_num text)")
    foreign.execute("insert into alembic_version values ('no_such_revision')")
    foreign.commit()
    foreign.close()
    for uri, part in (
        (f"sqlite:///{tmp_path}/none/mlflow.db", "does not exist"),
        (f"sqlite:///{tmp_path}/text.db", "is not an SQLite database"),
        (f"sqlite:///{tmp_path}", "cannot be read"),
        (f"sqlite:///{tmp_path}/foreign.db", "no_such_revision"),
    ):
        with pytest.raises(TrackingError, match=part) as caught:
            MlflowTracker(uri, "kcv").start("run", {}, {})
        assert "\n" not in str(caught.value)
    assert (tmp_path / "text.db").read_text() == "a"
