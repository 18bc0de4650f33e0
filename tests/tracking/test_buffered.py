"""The tracker with a store that goes and comes back as a test says."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from kcv.errors import TrackingError
from kcv.tracking import BufferedTracker, DataRecord, RunInfo, Store, StoreRejected, StoreUnavailable
from kcv.tracking.outbox import Outbox
from kcv.tracking.sender import _Delivery

Messages = Callable[[], list[str]]
Until = Callable[[Callable[[], object]], None]


class FakeStore(Store):
    """Keeps runs in a dict; `fault` is what it does instead, `lost` forgets to answer once, `gate` makes it slow."""

    location = "http://host:5000"
    remote = True

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.fault: Exception | None = None
        self.lost = False
        self.refused_metric = ""
        self.calls = 0
        self.gate = threading.Event()
        self.gate.set()

    def _call(self) -> None:
        self.calls += 1
        self.gate.wait(60)
        if self.fault is not None:
            raise self.fault

    def _answer(self) -> None:
        if self.lost:
            self.lost = False
            raise StoreUnavailable("the answer was lost")

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        self._call()
        known = run_id or next((found for found, held in self.runs.items() if held["key"] == key), None)
        new = {"name": run.name, "key": key, "params": {}, "tags": {}, "metrics": [], "files": [], "status": "RUNNING"}
        new |= {"data": []}
        held = self.runs.setdefault(known or f"id{len(self.runs)}", new)
        self._answer()
        held["params"] |= run.params
        held["tags"] |= run.tags
        if run.is_resumed:
            held["status"] = "RUNNING"
        return next(found for found in self.runs if self.runs[found] is held)

    def logged_steps(self, run_id: str, metric: str) -> set[int]:
        self._call()
        return {step for step, values, _ in self.runs[run_id]["metrics"] if metric in values}

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        self._call()
        if self.refused_metric in metrics:
            raise StoreRejected("no such name", of_entry=True)
        if (point := (step, metrics, timestamp)) not in self.runs[run_id]["metrics"]:
            self.runs[run_id]["metrics"].append(point)
        self._answer()

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        self._call()
        self.runs[run_id]["files"].append(f"{folder}/{path.name}")

    def log_dataset(self, run_id: str, record: DataRecord) -> None:
        self._call()
        if record not in self.runs[run_id]["data"]:
            self.runs[run_id]["data"].append(record)
        self._answer()

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        self._call()
        self.runs[run_id]["status"] = status

    def points(self, run_id: str = "id0") -> list[tuple[int, float]]:
        return [(step, values["loss"]) for step, values, _ in self.runs[run_id]["metrics"] if "loss" in values]


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    monkeypatch.setattr("kcv.tracking.sender.FIRST_PAUSE", 0.05)
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.3)
    return FakeStore()


def track(store: FakeStore) -> BufferedTracker:
    return BufferedTracker(store, "kcv")


def log(tracker: BufferedTracker, *steps: int) -> None:
    for step in steps:
        tracker.log_metrics({"loss": 1 / step}, step)


def settled() -> bool:
    return not any(thread.name == "kcv-tracking" for thread in threading.enumerate())


def test_all_is_delivered_and_no_outbox_is_left(store: FakeStore, tmp_path: Path, spools: Path) -> None:
    (tmp_path / "run" / "plots").mkdir(parents=True)
    (tmp_path / "run" / "a.txt").write_text("a")
    (tmp_path / "run" / "plots" / "b.png").write_text("b")
    tracker = track(store)
    assert tracker.state_dict() == {"location": store.location, "run": None}
    tracker.start("mine", {"lr": 0.1}, {"device": "cpu"})
    assert tracker.state_dict() == {"location": store.location, "run": "id0"}
    log(tracker, 1, 2)
    tracker.log_artifacts(tmp_path / "run")
    tracker.log_artifacts(tmp_path / "run" / "a.txt")
    tracker.finish()
    tracker.finish("FAILED")
    log(tracker, 3)
    run = store.runs["id0"]
    assert (run["name"], run["params"], run["tags"]) == ("mine", {"lr": "0.1"}, {"device": "cpu"})
    assert store.points() == [(1, 1.0), (2, 0.5)]
    assert run["files"] == ["None/a.txt", "plots/b.png", "None/a.txt"]
    assert run["status"] == "FINISHED"
    assert list(spools.iterdir()) == []


def test_links_and_hidden_files_of_a_run_stay_where_they_are(store: FakeStore, tmp_path: Path) -> None:
    run, secrets = tmp_path / "run", tmp_path / "secrets"
    for folder in (run / "plots", run / ".git", secrets):
        folder.mkdir(parents=True)
    for file in (run / "a.txt", run / ".model.x1y2z3a4.onnx", run / ".git" / "config", secrets / "key"):
        file.write_text("text")
    (run / "key.txt").symlink_to(secrets / "key")
    (run / "folder").symlink_to(secrets)
    (run / "plots" / "b.png").write_text("b")
    tracker = track(store)
    tracker.start("mine", {}, {})
    store.fault = StoreUnavailable("gone")
    tracker.log_artifacts(run)
    shutil.rmtree(run / "plots")
    secrets.joinpath("b.png").write_text("a secret")
    (run / "plots").symlink_to(secrets)  # before its turn has come
    store.fault = None
    tracker.finish()
    assert store.runs["id0"]["files"] == ["None/a.txt"]


def watched(wait: Callable[..., Any], waits: list[object]) -> Callable[..., Any]:
    """Notes the calls of the main thread."""

    def noting(*words: Any, **options: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            waits.append(wait)
        return wait(*words, **options)

    return noting


def test_a_slow_store_is_not_waited_for(store: FakeStore, monkeypatch: pytest.MonkeyPatch, messages: Messages) -> None:
    monkeypatch.setattr("kcv.tracking.buffered.START_SECONDS", 0.1)
    store.gate.clear()
    tracker = track(store)
    tracker.start("slow", {}, {})
    waits: list[object] = []
    with monkeypatch.context() as patch:
        for owner, name in ((threading.Condition, "wait"), (threading.Thread, "join"), (time, "sleep")):
            patch.setattr(owner, name, watched(getattr(owner, name), waits))
        log(tracker, *range(1, 21))
    assert waits == []
    store.gate.set()
    tracker.finish()
    assert len(store.points()) == 20
    assert store.runs["id0"]["status"] == "FINISHED"
    assert "no answer yet; the training goes on" in messages()[0]


def test_what_comes_while_a_store_is_down_is_delivered_when_it_is_back(
    store: FakeStore, messages: Messages, until: Until
) -> None:
    tracker = track(store)
    tracker.start("mine", {}, {})
    log(tracker, 1)
    until(lambda: store.points() == [(1, 1.0)])
    store.fault = StoreUnavailable("gone")
    log(tracker, 2, 3)
    calls = store.calls
    until(lambda: store.calls > calls + 2)
    store.fault = None
    log(tracker, 4)
    until(lambda: len(store.points()) == 4)
    store.lost = True  # it takes the next figures, and its answer is lost
    log(tracker, 5)
    tracker.finish()
    assert [step for step, _ in store.points()] == [1, 2, 3, 4, 5]
    assert messages()[1] == "tracking: http://host:5000 takes entries again"
    assert "gone; the training goes on, and its entries wait in " in messages()[0]


def test_a_store_that_stays_away_gets_all_with_the_next_run(
    store: FakeStore, tmp_path: Path, spools: Path, messages: Messages, until: Until
) -> None:
    files = tmp_path / "files"
    files.mkdir()
    for name in ("kept", "gone"):
        (files / name).write_text(name)
    store.fault = StoreUnavailable("gone")
    tracker = track(store)
    tracker.start("first", {"lr": 1}, {})
    log(tracker, 1, 2)
    tracker.log_artifacts(files)
    tracker.finish("FAILED")
    name = next(spools.iterdir()).stem
    assert tracker.state_dict() == {"location": store.location, "run": name}
    assert messages()[-1] == (
        f"tracking: 6 entries for http://host:5000 wait in {spools / name}.jsonl; "
        "the next run with this store delivers them"
    )
    until(settled)
    (files / "gone").unlink()
    store.fault = None
    other = track(store)
    other.start("second", {}, {})
    other.finish()
    first = next(run for run in store.runs.values() if run["name"] == "first")
    assert (first["params"], first["status"], first["files"]) == ({"lr": "1"}, "FAILED", ["None/kept"])
    assert [step for step, _, _ in first["metrics"]] == [1, 2]
    assert all(timestamp <= time.time() * 1000 for _, _, timestamp in first["metrics"])
    assert [line for line in messages() if "1 files of the run first are gone" in line]
    assert list(spools.iterdir()) == []


def record(split: str) -> DataRecord:
    return DataRecord("photos", split, f"{split:0>32}", "/photos", "path", 10, 32, "f" * 64, {"a": 4, "b": 6})


def test_data_sets_and_configuration_wait_for_a_store_that_is_away(
    store: FakeStore, tmp_path: Path, spools: Path, until: Until
) -> None:
    (tmp_path / "config.yaml").write_text("seed: 1")
    records = [record(split) for split in ("train", "val", "test")]
    store.fault = StoreUnavailable("gone")
    tracker = track(store)
    tracker.start("killed", {}, {})
    tracker.log_datasets(records)
    tracker.log_artifacts(tmp_path / "config.yaml")
    tracker._sender.stop(60)  # type: ignore[union-attr]  # as when the process is killed
    until(settled)
    assert store.runs == {}
    store.fault = None
    following = track(store)
    following.start("next", {}, {})
    following.finish()
    killed = next(run for run in store.runs.values() if run["name"] == "killed")
    assert (killed["data"], killed["files"], killed["status"]) == (records, ["None/config.yaml"], "KILLED")
    assert list(spools.iterdir()) == []


def test_a_data_set_is_kept_once_though_the_answer_was_lost(store: FakeStore, until: Until) -> None:
    tracker = track(store)
    tracker.start("mine", {}, {})
    store.lost = True
    tracker.log_datasets([record("train")])
    log(tracker, 1)
    tracker.finish()
    assert store.runs["id0"]["data"] == [record("train")]
    assert store.points() == [(1, 1.0)]


def test_a_run_is_made_once_though_the_answer_was_lost(store: FakeStore) -> None:
    store.lost = True
    tracker = track(store)
    tracker.start("mine", {}, {})
    log(tracker, 1)
    tracker.finish()
    assert [run["name"] for run in store.runs.values()] == ["mine"]
    assert store.points() == [(1, 1.0)]


def test_a_refusal_that_takes_its_time_is_told(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, messages: Messages, until: Until, spools: Path
) -> None:
    monkeypatch.setattr("kcv.tracking.buffered.START_SECONDS", 0.05)
    store.gate.clear()
    store.fault = StoreRejected("forbidden", of_entry=False)
    tracker = track(store)
    tracker.start("mine", {}, {})
    store.gate.set()
    until(lambda: len(messages()) == 2)
    tracker.finish()
    assert "http://host:5000: no answer yet; the training goes on" in messages()[0]
    assert "http://host:5000: forbidden; the training goes on" in messages()[1]
    assert "2 entries for http://host:5000 wait in" in messages()[2]
    assert len(list(spools.glob("*.jsonl"))) == 1


def test_a_person_who_stops_waiting_for_the_start_leaves_nothing(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, spools: Path
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("kcv.tracking.sender.Sender.wait_for_answer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        track(store).start("mine", {}, {})
    assert list(spools.iterdir()) == []


@pytest.mark.parametrize("kind", [StoreUnavailable, StoreRejected])
def test_what_is_left_over_and_not_taken_stays_and_is_told(
    store: FakeStore, messages: Messages, spools: Path, monkeypatch: pytest.MonkeyPatch, until: Until, kind: type
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.LONGEST_PAUSE", 0.05)
    header = {"kind": "run", "location": store.location, "experiment": "deleted", "name": "old", "time": 1}
    Outbox.create(spools, {**header, "params": {}, "tags": {}, "run_id": None, "continues": None}).close()
    open_run = store.open_run

    def open_or_fail(run: RunInfo, key: str, run_id: str | None) -> str:
        if run.experiment == "deleted":
            reason = "the experiment is deleted there"
            raise StoreRejected(reason, of_entry=False) if kind is StoreRejected else StoreUnavailable(reason)
        return open_run(run, key, run_id)

    monkeypatch.setattr(store, "open_run", open_or_fail)
    tracker = track(store)
    tracker.start("mine", {}, {})
    until(lambda: "does not take" in "".join(messages()))
    log(tracker, 1)
    tracker.finish()
    (left,) = spools.glob("*.jsonl")
    line = f"tracking: http://host:5000 does not take the run of {left}, which stays there: "
    assert f"{line}the experiment is deleted there" in messages()
    assert store.points() == [(1, 1.0)]


@pytest.mark.parametrize("of_entry", [True, False])
def test_a_refusal_at_the_start_is_an_error_and_leaves_nothing(store: FakeStore, spools: Path, of_entry: bool) -> None:
    store.fault = StoreRejected("forbidden", of_entry=of_entry)
    tracker = track(store)
    with pytest.raises(TrackingError, match=r"^tracking\.uri: cannot use http://host:5000 .*: forbidden\. Give "):
        tracker.start("mine", {}, {})
    tracker.finish()
    assert list(spools.iterdir()) == []


def test_a_refusal_later_costs_what_is_refused_and_no_more(store: FakeStore, messages: Messages, until: Until) -> None:
    tracker = track(store)
    tracker.start("mine", {}, {})
    store.refused_metric = "bad"
    tracker.log_metrics({"bad": 1.0}, 1)
    tracker.log_metrics({"bad": 1.0}, 2)
    log(tracker, 3)
    until(lambda: store.points())
    store.fault = StoreRejected("the token has expired", of_entry=False)
    log(tracker, 4)
    calls = store.calls
    until(lambda: store.calls > calls + 1)
    store.fault = None
    tracker.finish()
    assert [step for step, _ in store.points()] == [3, 4]
    assert len([line for line in messages() if "refuses an entry" in line]) == 1


def test_a_run_is_continued_by_its_id_without_doubling_steps(store: FakeStore) -> None:
    first = track(store)
    first.start("mine", {"epochs": 2}, {})
    log(first, 1, 2)
    first.log_metrics({"test_accuracy": 0.5}, 2)
    first.finish("KILLED")
    second = track(store)
    second.load_state_dict(first.state_dict())
    second.start("mine", {}, {})
    assert (second.state_dict()["run"], store.runs["id0"]["status"]) == ("id0", "RUNNING")
    log(second, 2, 3)
    second.log_metrics({"other": 0.5}, 2)
    second.finish()
    assert len(store.runs) == 1
    assert [step for step, _ in store.points()] == [1, 2, 3]
    assert [step for step, values, _ in store.runs["id0"]["metrics"] if "other" in values] == [2]
    assert store.runs["id0"]["status"] == "FINISHED"


def test_a_run_that_no_store_has_seen_is_continued_by_its_outbox(store: FakeStore, until: Until) -> None:
    store.fault = StoreUnavailable("gone")
    names: list[str | None] = []
    for steps in ((1, 2), (2, 3)):
        tracker = track(store)
        if names:
            tracker.load_state_dict({"location": store.location, "run": names[-1]})
        tracker.start("mine", {}, {})
        names.append(tracker.state_dict()["run"])
        log(tracker, *steps)
        tracker.finish("KILLED")
        until(settled)
    assert names[0] == names[1]
    store.fault = None
    last = track(store)
    last.load_state_dict({"location": store.location, "run": names[0]})
    last.start("mine", {}, {})
    log(last, 3, 4)
    last.finish()
    assert len(store.runs) == 1
    assert [step for step, _ in store.points()] == [1, 2, 3, 4]
    assert store.runs["id0"]["status"] == "FINISHED"


def test_a_run_whose_outbox_is_in_use_is_continued_when_that_is_free(
    store: FakeStore, spools: Path, messages: Messages, until: Until
) -> None:
    header = {"kind": "run", "location": store.location, "experiment": "kcv", "name": "mine", "time": 1}
    outbox = Outbox.create(spools, {**header, "params": {}, "tags": {}, "run_id": None, "continues": None})
    outbox.append({"kind": "metrics", "values": {"loss": 1.0}, "step": 1, "time": 2})
    tracker = track(store)
    tracker.load_state_dict({"location": store.location, "run": outbox.name})
    tracker.start("mine", {}, {})
    log(tracker, 2)
    assert f"the run to continue waits in {outbox.name}, which is in use" in messages()[0]
    assert store.runs == {}
    outbox.close()
    until(lambda: tracker.state_dict()["run"] == "id0")
    tracker.finish()
    assert len(store.runs) == 1
    assert store.points() == [(1, 1.0), (2, 0.5)]


def test_a_run_whose_process_was_killed_is_closed_by_the_next(store: FakeStore, spools: Path) -> None:
    header = {"kind": "run", "location": store.location, "experiment": "kcv", "name": "dead", "time": 1}
    outbox = Outbox.create(spools, {**header, "params": {}, "tags": {}, "run_id": None, "continues": None})
    outbox.append({"kind": "metrics", "values": {"loss": 1.0}, "step": 1, "time": 2})
    run = RunInfo.parse(outbox.header)
    assert run is not None
    _Delivery(store, outbox, run).send_next()
    outbox.close()  # as the system does when a process dies
    tracker = track(store)
    tracker.start("next", {}, {})
    tracker.finish()
    assert [(run["name"], run["status"]) for run in store.runs.values()] == [("dead", "KILLED"), ("next", "FINISHED")]
    assert store.points("id0") == [(1, 1.0)]


def test_a_cache_that_cannot_be_written_costs_only_what_is_not_delivered(
    store: FakeStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: Messages
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KCV_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tracker = track(store)
    tracker.start("mine", {}, {})
    log(tracker, 1)
    tracker.finish()
    assert store.points() == [(1, 1.0)]
    assert "what the store has not taken when this run ends is lost" in messages()[0]
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_what_is_damaged_of_earlier_runs_costs_the_next_one_nothing(
    store: FakeStore, spools: Path, messages: Messages
) -> None:
    sound = {"kind": "run", "location": store.location, "experiment": "kcv", "name": "old", "time": 1, "params": {}}
    sound |= {"tags": {}, "run_id": None, "continues": None}
    headers: list[dict[str, Any]] = [
        {"time": "x"},
        {"time": None},
        {"name": 3},
        {"params": [1]},
        {"params": {"a": [1]}},
    ]
    headers += [{"tags": None}, {"run_id": 5}, {"continues": ["a"]}, {"experiment": {}}, {"kind": "end"}]
    for number, damage in enumerate(headers):
        Outbox.create(
            spools, {**sound, **damage, "name": str(number)} if "name" not in damage else sound | damage
        ).close()
    entries: list[Any] = [
        {"kind": "metrics", "values": [1], "step": 1, "time": 2},
        {"kind": "metrics", "values": {"loss": 1.0}, "step": "x", "time": 2},
        {"kind": "artifact", "path": 0, "folder": None},
        {"kind": "artifact", "path": "a\0b", "folder": None},
        {"kind": "artifact", "path": "x", "folder": 7},
        {"kind": "end", "status": 3, "time": 4},
        {"kind": ["metrics"]},
        {"kind": "dataset"},
        {**record("train").entry(), "images": "10"},
        {**record("train").entry(), "classes": {"a": "4"}},
    ]
    for entry in entries:
        outbox = Outbox.create(spools, sound)
        outbox.append(entry)
        outbox.close()
    tracker = track(store)
    tracker.start("mine", {}, {})
    log(tracker, 1)
    tracker.finish()
    mine = [run for run in store.runs.values() if run["name"] == "mine"]
    assert [run["status"] for run in mine] == ["FINISHED"]
    assert len(mine[0]["metrics"]) == 1
    assert not [line for line in messages() if "tracking stopped" in line]
    assert list(spools.glob("*.jsonl")) == []
    assert len(list(spools.glob("*.damaged"))) == len(headers)
    assert len([line for line in messages() if "is damaged, and was put away" in line]) == len(headers)


def test_a_fault_in_what_an_earlier_run_has_left_puts_it_away(
    store: FakeStore, spools: Path, messages: Messages, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = {"kind": "run", "location": store.location, "experiment": "kcv", "name": "old", "time": 1}
    Outbox.create(spools, {**header, "params": {}, "tags": {}, "run_id": None, "continues": None}).close()
    finalize = _Delivery.finalize

    def fail(delivery: _Delivery) -> None:
        if delivery.outbox.header["name"] == "old":
            raise KeyError("what nobody thought of")
        finalize(delivery)

    monkeypatch.setattr(_Delivery, "finalize", fail)
    tracker = track(store)
    tracker.start("mine", {}, {})
    tracker.finish()
    assert [line for line in messages() if "put away" in line]
    assert [run["status"] for run in store.runs.values() if run["name"] == "mine"] == ["FINISHED"]
