"""The tracker with a real MLflow server that is killed and started again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_server import Server

from kcv.errors import TrackingError
from kcv.tracking import DataRecord, MlflowTracker

Messages = Callable[[], list[str]]
Until = Callable[[Callable[[], object]], None]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.kill()


def record(split: str) -> DataRecord:
    return DataRecord("photos", split, f"{split:0>16}", "/photos", "path", 10, 32, "f" * 64, {"a": 4, "b": 6})


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # the test reads through MLflow's client itself
def test_a_server_that_comes_and_goes_has_everything_once(
    server: Server,
    tmp_path: Path,
    spools: Path,
    messages: Messages,
    until: Until,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 1.0)
    monkeypatch.setattr("kcv.tracking.sender.LONGEST_PAUSE", 1.0)
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "model.keras").write_bytes(b"model" * 1000)
    (tmp_path / "run" / "plots" / "a.png").write_bytes(b"png")

    # Down at the start and all the time: everything waits.
    early = MlflowTracker(server.uri.replace("//", "//anna:secret@"), "mine")
    early.start("early", {"lr": 0.1}, {"device": "cpu", "git_commit": "4fe2" * 10})
    early.log_datasets([record("train"), record("val")])
    for step in (1, 2, 3):
        early.log_metrics({"loss": 1 / step}, step)
    early.finish("FAILED")
    assert str(early.state_dict()["run"]).startswith("spool-")
    assert "7 entries for http://127.0.0.1:" in messages()[-1]
    assert "the next run with this store delivers them" in messages()[-1]
    assert "secret" not in "".join(messages()) + next(spools.glob("*.jsonl")).read_text()
    until(lambda: not any(thread.name == "kcv-tracking" for thread in threading.enumerate()))

    # The next run delivers it, loses the server in the middle, and gets it back.
    server.start()
    tracker = MlflowTracker(server.uri, "mine")
    tracker.start("late", {f"key.{n}": n for n in range(150)}, {"device": "gpu"})
    for step in range(1, 11):
        tracker.log_metrics({"loss": 1 / step, "accuracy": step / 20}, step)
    until(lambda: not str(tracker.state_dict()["run"]).startswith("spool-"))
    server.kill()
    for step in range(11, 21):
        tracker.log_metrics({"loss": 1 / step, "accuracy": step / 20}, step)
    tracker.log_datasets([record("train"), record("test")])
    tracker.log_artifacts(tmp_path / "run")
    until(lambda: "no answer from the server" in messages()[-1])
    server.start()
    tracker.finish()
    assert list(spools.iterdir()) == []
    assert capfd.readouterr().out == ""

    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=server.uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment is not None
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert len(client.search_runs([experiment.experiment_id])) == len(runs) == 2
    for name, status, device, last in (("early", "FAILED", "cpu", 3), ("late", "FINISHED", "gpu", 20)):
        run = runs[name]
        assert (run.info.status, run.data.tags["device"]) == (status, device)
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(point.step, point.value) for point in history] == [(n, 1 / n) for n in range(1, last + 1)]
        assert [point.timestamp for point in history] == sorted(point.timestamp for point in history)
        assert run.info.start_time <= history[0].timestamp <= run.info.end_time
    for name, splits in (("early", ["train", "val"]), ("late", ["test", "train"])):
        inputs = runs[name].inputs.dataset_inputs
        assert sorted(one.tags[0].value for one in inputs) == splits
        assert {one.dataset.digest for one in inputs} == {record(split).digest for split in splits}
    assert runs["early"].data.tags["mlflow.source.git.commit"] == "4fe2" * 10
    assert runs["early"].data.params == {"lr": "0.1"}
    assert runs["late"].data.params == {f"key.{n}": str(n) for n in range(150)}
    late = runs["late"].info.run_id
    assert tracker.state_dict() == {"location": server.uri, "run": late}
    assert [entry.path for entry in client.list_artifacts(late)] == ["model.keras", "plots"]
    assert [entry.path for entry in client.list_artifacts(late, "plots")] == ["plots/a.png"]

    # It goes on where it was; steps that it holds are not added again.
    resumed = MlflowTracker(server.uri, "mine")
    resumed.load_state_dict(tracker.state_dict())
    resumed.start("late", {"key.0": "changed", "new": 1}, {"device": "cpu"})
    assert client.get_run(late).info.status == "RUNNING"
    resumed.log_metrics({"loss": 9.0}, 20)
    resumed.log_metrics({"loss": 1 / 21}, 21)
    resumed.finish()
    assert [point.step for point in client.get_metric_history(late, "loss")] == list(range(1, 22))
    run = client.get_run(late)
    assert (run.info.status, run.data.params["key.0"], run.data.params["new"]) == ("FINISHED", "0", "1")

    # What a server refuses at the start is still an error.
    client.delete_experiment(experiment.experiment_id)
    with pytest.raises(TrackingError, match="the experiment 'mine' is deleted there"):
        MlflowTracker(server.uri, "mine").start("refused", {}, {})
    unknown = MlflowTracker(server.uri, "other")
    unknown.load_state_dict({"location": server.uri, "run": "0" * 32})
    with pytest.raises(TrackingError, match="cannot use"):
        unknown.start("refused", {}, {})
    with pytest.raises(TrackingError, match="cannot use"):
        MlflowTracker(f"{server.uri}/nowhere", "other").start("refused", {}, {})
    assert list(spools.iterdir()) == []
