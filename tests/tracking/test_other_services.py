"""What a tracker costs that is none of kcv's: a class of a few methods, in one file."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import kcv
from kcv.config import Config, TrackingConfig
from kcv.errors import TrackingError
from kcv.tracking import (
    BufferedTracker,
    DataRecord,
    RunInfo,
    Store,
    StoreRejected,
    StoreUnavailable,
    Tracker,
    open_tracker,
    register_tracker,
)

Configure = Callable[..., Config]

BOARDS: dict[str, dict[str, Any]] = {}
"""What the service holds: runs by their id."""


class Service:
    """Is down for the calls of `down`, counted from 1."""

    calls = 0
    down: frozenset[int] = frozenset()

    def call(self) -> None:
        self.calls += 1
        if self.calls in self.down:
            raise ConnectionError("nobody there")


SERVICE = Service()


class BoardStore(Store):
    """All that a tracker of a service like W&B has to write."""

    def __init__(self, uri: str) -> None:
        self.location = uri

    def _call(self) -> None:
        try:
            SERVICE.call()
        except ConnectionError as error:
            raise StoreUnavailable(str(error)) from error

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        self._call()
        if run.experiment == "closed":
            raise StoreRejected("the experiment is closed", of_entry=False)
        new = {"name": run.name, "params": run.params, "points": {}, "files": [], "data": [], "status": None}
        BOARDS.setdefault(run_id or key, new)["status"] = "RUNNING"
        return run_id or key

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        self._call()
        for name, value in metrics.items():
            BOARDS[run_id]["points"].setdefault(name, {})[step] = value

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        self._call()
        BOARDS[run_id]["files"].append(f"{folder}/{path.name}" if folder else path.name)

    def log_dataset(self, run_id: str, record: DataRecord) -> None:
        self._call()
        if record not in BOARDS[run_id]["data"]:
            BOARDS[run_id]["data"].append(record)

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        self._call()
        BOARDS[run_id]["status"] = status


@pytest.fixture(autouse=True)
def _board(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers it for one test."""
    open_tracker(TrackingConfig(uri="none"))
    monkeypatch.setattr("kcv.tracking.tracker._factories", dict(kcv.tracking.tracker._factories))
    monkeypatch.setattr("kcv.tracking.tracker._forms", list(kcv.tracking.tracker._forms))
    monkeypatch.setattr("kcv.tracking.sender.FIRST_PAUSE", 0.05)
    monkeypatch.setattr(SERVICE, "calls", 0)
    monkeypatch.setattr(SERVICE, "down", frozenset())
    BOARDS.clear()

    @register_tracker("board", form="board:PROJECT")
    def open_board(config: TrackingConfig) -> Tracker:
        return BufferedTracker(BoardStore(str(config.uri)), config.experiment)


@pytest.mark.full
def test_a_registered_tracker_loses_nothing_while_its_service_is_down(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, spools: Path, tmp_path: Path
) -> None:
    log_metrics = BufferedTracker.log_metrics

    def interrupt(tracker: BufferedTracker, metrics: Mapping[str, float], step: int) -> None:
        log_metrics(tracker, metrics, step)
        raise KeyboardInterrupt

    # Down at the start, and cut short after an epoch.
    monkeypatch.setattr(SERVICE, "down", frozenset((1, 2, 3, 5)))
    config = configure(tracking="board:mine", output_dir=str(tmp_path / "cut"), **{"train.checkpoint_seconds": 0})
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(BufferedTracker, "log_metrics", interrupt)
        kcv.train(config)
    ((name, board),) = BOARDS.items()
    assert (board["name"], board["status"], list(board["points"]["val_loss"])) == ("cut", "KILLED", [1])
    recorded = json.loads((tmp_path / "cut" / "resume" / "run.json").read_text())["tracking"]
    assert recorded == {"location": "board:mine", "run": name}

    # Down in the middle, and again while the files are sent.
    monkeypatch.setattr(SERVICE, "calls", 0)
    monkeypatch.setattr(SERVICE, "down", frozenset((2, 3, 4, 6, 9, 10)))
    run = kcv.train(resume=tmp_path / "cut")
    assert run.tracking == "board:mine"
    assert list(BOARDS) == [name]
    assert board["status"] == "FINISHED"
    assert board["params"]["optim.lr"] == "0.003"
    assert board["points"]["val_loss"] == {int(row["epoch"]): row["val_loss"] for row in run.history}
    assert board["points"]["test_accuracy"] == {run.best_epoch: run.metrics["accuracy"]}
    sent = [str(path.relative_to(run.directory)) for path in run.directory.rglob("*") if path.is_file()]
    begin = ["config.yaml", "environment.json"]  # when it began, and when it was resumed
    assert sorted(board["files"]) == sorted([*sent, *begin, *begin])
    assert [record.split for record in board["data"]] == ["train", "val", "test"]
    assert list(spools.iterdir()) == []
    assert SERVICE.calls > 10


def test_what_a_service_refuses_at_the_start_is_an_error_before_there_is_a_run(
    configure: Configure, tmp_path: Path
) -> None:
    with pytest.raises(TrackingError, match="cannot use board:mine as a tracking store: the experiment is closed"):
        kcv.train(configure(tracking="board:mine", **{"tracking.experiment": "closed"}))
    assert not (tmp_path / "run").exists()


def test_an_unknown_kind_is_told_which_there_are() -> None:
    with pytest.raises(TrackingError, match=r"received 'bord:mine', allowed: sqlite:///FILE, .*, board:PROJECT, none"):
        open_tracker(TrackingConfig(uri="bord:mine"))


def test_a_tracker_may_override_what_it_records_and_no_more() -> None:
    seen: list[int] = []

    class Steps(Tracker):
        def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
            seen.append(step)

    tracker = Steps()
    tracker.load_state_dict({"location": None, "run": "x"})
    tracker.start("run", {}, {})
    tracker.log_metrics({"loss": 1.0}, 1)
    tracker.log_artifacts(Path("nowhere"))
    tracker.finish()
    assert (seen, tracker.state_dict()) == ([1], {"location": None, "run": None})
    assert not [thread for thread in threading.enumerate() if thread.name == "kcv-tracking"]
