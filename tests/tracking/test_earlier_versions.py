"""Outboxes as the first release wrote them, which still lie in the caches of users, are sent."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from kcv.tracking import BufferedTracker, RunInfo, Store, StoreUnavailable

LOCATION = "http://host:5000"

NEVER_SEEN = """\
{"version": 1, "kind": "run", "location": "http://host:5000", "experiment": "kcv", "name": "first", "params": \
{"optim.lr": "0.1", "model.name": "custom_cnn"}, "tags": {"device": "cpu"}, "time": 1795667239902, "run_id": null, \
"continues": null}
{"kind": "metrics", "values": {"loss": 1.0, "val_accuracy": 0.25}, "step": 1, "time": 1795667239929}
{"kind": "metrics", "values": {"loss": 0.5, "val_accuracy": 0.5}, "step": 2, "time": 1795667239929}
{"kind": "artifact", "path": "FOLDER/model.keras", "folder": null}
{"kind": "artifact", "path": "FOLDER/plots/curve.png", "folder": "plots"}
{"kind": "end", "status": "FAILED", "time": 1795667239930}
"""
"""The server was away all the time."""

HALF_SENT = """\
{"version": 1, "kind": "run", "location": "http://host:5000", "experiment": "kcv", "name": "begun", "params": \
{"optim.lr": "0.1", "model.name": "custom_cnn"}, "tags": {"device": "cpu"}, "time": 1795667240457, "run_id": null, \
"continues": null}
{"kind": "metrics", "values": {"loss": 1.0, "val_accuracy": 0.25}, "step": 1, "time": 1795667240519}
{"kind": "metrics", "values": {"loss": 0.5, "val_accuracy": 0.5}, "step": 2, "time": 1795667240519}
{"kind": "artifact", "path": "FOLDER/model.keras", "folder": null}
{"kind": "artifact", "path": "FOLDER/plots/curve.png", "folder": "plots"}
{"kind": "end", "status": "FAILED", "time": 1795667240519}
"""
CURSOR = """\
{
  "offset": 345,
  "delivered": 2,
  "run_id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
}
"""
"""It went away after the first figures."""


class Notes(Store):
    """Writes down each call."""

    location = LOCATION

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.fault: Exception | None = None

    def open_run(self, run: RunInfo, key: str, run_id: str | None) -> str:
        if self.fault is not None:
            raise self.fault
        self.calls.append(("open", run.name, key, run_id, run.params, run.tags, run.time))
        return run_id or f"id of {run.name}"

    def log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int, timestamp: int) -> None:
        self.calls.append(("metrics", run_id, metrics, step, timestamp))

    def log_artifact(self, run_id: str, path: Path, folder: str | None) -> None:
        self.calls.append(("artifact", run_id, path.name, folder))

    def end_run(self, run_id: str, status: str, timestamp: int) -> None:
        self.calls.append(("end", run_id, status, timestamp))


def send(folder: Path, store: Notes, run: str | None = None) -> list[tuple[Any, ...]]:
    """Returns what the service gets that is not of the run that sends."""
    (folder / "plots").mkdir()
    (folder / "model.keras").write_bytes(b"model")
    (folder / "plots" / "curve.png").write_bytes(b"png")
    tracker = BufferedTracker(store, "kcv")
    tracker.load_state_dict({"location": LOCATION, "run": run})
    tracker.start("mine", {}, {})
    own = tracker.state_dict()["run"]
    tracker.finish()
    return [call for call in store.calls if call[1] not in ("mine", own)]


def test_an_outbox_that_no_server_has_seen_is_sent(tmp_path: Path, spools: Path) -> None:
    spools.mkdir(parents=True)
    (spools / "spool-874bd8eefd56f8c2.jsonl").write_text(NEVER_SEEN.replace("FOLDER", str(tmp_path)))
    params, tags = {"optim.lr": "0.1", "model.name": "custom_cnn"}, {"device": "cpu"}
    assert send(tmp_path, Notes()) == [
        ("open", "first", "spool-874bd8eefd56f8c2", None, params, tags, 1795667239902),
        ("metrics", "id of first", {"loss": 1.0, "val_accuracy": 0.25}, 1, 1795667239929),
        ("metrics", "id of first", {"loss": 0.5, "val_accuracy": 0.5}, 2, 1795667239929),
        ("artifact", "id of first", "model.keras", None),
        ("artifact", "id of first", "curve.png", "plots"),
        ("end", "id of first", "FAILED", 1795667239930),
    ]
    assert list(spools.iterdir()) == []


def test_an_outbox_that_was_half_sent_goes_on_where_it_was(tmp_path: Path, spools: Path) -> None:
    spools.mkdir(parents=True)
    (spools / "spool-bd15730ca92b2e7d.jsonl").write_text(HALF_SENT.replace("FOLDER", str(tmp_path)))
    (spools / "spool-bd15730ca92b2e7d.cursor").write_text(CURSOR)
    assert send(tmp_path, Notes()) == [
        ("metrics", "a" * 32, {"loss": 0.5, "val_accuracy": 0.5}, 2, 1795667240519),
        ("artifact", "a" * 32, "model.keras", None),
        ("artifact", "a" * 32, "curve.png", "plots"),
        ("end", "a" * 32, "FAILED", 1795667240519),
    ]
    assert list(spools.iterdir()) == []


def test_a_run_of_an_earlier_outbox_goes_on_after_what_that_holds(tmp_path: Path, spools: Path) -> None:
    spools.mkdir(parents=True)
    (spools / "spool-874bd8eefd56f8c2.jsonl").write_text(NEVER_SEEN.replace("FOLDER", str(tmp_path)))
    store = Notes()
    send(tmp_path, store, run="spool-874bd8eefd56f8c2")
    opened = [(call[1], call[2]) for call in store.calls if call[0] == "open"]
    assert opened == [("first", "spool-874bd8eefd56f8c2"), ("mine", "spool-874bd8eefd56f8c2")]
    assert [call[0] for call in store.calls] == ["open", "metrics", "metrics", "artifact", "artifact", "open", "end"]


def test_what_is_written_today_is_what_the_first_release_can_read(
    tmp_path: Path, spools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kcv.tracking.sender.SILENT_SECONDS", 0.1)
    store = Notes()
    store.fault = StoreUnavailable("gone")
    send(tmp_path, store)
    (file,) = spools.glob("spool-*.jsonl")
    written, then = ([json.loads(line) for line in text.splitlines()] for text in (file.read_text(), HALF_SENT))
    assert written[0].keys() == then[0].keys()
    assert written[-1].keys() == then[-1].keys()
